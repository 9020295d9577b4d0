"""Arrays that programs read, and where they may write."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats.arrays import load_arrays, pick_images, pick_key
from tweedie_diffusion.data.scaling import Scaling, infer_scaling
from tweedie_diffusion.data.sources import check_values, read_levels


@dataclasses.dataclass(frozen=True)
class StoredImages:
    """Images of an .npz or .npy, as they are stored.

    Attributes:
        images: [N, H, W, C] or [N, D] in the stored dtype.
        sigma_tn: [N] noise levels, if the file states them.
        key, ndim: name and axes of that array in the file.
        others: all other arrays.
    """

    images: np.ndarray
    sigma_tn: np.ndarray | None
    key: str
    ndim: int
    others: dict[str, np.ndarray]


def read_stored(path: Path) -> StoredImages:
    """Read an .npz or .npy.

    Raises:
        InputError: if it cannot be read, or an image holds NaN or infinity.
    """
    arrays = load_arrays(path)
    images = pick_images(arrays, path)
    check_values(images, Scaling(-1, 1, images.dtype.name), str(path), clean=False)
    key = pick_key(arrays, path)
    ndim = arrays.pop(key).ndim
    return StoredImages(images, read_levels(arrays, len(images), path), key, ndim, arrays)


def scaling_for(dtype: np.dtype, trained: Scaling) -> Scaling:
    """How to read images of a dtype for a model trained on `trained`: floats in the range of the training images,
    integers of another dtype in the range of that dtype, unless the training images had a range of their own.
    """
    known = np.dtype(trained.dtype).kind == "f" or trained.dtype in ("uint8", "uint16")
    usual = infer_scaling(trained.dtype, None, bounded=trained.bounded) if known else None
    if dtype.kind == "f" or dtype.name == trained.dtype or trained != usual:
        return trained.of_dtype(dtype)
    return infer_scaling(dtype, None, bounded=trained.bounded)


def check_output(path: Path, suffixes: tuple[str, ...]) -> Path:
    """`path`, if a file of one of these kinds can be written there; InputError if not, before any work is done."""
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path} must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    check_parent(path)
    return path


def check_parent(path: Path) -> None:
    """Raise InputError if nothing can be written beside `path`, before any work is done."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise InputError(f"the folder of {path} does not exist: create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"the folder of {path} may not be written to: change its permissions, or name another")
