"""The list of faults: number -> (what it is, how it is injected)."""

from collections.abc import Callable
from pathlib import Path

from experiments.faults import hosts, processes
from experiments.faults.runs import Outcome

ROWS: dict[int, tuple[str, Callable[[Path], Outcome]]] = {
    1: ("kill -9 at random", processes.killed_at_random),
    4: ("SIGTERM at one of two hosts", hosts.stopped_at_one_of_two),
    24: ("other device count", hosts.other_devices),
    25: ("host lost, hung or late", hosts.lost_or_late),
}
