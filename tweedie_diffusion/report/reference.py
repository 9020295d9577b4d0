"""Real images to compare with: those held out from training, or others that a person names."""

import dataclasses
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.formats.arrays import load_arrays
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.data.sources import open_images, spaced
from tweedie_diffusion.training.trained import TrainedModel

MOST = 10_000  # images compared with, by default


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
    """The held-out images of a run: clean where they exist, else noisy."""
    chosen = np.arange(min(MOST, len(dataset.held_out)))
    if dataset.held_out_clean is not None:
        images = np.stack([dataset.held_out_clean(int(i)) for i in chosen])
        return Reference("held-out clean images", images, None, fingerprint([images]))
    examples = dataset.held_out.rows(chosen)
    images, sigma_tn = examples["x_tn"], examples["sigma_tn"]
    name = "held-out noisy images, samples noised alike"
    return Reference(name, images, sigma_tn, fingerprint([images, sigma_tn]))


def named(source: str, model: TrainedModel) -> Reference:
    """Clean images of a person's own, of anything that training takes.

    Raises:
        InputError: if they have another size or number of channels than those of the model.
    """
    images = open_images(source)
    if tuple(images.shape) != tuple(model.facts.shape):
        raise InputError(
            f"the images of --reference={source} are {_size(images.shape)} and the model's {_size(model.facts.shape)}: "
            "name a set of the same size and channels"
        )
    to_unit, chosen = model.facts.scaling.to_unit, spaced(images.count, MOST)
    x_0 = np.stack([to_unit(images.read(int(i))) for i in chosen])
    return Reference(source, x_0, None, fingerprint([x_0]))


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
    levels = np.broadcast_to(arrays.get("sigma_tn", np.float32(model.facts.sigma_tn_max)), len(unit[0]))
    if not (levels > 0).all():
        raise InputError(f"frames have noise: give {path} an array sigma_tn > 0, in units of images in [-1, 1]")
    first, second = unit
    return Frames(first, second, np.asarray(levels, np.float32))


def _size(shape):
    return "×".join(map(str, shape))
