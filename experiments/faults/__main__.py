"""Inject every fault of the list and count what was lost.

    python -m experiments.faults                 # all, some half an hour on two cores
    python -m experiments.faults --rows=1,5      # some

Prints `fault | tried | survived | lost`, and last `lost: 0`; a fault that was not run counts as lost.
"""

import signal
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from absl import flags

from experiments.faults.rows import ROWS
from experiments.faults.runs import Outcome
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError

_ROWS = flags.DEFINE_list("rows", [], "Numbers of some faults; all by default.")


def main(arguments: list[str]) -> int:
    """Run the faults, two at a time; each is told on stderr when it is done, and all in the table at the end."""
    chosen = _chosen()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell ignore it, as do theirs
    with ThreadPoolExecutor(2) as lanes:
        lines, losses = zip(*lanes.map(_row, chosen), strict=True)
    print("| # | fault | tried | survived | lost | seconds | |\n|---|---|---|---|---|---|---|", *lines, sep="\n")
    print(f"tried: {len(chosen)}")
    print(f"lost: {sum(losses) + len(ROWS) - len(chosen)}")
    return int(sum(losses) > 0)


def _row(number: int) -> tuple[str, int]:
    """A line of the table, and how many were lost."""
    name, inject = ROWS[number]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"fault {number} ") as scratch:
        found = _attempt(inject, Path(scratch))
    lost = max(found.tried, 1) - found.survived
    cells = [number, name, found.tried, found.survived, lost, f"{time.monotonic() - begun:.0f}", found.word]
    line = "| " + " | ".join(map(str, cells)) + " |"
    print(line, file=sys.stderr, flush=True)
    return line, lost


def _chosen() -> list[int]:
    if not _ROWS.value:
        return list(ROWS)
    unknown = [row for row in _ROWS.value if not row.isdigit() or int(row) not in ROWS]
    if unknown:
        raise InputError(f"--rows={unknown[0]}: there are faults 1 to {max(ROWS)}")
    return sorted({int(row) for row in _ROWS.value})


def _attempt(inject, scratch) -> Outcome:
    try:
        return inject(scratch)
    except Exception as error:  # a fault whose injection fails is lost, and the others are still tried
        traceback.print_exc()
        return Outcome(1, 0, f"{type(error).__name__}: {error}".splitlines()[0])


if __name__ == "__main__":
    program.run(main)
