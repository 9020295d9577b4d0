"""Faults 1 to 4, 12, 13, 25: processes that die, are told to stop, or are two."""

import random
import time
from pathlib import Path

from experiments.faults.runs import Outcome, leftovers, outcome, run, same_run, started, training

KILLS = 50


def killed_at_random(scratch: Path) -> Outcome:
    """kill -9 at a random moment of each start, compilation and saving included, until the run is done; then again."""
    reference = scratch / "reference"
    begun = time.monotonic()
    run(training(reference))
    length = time.monotonic() - begun
    rng, checks, kills, number = random.Random(0), [], 0, 0
    while kills < KILLS:
        number += 1
        workdir = scratch / f"run {number}"
        while True:
            with started(training(workdir)) as process:
                try:
                    process.communicate(timeout=rng.uniform(0.1, 0.8) * length)
                    break
                except TimeoutError:
                    kills += 1
        checks.append(same_run(reference, workdir))
        checks.append(not leftovers(workdir) or str(leftovers(workdir)))
    return outcome(checks, f"{kills} kills of {number} runs")
