"""The list of faults: number -> (what it is, how it is injected)."""

from collections.abc import Callable
from pathlib import Path

from experiments.faults import processes
from experiments.faults.runs import Outcome

ROWS: dict[int, tuple[str, Callable[[Path], Outcome]]] = {
    1: ("kill -9 at random", processes.killed_at_random),
    3: ("SIGTERM and SIGINT anywhere", processes.stopped_by_signals),
    12: ("the run ends right after a save", processes.ended_after_a_save),
    13: ("two writers in one workdir", processes.two_writers),
}
