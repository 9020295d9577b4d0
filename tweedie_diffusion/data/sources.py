"""Where images come from: each source opens to one random-access `Images`, whatever its format."""

import dataclasses
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling, infer_scaling
from tweedie_diffusion.data.synthetic import MIXTURES
from tweedie_diffusion.diffusion.types import DenoiseFn

# What NumPy lets through when a file is damaged; RuntimeError: from zipfile, for flags it does not know.
DAMAGED = (ValueError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error, tokenize.TokenError)


@dataclasses.dataclass(frozen=True)
class Images:
    """Images (or vectors) by index, as they are stored.

    Attributes:
        read: index -> array of `shape` in the stored dtype.
        count: how many there are.
        shape: of one, [H, W, C] or [D].
        scaling: between stored values and [-1, 1].
        num_classes: 0, or how many classes `read_label` may return.
        read_label: index -> class, or None without classes.
        sigma_tn: [count] noise levels in [-1, 1] units when the source itself states them, or None.
        oracle: the exact denoiser, for synthetic data whose law is known.
    """

    read: Callable[[int], np.ndarray]
    count: int
    shape: tuple[int, ...]
    scaling: Scaling
    num_classes: int = 0
    read_label: Callable[[int], int] | None = None
    sigma_tn: np.ndarray | None = None
    oracle: DenoiseFn | None = None


def open_images(
    source: str, *, value_range=None, image_size: int = 0, clean: bool = True, seed: int = 0, num_examples: int = 10_000
) -> Images:
    """Open `source`.

    Args:
        source: `digits`, `mixture_2d` (or `_16d`, `_64d`), `tfds:NAME`, a path to an .npz or .npy file, or a folder of
            PNG/JPEG images.
        value_range: (low, high) of the stored values; None infers it from the dtype.
        image_size: crop to the central square and resize to this side; 0 leaves images as they are.
        clean: whether the images are free of noise (then values outside the range are an error).
        seed: of synthetic data.
        num_examples: of synthetic data.

    Raises:
        InputError: if the source does not exist, is empty, or holds something that cannot be used.
    """
    if image_size and not clean:
        raise InputError("data.image_size resizes images, which would change their noise: set it to 0 for noisy images")
    if source in ("digits", *MIXTURES) and (image_size or value_range is not None):
        raise InputError(f"{source} has a size and a range of its own: leave data.image_size=0 and data.range=()")
    if source == "digits":
        return _digits()
    if source in MIXTURES:
        points, labels, oracle = MIXTURES[source](num_examples, seed)
        return in_memory(points, Scaling(-1.0, 1.0, "float32", bounded=False), labels=labels, oracle=oracle)
    if source.startswith("tfds:"):
        from tweedie_diffusion.data.tfds_source import open_tfds

        return open_tfds(source.removeprefix("tfds:"), value_range=value_range, image_size=image_size)
    path = Path(source).expanduser()
    if path.is_dir():
        from tweedie_diffusion.data.folder import open_folder

        return open_folder(path, value_range=value_range, image_size=image_size, clean=clean)
    if path.suffix in (".npz", ".npy"):
        return _open_arrays(path, value_range, image_size, clean)
    raise InputError(
        f"data.source={source!r} is neither a folder, an .npz or .npy file, nor one of digits, mixture_2d, tfds:NAME"
    )


def in_memory(stored: np.ndarray, scaling: Scaling, *, labels: np.ndarray | None = None, **fields) -> Images:
    """`Images` of an array [N, ...] held in memory, with labels [N] if there are any."""
    if labels is not None:
        fields |= {"num_classes": int(labels.max()) + 1, "read_label": lambda i: int(labels[i])}
    return Images(read=stored.__getitem__, count=len(stored), shape=stored.shape[1:], scaling=scaling, **fields)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name, or of an .npy under `images`; never unpickles.

    Raises:
        InputError: if the file is missing, damaged or holds pickled objects.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return dict(loaded) if isinstance(loaded, np.lib.npyio.NpzFile) else {"images": loaded}
    except DAMAGED as error:
        raise InputError(f"{path} is not a readable NumPy file ({error})") from error


def pick_images(arrays: dict[str, np.ndarray], path: Path) -> np.ndarray:
    """The images among named arrays as [N, H, W, C] or [N, D]: `images`, `train_images`, or the only array.

    Raises:
        InputError: if none or several could be meant, or the array is not numeric images.
    """
    key = next((k for k in ("images", "train_images") if k in arrays), None)
    if key is None:
        if len(arrays) != 1:
            raise InputError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}: name the one to use `images`")
        (key,) = arrays
    stored = arrays[key]
    if stored.ndim not in (2, 3, 4) or stored.dtype.kind not in "uif" or stored.size == 0:
        raise InputError(
            f"{path}: `{key}` must be numbers of shape [N, H, W], [N, H, W, C] or [N, D] "
            f"(got {stored.dtype} of shape {list(stored.shape)})"
        )
    return stored[..., None] if stored.ndim == 3 else stored


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
    slack = 1e-3 * (scaling.high - scaling.low)
    low, high = float(stored.min()), float(stored.max())
    if low < scaling.low - slack or high > scaling.high + slack:
        raise InputError(
            f"{what} holds values from {low:g} to {high:g}, outside ({scaling.low:g}, {scaling.high:g}): "
            f"state their range, e.g. --config.data.range='({min(low, 0):g}, {high:g})'"
        )


def _digits():
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    stored = bunch.images.astype(np.float32)[..., None]
    return in_memory(stored, Scaling(0.0, 16.0, "float32"), labels=bunch.target)


def _open_arrays(path, value_range, image_size, clean):
    arrays = load_arrays(path)
    stored = pick_images(arrays, path)
    scaling = infer_scaling(stored.dtype, value_range, bounded=stored.ndim == 4)
    check_values(stored, scaling, str(path), clean=clean)
    if value_range is None and stored.dtype.kind == "f" and stored.ndim == 4:
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


def _check_usual_range(stored, path):
    """Floats are taken to lie in [−1, 1]; refuse those that plainly mean something else."""
    low, high = float(stored.min()), float(stored.max())
    if 0 <= low < high <= 1:
        raise InputError(
            f"{path} holds values from {low:g} to {high:g}: state --config.data.range='(0, 1)' (or '(-1, 1)')"
        )
    if max(-low, high) > 10:
        raise InputError(f"{path} holds values from {low:g} to {high:g}: state the range of clean ones in data.range")


def _aligned(arrays, names, count, path):
    """The first array of `names` that is there, one entry an image, or None."""
    key = next((k for k in names if k in arrays), None)
    if key is None:
        return None
    if len(arrays[key]) != count:
        raise InputError(f"{path}: `{key}` has {len(arrays[key])} entries for {count} images")
    return arrays[key]
