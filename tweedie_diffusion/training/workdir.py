"""What a workdir holds, and whether it may be used."""

import contextlib
import csv
import fcntl
import io
import json
import os
import re
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.checkpoints import directory
from tweedie_diffusion.training.config import Config, difference, may_change, to_json
from tweedie_diffusion.training.durable import free_bytes, replace_text
from tweedie_diffusion.training.facts import DataFacts

# config.json        every setting
# data.json          what is known of the data
# excluded.csv       files that could not be used, if data.lenient
# patch_mixture.npz  the prior fitted to them, if any
# checkpoints/       states of training
# metrics.jsonl      and tensorboard/: scalars
# trace.txt          every step, with debug_trace
# skipped.json       images of the steps that ended a run, if their loss was not finite
# .lock              held by the process that trains
# denoising_curve.*  samples*.png  denoised.png  held_out_noisy.npz: written when training ends

PATTERNS = "*?[\\"  # Orbax looks for what it wrote by a pattern of the path: it would not find it, or another run's


def has_checkpoints(workdir: Path) -> bool:
    """Whether a run in the workdir has saved a state, damaged since or not."""
    return any(re.fullmatch(r"\d+(\.damaged\d*)?", path.name) for path in directory(workdir).glob("*"))


def check_workdir(workdir: Path, config: Config) -> list[str]:
    """Refuse a workdir that holds another run, before anything is written.

    Returns:
        The settings that differ and may: 'key: old -> new'.

    Raises:
        InputError: naming the settings that differ and may not.
    """
    saved = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file: choose a directory for --workdir")
    if pattern := next((sign for sign in PATTERNS if sign in str(workdir.absolute())), ""):
        raise InputError(f"{workdir} has {pattern} in its path, as a pattern has: choose another --workdir")
    if not saved.is_file():
        if has_checkpoints(workdir):
            raise InputError(f"{workdir} has checkpoints but no config.json: choose another --workdir")
        return []
    try:
        changed = difference(saved.read_text(), to_json(config))
    except (ValueError, TypeError) as error:
        raise InputError(f"{saved} cannot be read ({error}): choose another --workdir") from error
    if refused := [change for change in changed if not may_change(change.split(":")[0])]:
        raise InputError(f"{workdir} holds a run with other settings ({', '.join(refused)}): choose another --workdir")
    return changed


@contextmanager
def locked(workdir: Path):
    """Create the workdir, and hold it: one process trains there at a time. The lock of a dead process holds nothing.

    Raises:
        InputError: if another process holds it, or it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("ab+", buffering=0)
    except OSError as error:
        raise InputError(f"{workdir} cannot be written ({error.strerror}): choose another --workdir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().decode(errors="replace").strip()
            raise InputError(
                f"{holder or 'another process'} trains in {workdir}: wait for it, or choose another --workdir"
            ) from None
        except OSError:  # some network file systems have no locks
            tqdm.write(f"warning: {workdir} cannot be locked: see that only one training writes there", file=sys.stderr)
        with contextlib.suppress(OSError):  # a full disk: saving will say so
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield


def open_workdir(
    workdir: Path,
    config: Config,
    facts: DataFacts,
    excluded: Sequence[tuple[str, str]],
    *,
    accept_data: bool,
    say: Callable[[str], None],
) -> None:
    """Write config, facts and a list of excluded files, or check that the data is still the one the run began with.

    With `accept_data` it may be another, and `say` is told so.

    Raises:
        InputError: if the directory cannot be written, or the data changed.
    """
    saved = workdir / "data.json"
    changed = check_workdir(workdir, config)
    if begun := has_checkpoints(workdir):
        if other := _changed_data(saved, facts):
            fits = not any(change.split(":")[0] in ("shape", "num_classes") for change in other)
            if not (accept_data and fits):
                force = "go on all the same by --accept_data, " if fits else ""
                raise InputError(
                    f"the data is not what the run in {workdir} began with ({', '.join(other)}): "
                    f"put it back as it was, {force}or choose another --workdir"
                )
            say(f"warning: going on with other data: {', '.join(other)}")
        if changed:
            say(f"going on with other settings: {', '.join(changed)}")
    try:
        if changed or not begun:
            replace_text(workdir / "config.json", to_json(config))
        if not begun or accept_data:
            replace_text(saved, facts.to_json())
            (workdir / "excluded.csv").unlink(missing_ok=True)
            if excluded:
                lines = io.StringIO(newline="")
                csv.writer(lines).writerows([("file", "why"), *excluded])
                replace_text(workdir / "excluded.csv", lines.getvalue())
    except OSError as error:
        raise InputError(
            f"{workdir} cannot be written ({error.strerror}{free_bytes(workdir)}): choose another --workdir"
        ) from error


def _changed_data(saved: Path, facts: DataFacts) -> list[str]:
    """What differs from the data of a run, by its data.json."""
    try:
        return DataFacts.from_json(saved.read_text()).difference(facts)
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{saved} cannot be read ({error}): choose another --workdir") from error


def write_curve(workdir: Path, curve: dict[str, np.ndarray]) -> None:
    """The denoising curve as JSON, whole or not at all."""
    text = json.dumps({name: [round(float(v), 6) for v in values] for name, values in curve.items()}, indent=1)
    replace_text(workdir / "denoising_curve.json", text + "\n")
