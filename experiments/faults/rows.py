"""The list of faults: number -> (what it is, how it is injected)."""

from collections.abc import Callable
from pathlib import Path

from experiments.faults import processes
from experiments.faults.runs import Outcome

ROWS: dict[int, tuple[str, Callable[[Path], Outcome]]] = {
    1: ("kill -9 at random", processes.killed_at_random),
}
