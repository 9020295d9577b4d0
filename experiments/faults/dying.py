"""Saves that are cut off: python -m experiments.faults.dying FOLDER.

FOLDER/first holds step 1. A copy of it, FOLDER/at K or FOLDER/after K, is what a process saw that died while it saved
step 2: before file operation K, or at moment K, whatever other threads and compiled code were doing.
"""

import dataclasses
import functools
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.step import TrainState, init_state

OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "os.listdir")
INSTANTS, APART = 60, 0.004  # seconds; a save takes some 0.15
DIED = 9


def state_at(step: int) -> TrainState:
    """A state that tells of which step it is."""
    state = init_state({"w": jnp.full(1000, float(step))}, optax.adam(1e-3))
    return dataclasses.replace(state, step=jnp.int32(step))


def save(workdir: Path, step: int, first: Callable[[], None] = lambda: None) -> None:
    """Save and score a step, of which one is kept."""
    with Checkpoints(workdir, keep=1) as checkpoints:
        state = jax.block_until_ready(state_at(step))
        first()
        checkpoints.save(state)
        checkpoints.score(step, 1 / step)


def _die_at(last: int) -> None:
    """Die before file operation `last`, be it of a name or a sync."""
    count, sync = 0, os.fsync

    def note():
        nonlocal count
        count += 1
        if count == last:
            os._exit(DIED)

    def synced(descriptor):
        note()
        sync(descriptor)

    os.fsync = synced
    sys.addaudithook(lambda event, arguments: note() if event in OPERATIONS else None)


def _in_a_process(act) -> int:
    """The exit code, or minus the signal, of a copy of this process; no thread runs here yet."""
    child = os.fork()
    if child == 0:
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _attempt(folder: Path, name: str, first: Callable[[], None]) -> int:
    shutil.copytree(folder / "first", folder / name)
    return _in_a_process(functools.partial(save, folder / name, 2, first))


def main(folder: Path) -> None:
    """Die in every way."""
    assert _in_a_process(functools.partial(save, folder / "first", 1)) == 0
    for last in range(1, 10_000):
        code = _attempt(folder, f"at {last}", functools.partial(_die_at, last))
        if code == 0:
            break
        assert code == DIED
    for i in range(1, INSTANTS + 1):
        alarm = functools.partial(signal.setitimer, signal.ITIMER_REAL, i * APART)  # ends a process
        assert _attempt(folder, f"after {i}", alarm) in (0, -signal.SIGALRM)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
