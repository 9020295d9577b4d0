"""One evaluation of a trained run: what is asked, measured, and written."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

import tweedie_diffusion
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.evaluation.features import FeatureSet, open_features
from tweedie_diffusion.evaluation.fidelity import NEIGHBOURS
from tweedie_diffusion.report import measures, reference
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.datasets import open_data_again
from tweedie_diffusion.training.durable import replace_text
from tweedie_diffusion.training.hub import is_of_hub
from tweedie_diffusion.training.parts import Safe, folder_of, remove_parts, request_of, sample_in_parts
from tweedie_diffusion.training.trained import BATCH, TrainedModel, digest, load_run

PART = 4 * BATCH  # samples that are kept together
MOST_FEATURES = 4096  # their covariance is a matrix of as many squared
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
        model: what it is of.
    """

    numbers: dict[str, Any]
    curves: dict[str, dict[str, np.ndarray]]
    samples: np.ndarray
    posterior: measures.Posterior | None
    model: TrainedModel


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
    if model.config.model.class_conditional and not model.config.model.label_dropout:
        raise InputError(
            f"{asked.workdir} was trained with model.label_dropout=0 and cannot denoise an image of unknown class: "
            "train with the default to have it evaluated"
        )
    dataset = open_data_again(model.config, model.facts, asked.workdir)
    real = reference.named(asked.reference, model) if asked.reference else reference.held_out(dataset)
    if len(real.images) <= NEIGHBOURS:
        raise InputError(f"{len(real.images)} {real.name} are too few to compare with: have {NEIGHBOURS + 1} or more")
    frames = reference.read_frames(Path(asked.frames).expanduser(), model) if asked.frames else None
    other = _clean_trained(asked, model) if asked.clean_trained else None
    features = open_features(asked.features, reference=reference.training_images(dataset))
    features(real.images[:1])  # now, if it does not take them
    if features.size > MOST_FEATURES:
        raise InputError(f"{features.name} are {features.size} numbers an image, too many to compare: use pca")
    asked.out.mkdir(parents=True, exist_ok=True)
    if not os.access(asked.out, os.W_OK | os.X_OK):
        raise InputError(f"{asked.out} cannot be written: name another folder by --out")
    return Opened(model, dataset, real, features, frames, other)


def _clean_trained(asked, model):
    """The run whose curve is shown beside, if it held the same images out."""
    other = load_run(asked.clean_trained)
    ours, theirs = ((m.facts.fingerprint, m.facts.shape, m.facts.scaling, *_split_of(m)) for m in (model, other))
    if ours != theirs or other.facts.sigma_tn_max > 0:
        raise InputError(
            f"--clean_trained={asked.clean_trained} must be of the same images and held-out part, without noise: train "
            "it by the same settings and --config.data.sigma_tn=0"
        )
    return other


def _split_of(model):
    data = model.config.data
    return data.split_seed, data.held_out, data.crop, data.image_size


def evaluate(asked: Asked, opened: Opened, *, safe: Safe) -> Evaluation:
    """Measure everything; samples that were drawn before are read.

    Args:
        asked: what is wanted.
        opened: of `open_evaluation`.
        safe: what a part of the samples is drawn within.

    Raises:
        InputError: if the model draws what are no numbers.
    """
    model, dataset, seed = opened.model, opened.dataset, asked.seed
    request = request_of(model, asked.num, part=PART, seed=seed)
    samples = np.concatenate(list(sample_in_parts(model, request, folder_of(asked.out / NUMBERS), safe)))
    mse, curves = measures.denoising(model, dataset, seed=seed, clean_trained=opened.clean_trained)
    posterior = measures.draw_posterior(model, dataset, images=asked.posterior_images, draws=asked.draws, seed=seed)
    for what, drawn in (("samples", samples), ("posterior samples", posterior.samples if posterior else samples[:0])):
        if not np.isfinite(drawn).all():
            raise InputError(f"{what} of {asked.workdir} hold NaN or infinity: it diverged; go back to an earlier save")
    cache = asked.out / "reference_features"
    numbers: dict[str, Any] = {"about": about(asked, model), "mse": mse}
    numbers |= measures.distances(samples, opened.real, opened.features, seed=seed, cache=cache)
    numbers["proximal"] = measures.proximal(samples, dataset, seed=seed)
    numbers["calibration"] = measures.calibration(posterior, seed=seed) if posterior else None
    if opened.frames:
        found = measures.calibration_of_frames(model, opened.frames, draws=asked.draws, seed=seed)
        numbers["calibration_by_frames"] = found
    return Evaluation(numbers, curves, samples, posterior, model)


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
        "step": _step_of(asked.workdir),
        "sampling": dict(model.config.sampling),
        "device": jax.devices()[0].device_kind,
        "versions": {
            "tweedie_diffusion": tweedie_diffusion.__version__,
            "jax": jax.__version__,
            "numpy": np.__version__,
        },
    }


def _step_of(workdir):
    """Of the checkpoint that is used; None of an export."""
    return None if is_of_hub(workdir) else Checkpoints(Path(workdir).expanduser(), keep=None).model_step()


def write_numbers(asked: Asked, numbers: dict[str, Any]) -> Path:
    """Write evaluation.json: what is not finite is null."""
    path = asked.out / NUMBERS
    replace_text(path, json.dumps(_finite(numbers), indent=1, allow_nan=False) + "\n")
    return path


def write_page(asked: Asked, page: str) -> Path:
    """Write report.html, the last of all, and remove what was kept of unfinished samples."""
    path = asked.out / PAGE
    replace_text(path, page)
    remove_parts(folder_of(asked.out / NUMBERS))
    return path


def _finite(tree):
    if isinstance(tree, dict):
        return {name: _finite(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
