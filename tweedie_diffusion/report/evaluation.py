"""One evaluation of a trained run: what is asked, measured, and written."""

import dataclasses
import importlib.metadata
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.evaluation.features import FeatureSet, open_features
from tweedie_diffusion.report import measures, reference
from tweedie_diffusion.training.datasets import open_data_again
from tweedie_diffusion.training.parts import Safe, folder_of, remove_parts, request_of, sample_in_parts
from tweedie_diffusion.training.trained import TrainedModel, digest, load_run

NUMBERS, PAGE = "evaluation.json", "report.html"
FLOORED = ("frechet", "kid", "precision", "recall", "density", "coverage")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What an evaluation is to be of.

    Attributes:
        workdir: of the run, or what else `load_run` takes.
        out: folder where the report is written.
        num: samples of the model.
        features: a name of `evaluation.features.open_features`.
        reference: clean images to compare with, of anything that training takes; "" for the held-out ones.
        frames: an .npz of two noisy frames of the same scenes, or "".
        clean_trained: workdir of a run on clean images, whose denoising curve is shown beside; or "".
        posterior_images, draws: held-out noisy images, and posterior samples of each.
        seed: of everything that is drawn.
    """

    workdir: str
    out: Path
    num: int = 1000
    features: str = "pca"
    reference: str = ""
    frames: str = ""
    clean_trained: str = ""
    posterior_images: int = 64
    draws: int = 16
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        numbers: all of it, as in evaluation.json.
        curves: of MSE/σ² by name, for pictures.
        samples: [M, ...] of the model.
        posterior: draws for held-out noisy images, None without any.
        model, dataset: what it is of.
    """

    numbers: dict[str, Any]
    curves: dict[str, dict[str, np.ndarray]]
    samples: np.ndarray
    posterior: measures.Posterior | None
    model: TrainedModel
    dataset: Dataset


@dataclasses.dataclass(frozen=True)
class Opened:
    """All that an evaluation needs, checked before anything is drawn."""

    model: TrainedModel
    dataset: Dataset
    real: reference.Reference
    features: FeatureSet
    frames: reference.Frames | None
    clean_trained: TrainedModel | None


def open_evaluation(asked: Asked) -> Opened:
    """Load the run, its data and what it is compared with.

    Raises:
        InputError, FileNotFoundError: if any of it is missing or does not fit.
    """
    model = load_run(asked.workdir)
    asked.out.mkdir(parents=True, exist_ok=True)
    if not os.access(asked.out, os.W_OK):
        raise InputError(f"{asked.out} cannot be written: name another folder by --out")
    dataset = open_data_again(model.config, model.facts, asked.workdir)
    real = reference.named(asked.reference, model) if asked.reference else reference.held_out(dataset)
    frames = reference.read_frames(Path(asked.frames).expanduser(), model) if asked.frames else None
    other = load_run(asked.clean_trained) if asked.clean_trained else None
    if other and other.facts.shape != model.facts.shape:
        raise InputError(
            f"the images of --clean_trained={asked.clean_trained} are {list(other.facts.shape)}, and those of this run "
            f"{list(model.facts.shape)}: name a run on the same images"
        )
    features = open_features(asked.features, reference=real.images)
    return Opened(model, dataset, real, features, frames, other)


def evaluate(asked: Asked, opened: Opened, *, safe: Safe) -> Evaluation:
    """Measure everything; samples that were drawn before are read.

    Args:
        asked: what is wanted.
        opened: of `open_evaluation`.
        safe: what a part of the samples is drawn within.
    """
    model, dataset, seed = opened.model, opened.dataset, asked.seed
    request = request_of(model, asked.num, seed=seed)
    samples = np.concatenate(list(sample_in_parts(model, request, folder_of(asked.out / NUMBERS), safe)))
    mse, curves = measures.denoising(model, dataset, seed=seed, clean_trained=opened.clean_trained)
    posterior = measures.draw_posterior(model, dataset, images=asked.posterior_images, draws=asked.draws, seed=seed)
    cache = asked.out / "reference_features"
    numbers: dict[str, Any] = {"about": about(asked, model), "mse": mse}
    numbers |= measures.distances(samples, opened.real, opened.features, seed=seed, cache=cache)
    numbers["proximal"] = measures.proximal(samples, dataset, seed=seed)
    numbers["calibration"] = measures.calibration(posterior, seed=seed) if posterior else None
    if opened.frames:
        found = measures.calibration_of_frames(model, opened.frames, draws=asked.draws, seed=seed)
        numbers["calibration_by_frames"] = found
    return Evaluation(numbers, curves, samples, posterior, model, dataset)


def about(asked: Asked, model: TrainedModel) -> dict[str, Any]:
    """What the numbers are of: the model, the data and the versions."""
    facts = model.facts
    return {
        "workdir": asked.workdir,
        "model": digest(model),
        "data": model.config.data.source,
        "fingerprint": facts.fingerprint,
        "shape": list(facts.shape),
        "sigma_tn": [facts.sigma_tn_min, facts.sigma_tn_max],
        "training_images": facts.num_train,
        "steps": model.config.training.steps,
        "sampling": dict(model.config.sampling),
        "device": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in ("tweedie-diffusion", "jax", "numpy", "scipy")},
    }


def write(asked: Asked, numbers: dict[str, Any], page: str) -> Iterator[Path]:
    """Write report.html and evaluation.json, the numbers last, and remove what was kept of unfinished samples."""
    for name, text in ((PAGE, page), (NUMBERS, json.dumps(numbers, indent=1, allow_nan=False) + "\n")):
        with whole(asked.out / name) as (unfinished,):
            unfinished.write_text(text, encoding="utf-8")
        yield asked.out / name
    remove_parts(folder_of(asked.out / NUMBERS))
