"""What a workdir holds, and whether it may be used."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.training.checkpoints import directory
from tweedie_diffusion.training.config import Config, difference, to_json
from tweedie_diffusion.training.facts import DataFacts

# config.json        every setting
# data.json          what is known of the data
# excluded.csv       files that could not be used, if data.lenient
# patch_mixture.npz  the prior fitted to them, if any
# checkpoints/       states of training
# metrics.jsonl      and tensorboard/: scalars
# denoising_curve.*  samples*.png  denoised.png  held_out_noisy.npz: written when training ends


def has_checkpoints(workdir: Path) -> bool:
    """Whether a run in the workdir has saved a state."""
    return any(step.name.isdigit() for step in directory(workdir).glob("*"))


def check_workdir(workdir: Path, config: Config) -> None:
    """Refuse a workdir that holds another run, before anything is written.

    Raises:
        InputError: naming the settings that differ.
    """
    saved = workdir / "config.json"
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file: choose a directory for --workdir")
    if not saved.is_file():
        if has_checkpoints(workdir):
            raise InputError(f"{workdir} has checkpoints but no config.json: choose another --workdir")
        return
    try:
        changed = difference(saved.read_text(), to_json(config))
    except (ValueError, TypeError) as error:
        raise InputError(f"{saved} cannot be read ({error}): choose another --workdir") from error
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"{workdir} holds a run with other settings ({', '.join(changed[:3])}{more}): choose another --workdir"
        )


def open_workdir(workdir: Path, config: Config, facts: DataFacts, excluded: Sequence[tuple[str, str]] = ()) -> None:
    """Create the workdir with its config, its facts and a list of excluded files, or check that the data is still the
    one it began with.

    Raises:
        InputError: if the directory cannot be written, or the data changed.
    """
    saved = workdir / "data.json"
    if has_checkpoints(workdir):
        if not saved.is_file() or saved.read_text() != facts.to_json():
            raise InputError(
                f"the data is not what the run in {workdir} began with ({saved}): choose another --workdir"
            )
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        saved.write_text(facts.to_json())
        (workdir / "config.json").write_text(to_json(config))
        (workdir / "excluded.csv").unlink(missing_ok=True)
        if excluded:
            with (workdir / "excluded.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                csv.writer(file).writerows([("file", "why"), *excluded])
    except OSError as error:
        raise InputError(f"{workdir} cannot be written ({error.strerror}): choose another --workdir") from error


def write_curve(workdir: Path, curve: dict[str, np.ndarray]) -> None:
    """The denoising curve as JSON, whole or not at all."""
    text = json.dumps({name: [round(float(v), 6) for v in values] for name, values in curve.items()}, indent=1)
    with whole(workdir / "denoising_curve.json") as (unfinished,):
        unfinished.write_text(text + "\n")
