"""The debug trace: what every step saw and made of it, to the last bit. Two of them tell whether two runs are one."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.durable import Lines, free_bytes

NAME = "trace.txt"
_STEP = re.compile(r"(\d+) (\S+) (\S+) ([0-9a-f]{64})")
_STATE = re.compile(r"state (\d+) ([0-9a-f]{64})")


class Trace:
    """Appends `step loss grad_norm sha256(batch)` for each step, floats in hexadecimal, and `state step sha256` for
    each saved state. A line outlives the process once it is written, though not a power cut.
    """

    def __init__(self, path: Path):
        """After whatever is in the file; a line that a killed process left unfinished is ended."""
        self._path = path
        with self._told():
            self._file = Lines(path)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @staticmethod
    def digest(rows: Mapping[str, np.ndarray]) -> str:
        """SHA-256 of a batch."""
        return _sha256([(name, rows[name]) for name in sorted(rows)])

    def write(self, step: int, loss: float, grad_norm: float, digest: str) -> None:
        """The line of a step."""
        with self._told():
            self._file.write(f"{step} {loss.hex()} {grad_norm.hex()} {digest}\n")

    def write_state(self, step: int, state) -> None:
        """The line of a state at `step`."""
        with self._told():
            self._file.write(f"state {step} {state_digest(state)}\n")

    @contextmanager
    def _told(self):
        """Around what writes: training ends where it fails, for a trace with a hole says nothing of what was lost."""
        try:
            yield
        except OSError as error:
            why = f"{error.strerror}{free_bytes(self._path.parent)}"
            raise InputError(
                f"{self._path} cannot be written ({why}): free what it needs, "
                "or leave it out by --config.debug_trace=false; the same command then goes on from the last checkpoint"
            ) from error


def state_digest(state) -> str:
    """SHA-256 of names, shapes, types and bits of all arrays of a state: weights, average, optimiser, counters."""
    leaves, _ = jax.tree.flatten_with_path(state)
    return _sha256([(jax.tree_util.keystr(path), np.asarray(leaf)) for path, leaf in leaves])


def _sha256(arrays):
    hashed = hashlib.sha256()
    for name, array in arrays:
        hashed.update(f"{name} {array.shape} {array.dtype}".encode())
        hashed.update(np.ascontiguousarray(array).view(np.uint8).data)
    return hashed.hexdigest()


@dataclasses.dataclass(frozen=True)
class MergedTrace:
    """A trace in which steps that were done again after a restart are one.

    Attributes:
        steps: step -> (loss, grad_norm, sha256 of the batch).
        states: step -> sha256 of the state.
        redone: how many steps were done again.
        different: those of them, and those states, that were not the same again.
    """

    steps: dict[int, tuple[str, ...]]
    states: dict[int, str]
    redone: int
    different: tuple[str, ...]


def read_trace(path: Path) -> MergedTrace:
    """The trace of a file or a workdir. Lines that a killed process left unfinished are passed over.

    Raises:
        InputError: if there is none, or nothing in it.
    """
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise InputError(f"{path} does not exist: train with --config.debug_trace=true")
    steps, states, redone, different = {}, {}, 0, []
    for line in path.read_text(errors="replace").splitlines():
        if step := _STEP.fullmatch(line):
            number, found = int(step[1]), step.groups()[1:]
            redone += number in steps
            if steps.setdefault(number, found) != found:
                different.append(f"step {number}")
        elif (state := _STATE.fullmatch(line)) and states.setdefault(int(state[1]), state[2]) != state[2]:
            different.append(f"state {state[1]}")
    if not steps:
        raise InputError(f"{path} holds no trace: write one with --config.debug_trace=true")
    return MergedTrace(steps, states, redone, tuple(different))


def first_difference(one: MergedTrace, other: MergedTrace) -> str | None:
    """Where two traces differ, in a line; None if they are one and the same, bit for bit."""
    for trace in (one, other):
        if trace.different:
            return f"{trace.different[0]} was not the same when it was done again"
    for step in sorted(one.steps.keys() | other.steps.keys()):
        if step not in one.steps or step not in other.steps:
            return f"step {step} is in one of them only"
        for name, a, b in zip(("loss", "grad_norm", "batch"), one.steps[step], other.steps[step], strict=True):
            if a != b:
                return f"step {step}: {name} {a} is not {b}"
    for step in sorted(one.states.keys() & other.states.keys()):
        if one.states[step] != other.states[step]:
            return f"the states at step {step} differ"
    return None
