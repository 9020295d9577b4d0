"""What the lines of metrics.jsonl say of a training's time, and its end after enough of them."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import NamedTuple


class Interval(NamedTuple):
    """From one line to the next: steps and images a second, and the part of the time spent waiting for batches."""

    steps_per_second: float
    images_per_second: float
    data_wait: float


def intervals(metrics: Path) -> list[Interval]:
    """Of all lines with a speed but the first, in which the step is compiled and the first batches are made."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [Interval(*(line[name] for name in Interval._fields)) for line in lines if "data_wait" in line][1:]


def stop_after(metrics: Path, lines: int) -> None:
    """Ask this process to stop, as Ctrl-C does, once the training that it begins now has written so many lines."""

    def watch():
        while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()
