"""Real images to compare with: those held out from training, or others that a person names."""

import dataclasses
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.formats.arrays import load_arrays
from tweedie_diffusion.data.noisy import Dataset, clean_example
from tweedie_diffusion.data.scaling import ScalingRule
from tweedie_diffusion.data.sources import open_images, spaced
from tweedie_diffusion.training.trained import TrainedModel

MOST = 10_000  # images compared with
FITTED = 2048  # images that features are fitted to
UNITS = 5.0  # times as much variation as in training, or as little, is a matter of units


@dataclasses.dataclass(frozen=True)
class Reference:
    """Real images.

    Attributes:
        name: in words.
        images: [N, ...] in [-1, 1].
        sigma_tn: [N] their noise; None if they are clean.
        digest: tells them from others.
    """

    name: str
    images: np.ndarray
    sigma_tn: np.ndarray | None
    digest: str


def held_out(dataset: Dataset) -> Reference:
    """The held-out images of a run: clean where they exist, else noisy; at most 10 000."""
    chosen = dataset.some_held_out(MOST)
    if dataset.held_out_clean is not None:
        images = np.stack([dataset.held_out_clean(int(i)) for i in chosen])
        return Reference("held-out clean images", images, None, fingerprint([images]))
    examples = dataset.held_out.rows(chosen)
    images, sigma_tn = examples["x_tn"], examples["sigma_tn"]
    name = "held-out noisy images, samples noised alike"
    return Reference(name, images, sigma_tn, fingerprint([images, sigma_tn]))


def named(source: str, model: TrainedModel) -> Reference:
    """Clean images of a person's own, of anything that training takes, in the units of its data; at most 10 000.

    Raises:
        InputError: if they have another size or number of channels than those of the model, other units, or are what it
            was trained on.
    """
    data, facts = model.config.data, model.facts
    low, high = float(np.min(facts.scaling.low)), float(np.max(facts.scaling.high))
    rule = ScalingRule(value_range=(low, high)) if low < high else ScalingRule()
    images = open_images(source, rule=rule, image_size=data.image_size, crop=data.crop)
    if tuple(images.shape) != tuple(facts.shape):
        raise InputError(
            f"the images of --reference={source} are {_size(images.shape)} and the model's {_size(facts.shape)}: "
            "name a set of the same size and channels"
        )
    if images.fingerprint() == facts.fingerprint and facts.fingerprint:
        raise InputError(f"--reference={source} is what the model was trained on: leave it out, for what was held out")
    images = dataclasses.replace(images, scaling=facts.scaling)
    x_0 = np.stack([clean_example(images, int(i)) for i in spaced(images.count, MOST)])
    if not 1 / UNITS < (spread := float(x_0.std()) / facts.sigma_data) < UNITS:
        raise InputError(
            f"the images of --reference={source} vary {spread:.3g} times as much as those of training: store them in "
            "the units of the training data"
        )
    return Reference(source, x_0, None, fingerprint([x_0]))


def training_images(dataset: Dataset) -> np.ndarray:
    """Some of the images a run was trained on, clean where they are known: what features may be fitted to."""
    chosen = spaced(len(dataset.train), FITTED)
    if dataset.held_out_clean is None:
        return dataset.train.rows(chosen)["x_tn"]
    return np.stack([clean_example(dataset.images, int(i)) for i in dataset.train.numbers[chosen]])


@dataclasses.dataclass(frozen=True)
class Frames:
    """Two frames, each with noise of its own, of the same scenes.

    Attributes:
        first, second: [N, ...] in [-1, 1].
        sigma_tn: [N] noise of both.
    """

    first: np.ndarray
    second: np.ndarray
    sigma_tn: np.ndarray


def read_frames(path: Path, model: TrainedModel) -> Frames:
    """Arrays `first` and `second` of an .npz, in stored values; `sigma_tn` [N], in [-1, 1] units, if it differs from
    that of training.

    Raises:
        InputError: if an array is missing or of another shape than the model's images.
    """
    arrays = load_arrays(path, path.name)
    if missing := [name for name in ("first", "second") if name not in arrays]:
        raise InputError(f"{path} holds no array {missing[0]!r}: --frames takes an .npz with `first` and `second`")
    shape = tuple(model.facts.shape)
    unit = []
    for name in ("first", "second"):
        frames = arrays[name][..., None] if arrays[name].shape[1:] == shape[:-1] else arrays[name]
        if frames.shape[1:] != shape or len(frames) < 2:
            raise InputError(
                f"{name} of {path} must be at least two frames of {_size(shape)} (got {list(arrays[name].shape)})"
            )
        unit.append(np.asarray(model.facts.scaling.to_unit(frames), np.float32))
    if len(unit[0]) != len(unit[1]):
        raise InputError(f"first and second of {path} must be as many (got {len(unit[0])} and {len(unit[1])})")
    if not all(np.isfinite(frames).all() for frames in unit):
        raise InputError(f"frames of {path} hold NaN or infinity: leave them out")
    facts = model.facts
    if "sigma_tn" not in arrays and facts.sigma_tn_min != facts.sigma_tn_max:
        raise InputError(f"{path} does not say what its noise is, and images of training differ: add an array sigma_tn")
    levels = np.asarray(arrays.get("sigma_tn", facts.sigma_tn_max), np.float32)
    if levels.shape not in ((), (len(unit[0]),)):
        raise InputError(f"sigma_tn of {path} must be one level, or one a frame (got shape {list(levels.shape)})")
    levels = np.broadcast_to(levels, len(unit[0]))
    if not (levels > 0).all():
        raise InputError(f"frames have noise: give {path} an array sigma_tn > 0, in units of images in [-1, 1]")
    first, second = unit
    return Frames(first, second, np.asarray(levels, np.float32))


def _size(shape):
    return "×".join(map(str, shape))
