"""How long until training trains, where that goes, and what imports take.

    python -m experiments.benchmarks.startup

`python -m tweedie_diffusion.main` in processes of its own, from the call to the end of the first step: with an empty
cache of compiled programs, and with the one that it left. They take turns, and are ended after that step.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags

from experiments.benchmarks.starts import PHASES, Start, start
from experiments.benchmarks.turns import in_turns, ratio, spread
from experiments.report import provenance_lines
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError

AIMS = {"empty cache": 45, "full cache": 12}  # seconds on two cores
IMPORTS = """
import time
marks = [time.perf_counter()]
import jax
marks.append(time.perf_counter())
import tweedie_diffusion
marks.append(time.perf_counter())
import tweedie_diffusion.training.loop
marks.append(time.perf_counter())
print(*(after - before for before, after in zip(marks, marks[1:])))
"""
IMPORTED = ("jax", "tweedie_diffusion, after jax", "what trains, after both")
SLOWEST = 4  # programs that are named

_CONFIG = flags.DEFINE_string("config", "configs/digits_noisy.py", "Of the training.")
_TURNS = flags.DEFINE_integer("turns", 3, "Of each kind; the median counts. One more warms up.", lower_bound=1)


def starts(config: str) -> dict[str, list[Start]]:
    """The starts with each kind of cache, in turns."""
    found: dict[str, list[Start]] = {kind: [] for kind in AIMS}
    with tempfile.TemporaryDirectory() as caches:

        def run(kind):
            turn = len(found["empty cache"]) - (kind == "full cache")
            found[kind].append(start(config, Path(caches) / str(turn)))
            return found[kind][-1].seconds

        in_turns({kind: lambda kind=kind: run(kind) for kind in AIMS}, turns=_TURNS.value)
    return {kind: those[1:] for kind, those in found.items()}


def report_starts(found: dict[str, list[Start]]) -> None:
    """Print how long each kind takes, and where the time goes."""
    first = [one.seconds for one in found["empty cache"]]
    print(
        "\n| until the first step is done | median, s | from, to | ratio | aim on 2 cores, s |\n|---|---|---|---|---|"
    )
    for kind, those in found.items():
        seconds = [one.seconds for one in those]
        print(f"| {kind} | {spread(seconds)} | {ratio(seconds, first):.2f} | {AIMS[kind]} |")
    print("\n| of that, s | empty cache | full cache | ratio |\n|---|---|---|---|")
    cold, warm = (those for those in found.values())
    for phase in PHASES:
        _line(phase, *([one.phases.get(phase, 0.0) for one in those] for those in (cold, warm)))
    count = len(cold[0].compiled)
    _line(f"all {count} compilations", *([sum(one.compiled.values()) for one in those] for those in (cold, warm)))
    for name in sorted(cold[0].compiled, key=lambda name: -cold[0].compiled[name])[:SLOWEST]:
        _line(f"of them {name}", *([one.compiled.get(name, 0.0) for one in those] for those in (cold, warm)))


def _line(what: str, cold: list[float], warm: list[float]) -> None:
    shown = f"{ratio(warm, cold):.2f}" if all(cold) else ""
    print(f"| {what} | {statistics.median(cold):.2f} | {statistics.median(warm):.2f} | {shown} |")


def report_imports() -> None:
    """Print what imports take."""
    found = []
    for _ in range(2 * _TURNS.value + 1):
        said = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True).stdout
        found.append([float(seconds) for seconds in said.split()])
    print("\n| import | median, s | from, to |\n|---|---|---|")
    for name, seconds in zip(IMPORTED, zip(*found[1:], strict=True), strict=True):
        print(f"| {name} | {spread(list(seconds))} |")


def main(arguments: list[str]) -> None:
    """Print the tables; JAX comes last here, so that those who train have the accelerator."""
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are --config, --turns")
    found = starts(_CONFIG.value)
    report_starts(found)
    report_imports()
    print(f"\n{provenance_lines()}")


if __name__ == "__main__":
    program.run(main)
