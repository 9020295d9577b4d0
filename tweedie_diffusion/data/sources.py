"""Where images come from: each source opens to one random-access `Images`, whatever its format."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tweedie_diffusion.data.catalog import is_catalog
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.formats.arrays import load_arrays, pick_images
from tweedie_diffusion.data.scaling import Scaling, ScalingRule
from tweedie_diffusion.data.synthetic import MIXTURES
from tweedie_diffusion.diffusion.types import DenoiseFn

ARRAYS = (".npz", ".npy")
SAMPLED, SAMPLED_PIXELS = 256, 4096  # images, and pixels of each, whose values decide on a scaling


@dataclasses.dataclass(frozen=True)
class Images:
    """Images (or vectors) by index, as they are stored.

    Attributes:
        read: index -> array in the stored dtype, of `shape` unless `cropped`.
        count: how many there are.
        shape: of an example, [H, W, C] or [D].
        scaling: between stored values and [-1, 1].
        num_classes: 0, or how many classes `read_label` may return.
        read_label: index -> class, or None without classes.
        sigma_tn: [count] noise levels in [-1, 1] units when the source itself states them, or None.
        oracle: the exact denoiser, for synthetic data whose law is known.
        cropped: whether examples are squares cut from larger images.
        name: index -> the file, and the frame in it; None if the images are no files.
        excluded: [(file, why)] of those that could not be used.
        contents: makes texts and arrays that change if the images or labels do; None if nobody asks.
    """

    read: Callable[[int], np.ndarray]
    count: int
    shape: tuple[int, ...]
    scaling: Scaling
    num_classes: int = 0
    read_label: Callable[[int], int] | None = None
    sigma_tn: np.ndarray | None = None
    oracle: DenoiseFn | None = None
    cropped: bool = False
    name: Callable[[int], str] | None = None
    excluded: tuple[tuple[str, str], ...] = ()
    contents: Callable[[], Iterable[str | np.ndarray]] | None = None

    def fingerprint(self) -> str:
        """Of the images in their order, their labels and their stated levels; empty without `contents`."""
        if self.contents is None:
            return ""
        levels = () if self.sigma_tn is None else ("levels", self.sigma_tn)
        return fingerprint([*self.contents(), *levels])


def open_images(
    source: str,
    *,
    rule: ScalingRule = ScalingRule(),  # noqa: B008 — frozen
    image_size: int = 0,
    crop: int = 0,
    clean: bool = True,
    lenient: bool = False,
    seed: int = 0,
    num_examples: int = 10_000,
) -> Images:
    """Open `source`.

    Args:
        source: `digits`, `mixture_2d` (or `_16d`, `_64d`), `tfds:NAME` or `tfds:NAME@SPLIT`, a path to an .npz or .npy
            file, or images: a folder, a file, a .tar archive, or a pattern of any of these with *, ** or ?.
        rule: how stored values become [-1, 1].
        image_size: crop to the central square and resize to this side; 0 leaves images as they are.
        crop: examples are squares of this side, cut from images that may differ in size; 0 takes whole images.
        clean: whether the images are free of noise (then values outside the range are an error).
        lenient: leave out files that cannot be used.
        seed: of synthetic data.
        num_examples: of synthetic data.

    Raises:
        InputError: if the source does not exist, is empty, or holds something that cannot be used; BadFiles names
            every file that cannot.
    """
    if image_size and not clean:
        raise InputError(
            "data.image_size resizes images, which would change their noise: set it to 0 for noisy images, "
            "and data.crop to train on squares of them"
        )
    if image_size and crop:
        raise InputError("data.image_size makes images one size and data.crop cuts squares from them: set one of them")
    if source in ("digits", *MIXTURES) and (image_size or crop or rule != ScalingRule()):
        raise InputError(f"{source} has a size and a range of its own: leave data.image_size, data.crop and data.range")
    if source == "digits":
        return _digits()
    if source in MIXTURES:
        points, labels, oracle = MIXTURES[source](num_examples, seed)
        return in_memory(points, Scaling(-1.0, 1.0, "float32", bounded=False), labels=labels, oracle=oracle)
    if source.startswith("tfds:"):
        from tweedie_diffusion.data.tfds_source import open_tfds

        images = open_tfds(source.removeprefix("tfds:"), rule=rule, image_size=image_size)
    elif (path := Path(source).expanduser()).suffix.lower() in ARRAYS and not path.is_dir():
        images = _open_arrays(path, rule, image_size, clean)
    elif is_catalog(source):
        images = _open_files(source, rule, image_size, crop, clean=clean, lenient=lenient)
    else:
        wrong = "is of no format that can be read" if path.exists() else "does not exist"
        raise InputError(
            f"data.source={source!r} {wrong}: name a folder or pattern of images, an .npz, .npy or .tar file, "
            "or one of digits, mixture_2d, tfds:NAME"
        )
    return _cropped(images, crop) if crop else images


def in_memory(stored: np.ndarray, scaling: Scaling, *, labels: np.ndarray | None = None, **fields) -> Images:
    """`Images` of an array [N, ...] held in memory, with labels [N] if there are any."""
    contents = [stored]
    if labels is not None:
        fields |= {"num_classes": int(labels.max()) + 1, "read_label": lambda i: int(labels[i])}
        contents += [labels]
    fields |= {"contents": lambda: contents}
    return Images(read=stored.__getitem__, count=len(stored), shape=stored.shape[1:], scaling=scaling, **fields)


def read_levels(arrays: dict[str, np.ndarray], count: int, path: Path) -> np.ndarray | None:
    """`sigma_tn` [count] of an .npz, float32, or None if it states none."""
    if "sigma_tn" not in arrays:
        return None
    levels = np.asarray(arrays["sigma_tn"])
    if levels.shape != (count,) or levels.dtype.kind not in "uif" or not (np.isfinite(levels) & (levels >= 0)).all():
        raise InputError(f"{path}: sigma_tn must be [{count}] noise levels >= 0, one an image")
    return levels.astype(np.float32)


def check_values(stored: np.ndarray, scaling: Scaling, what: str, *, clean: bool) -> None:
    """Raise InputError for NaN, infinity, or clean values outside the range of `scaling`."""
    bad = ~np.isfinite(stored).reshape(len(stored), -1).all(axis=1)
    if bad.any():
        raise InputError(f"{what}: image {np.flatnonzero(bad)[0]} holds NaN or infinity ({bad.sum()} such): remove it")
    if not clean or not scaling.bounded:
        return
    least, greatest = float(np.min(scaling.low)), float(np.max(scaling.high))
    slack = 1e-3 * (greatest - least)
    low, high = float(stored.min()), float(stored.max())
    if low < least - slack or high > greatest + slack:
        raise InputError(
            f"{what} holds values from {low:g} to {high:g}, outside ({least:g}, {greatest:g}): "
            f"state their range, e.g. --config.data.range='({min(low, 0):g}, {high:g})'"
        )


def _digits():
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    stored = bunch.images.astype(np.float32)[..., None]
    return in_memory(stored, Scaling(0.0, 16.0, "float32"), labels=bunch.target)


def _open_arrays(path, rule, image_size, clean):
    arrays = load_arrays(path)
    stored = pick_images(arrays, path)
    scaling = rule.scaling(stored.dtype, lambda: stored[spaced(len(stored), SAMPLED)], bounded=stored.ndim == 4)
    check_values(stored, scaling, str(path), clean=clean)
    if rule == ScalingRule() and stored.dtype.kind == "f" and stored.ndim == 4:
        _check_usual_range(stored, path)
    if image_size:
        from tweedie_diffusion.data.resize import crop_and_resize

        if stored.ndim != 4:
            raise InputError(f"data.image_size resizes images, and {path} holds vectors: set it to 0")
        stored = np.stack([crop_and_resize(image, image_size) for image in stored])
    labels = _aligned(arrays, ("labels", "train_labels"), len(stored), path)
    if labels is not None and (labels.dtype.kind not in "ui" or labels.ndim != 1 or labels.min() < 0):
        raise InputError(f"{path}: labels must be whole numbers >= 0, one an image")
    if labels is not None and labels.max() >= 100_000:
        raise InputError(f"{path}: labels reach {labels.max()}: number the classes from 0 up")
    return in_memory(stored, scaling, labels=labels, sigma_tn=read_levels(arrays, len(stored), path))


def _open_files(source, rule, image_size, crop, *, clean, lenient):
    from tweedie_diffusion.data.image_files import large_enough, of_one_size, open_frame_files
    from tweedie_diffusion.data.resize import crop_and_resize

    side = crop or image_size
    files = open_frame_files(source, side=side, lenient=lenient)
    if side:
        files = large_enough(files, side, "data.crop" if crop else "data.image_size", lenient=lenient)
    else:
        files = of_one_size(files, lenient=lenient)
    shape = (side, side, files.channels) if side else files.shape

    def read(i: int) -> np.ndarray:
        image = files.read(i)
        return crop_and_resize(image, image_size) if image_size else image

    @functools.cache
    def sample():
        rng = np.random.Generator(np.random.Philox(0))
        pixels = (read(i).reshape(-1, files.channels) for i in spaced(len(files), SAMPLED))
        return np.concatenate([p[rng.permutation(len(p))[:SAMPLED_PIXELS]] for p in pixels])

    scaling = rule.scaling(files.dtype, sample, bounded=True)
    if rule.value_range and clean:
        check_values(sample(), scaling, source, clean=True)
    if rule == ScalingRule() and files.dtype.kind == "f":
        _check_usual_range(sample(), source)
    described = {"name": files.name, "excluded": tuple(files.excluded), "contents": files.contents}
    return Images(read, len(files), shape, scaling, **described)


def _cropped(images, crop):
    """The same images, of which examples are squares."""
    if len(images.shape) != 3:
        raise InputError("data.crop cuts squares from images, and the data is vectors: set it to 0")
    if min(images.shape[:2]) < crop:
        raise InputError(f"the images are {images.shape[0]}×{images.shape[1]}, smaller than data.crop={crop}: lower it")
    return dataclasses.replace(images, shape=(crop, crop, images.shape[-1]), cropped=True)


def _check_usual_range(stored, path):
    """Floats are taken to lie in [−1, 1]; refuse those that plainly mean something else."""
    low, high = float(stored.min()), float(stored.max())
    if 0 <= low < high <= 1:
        raise InputError(
            f"{path} holds values from {low:g} to {high:g}: state --config.data.range='(0, 1)' (or '(-1, 1)')"
        )
    if max(-low, high) > 10:
        raise InputError(f"{path} holds values from {low:g} to {high:g}: state the range of clean ones in data.range")


def spaced(count: int, most: int) -> np.ndarray:
    """At most `most` numbers below `count`, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))


def _aligned(arrays, names, count, path):
    """The first array of `names` that is there, one entry an image, or None."""
    key = next((k for k in names if k in arrays), None)
    if key is None:
        return None
    if len(arrays[key]) != count:
        raise InputError(f"{path}: `{key}` has {len(arrays[key])} entries for {count} images")
    return arrays[key]
