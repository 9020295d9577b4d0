"""Write a trained model to a folder of its own, which is a model wherever a workdir is."""

import contextlib
import dataclasses
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.whole import sync
from tweedie_diffusion.sharing.card import About, check_licence, model_card, was_edited
from tweedie_diffusion.training.config import Config, flatten, from_json, to_json
from tweedie_diffusion.training.exported import CARD, FILES, MEASURED, WEIGHTS, sealed_by_us, write_weights
from tweedie_diffusion.training.hub import is_of_hub, local
from tweedie_diffusion.training.trained import TrainedModel, digest, load_folder

PATHS = ("init_from", "data.source", "data.sigma_from")  # settings that may name folders of one machine
PLACES = ("workdir", "data", "reference", "clean_trained")  # keys of what is measured, that may


def export(workdir, folder: Path, *, best: bool = False, licence: str = "", name: str = "") -> TrainedModel:
    """Write the model of a run to a folder: weights, config.json, data.json, README.md and what was measured.

    Args:
        workdir: whatever `load_run` takes.
        folder: made, with the folders that it lies in. An export that is there is replaced, in one step.
        best: the checkpoint of least score.
        licence: for the card, as cc-by-4.0.
        name: for the card, what is loaded, as hub:USER/NAME; that of the folder if empty.

    Raises:
        InputError: if the folder holds anything else, or a card that was edited; if the licence is no identifier.
        FileNotFoundError: if there is no model.
    """
    check_target(folder)
    check_licence(licence)
    source = local(workdir)  # once: what is on the Hub may change meanwhile
    model = load_folder(source, workdir, best=best)
    measured = _measured(source, model, load_folder(source, workdir) if best else model)
    write_model(model, folder, About(name or folder.resolve().name, licence, measured=measured))
    return model


def write_model(model: TrainedModel, folder: Path, about: About) -> None:
    """Write a model, with a card that says so much about it: the same bytes for the same model.

    Raises:
        InputError: if the folder holds anything but an export.
    """
    check_target(folder)
    model = dataclasses.replace(model, config=_without_folders(model.config))
    texts = {"config.json": to_json(model.config), "data.json": model.facts.to_json()}
    texts |= {name: json.dumps(found, indent=1) + "\n" for name, found in about.measured.items()}
    texts[CARD] = model_card(model, about)
    with _whole_folder(folder) as unfinished:
        write_weights(unfinished / WEIGHTS, model.params, model.mixture)
        for name, text in texts.items():
            (unfinished / name).write_text(text, encoding="utf-8")


def check_target(folder: Path) -> None:
    """Refuse a folder that holds anything but an export of ours, before any work is done.

    Raises:
        InputError: naming what is in the way.
    """
    if is_of_hub(folder):
        raise InputError(f"{folder} is no folder: name one")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if not names:
        return
    if not sealed_by_us(folder / WEIGHTS) or names - set(FILES):
        odd = min(names - set(FILES), default=WEIGHTS if WEIGHTS in names else min(names))
        raise InputError(f"{folder} holds {odd}, which is of no export: choose another folder")
    card = folder / CARD
    if card.is_file() and was_edited(card.read_text("utf-8", errors="replace")):
        raise InputError(f"{card} was edited since it was written: move it away, or choose another folder")


def _measured(folder: Path, model: TrainedModel, usual: TrainedModel) -> dict[str, Any]:
    """What was measured of this very model of a run, without where things lay; the curve is of its `usual` one."""
    found = {}
    for path in [folder / name for name in MEASURED if (folder / name).is_file()]:
        try:
            found[path.name] = _names_alone(json.loads(path.read_text("utf-8")))
        except ValueError as error:
            raise InputError(f"{path} cannot be read ({error}): remove it, or make it again") from error
    about = found["evaluation.json"].get("about") if isinstance(found.get("evaluation.json"), dict) else None
    if not isinstance(about, dict) or about.get("model") != digest(model):
        found.pop("evaluation.json", None)
    if digest(usual) != digest(model):
        found.pop("denoising_curve.json", None)
    return found


def _names_alone(found):
    """JSON with paths cut to their last part: all of `PLACES`, and what begins as a path elsewhere."""
    if isinstance(found, dict):
        named = lambda key, value: key in PLACES and isinstance(value, str)
        return {k: _name_alone(v) if named(k, v) else _names_alone(v) for k, v in found.items()}
    if isinstance(found, list):
        return [_names_alone(value) for value in found]
    return _name_alone(found) if isinstance(found, str) and re.match(r"/|~|\.\.|\\|[A-Za-z]:[/\\]", found) else found


def _name_alone(path: str) -> str:
    """The last part of a path; what is of TFDS or the Hub as it is."""
    return path if path.startswith(("tfds:", "hub:")) else path.replace("\\", "/").rstrip("/").split("/")[-1]


def _without_folders(config: Config) -> Config:
    """Names of the data as they were, without where they lay: that is nobody else's business."""
    shared = from_json(to_json(config))
    with shared.unlocked():
        for key in PATHS:
            shared.update_from_flattened_dict({key: _name_alone(flatten(config)[key])})
    return shared


@contextlib.contextmanager
def _whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write to, which takes the name of `folder` when the block ends, and is removed if it fails.

    What had that name is renamed first and removed last: a crash between the two leaves it as .NAME.old, which the next
    writer puts back.
    """
    folder = folder.resolve()
    unfinished, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        old.rename(folder)
    for left in (unfinished, old):
        shutil.rmtree(left, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        for path in [*unfinished.iterdir(), unfinished]:
            sync(path)
        if folder.exists():
            folder.rename(old)
        unfinished.rename(folder)
    except BaseException:  # also a request to stop
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
