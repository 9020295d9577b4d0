"""File formats: each module reads and writes one family, as frames [H, W, C] in the dtype they are stored in."""

import dataclasses
import importlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tweedie_diffusion.data.errors import InputError

# The module of each suffix; its library is imported when the first such file is met.
MODULES = {
    ".png": "pictures",
    ".jpg": "pictures",
    ".jpeg": "pictures",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".fits": "fits",
    ".fit": "fits",
    ".fts": "fits",
    ".mrc": "mrc",
    ".mrcs": "mrc",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".npy": "arrays",
    ".npz": "arrays",
}


Source = Path | bytes  # a file, or what a member of an archive holds
MOST_DEFLATED, SMALL = 1032, 2**28  # bytes that deflate packs into one at most; and those that no machine minds


@dataclasses.dataclass(frozen=True)
class Frames:
    """The images of one file.

    Attributes:
        count: how many: pages of a TIFF, planes of a stack, 1 of a picture.
        shape: of one, [H, W, C].
        dtype: as stored.
        read: index -> [H, W, C] in that dtype, in the byte order of this machine.
        header: what the format keeps beside the pixels, for `write_frames` of the same module.
        ndim: axes of the array in the file, of formats that hold arrays.
        stated: what else is known of each image that only a file named alone is asked for.
    """

    count: int
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[int], np.ndarray]
    header: Any = None
    ndim: int = 4
    stated: tuple[str, ...] = ()


def open_frames(name: str, source: Source) -> Frames:
    """The frames of a file. Nothing stays open: each is read when asked for, from any thread.

    Args:
        name: what to call it in errors; its suffix tells the format.
        source: where it is.

    Raises:
        InputError: if it cannot be read, naming it.
    """
    return module_of(name).open_frames(name, source)


def write_frames(path: Path, frames: np.ndarray, like: Frames, note: str) -> None:
    """Write frames [N, H, W, C] in the format of `path`, with the header of `like` and a note of what made them."""
    module_of(path.name).write_frames(path, frames, like, note)


def is_image(name: str) -> bool:
    """Whether the suffix is of a format that can be read."""
    return os.path.splitext(name)[1].lower() in MODULES


def module_of(name: str) -> Any:
    """The module of a file's format.

    Raises:
        InputError: if there is none, or its library is not installed.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in MODULES:
        raise InputError(f"{name} is of no format that can be read: use {', '.join(MODULES)}")
    module = MODULES[suffix]
    try:
        return importlib.import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{name} needs {error.name}, which is not installed: pip install 'tweedie-diffusion[formats]'"
        ) from error


def opened(source: Source) -> BinaryIO:
    """A file object at the start of `source`."""
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def size_of(source: Source) -> int:
    """Its bytes."""
    return source.stat().st_size if isinstance(source, Path) else len(source)


def check_claim(name: str, claimed: int, held: int) -> None:
    """Raise InputError if a header states an image of more bytes than a file of `held` bytes can hold, packed or not,
    before memory is taken for it.
    """
    if claimed > max(SMALL, MOST_DEFLATED * held):
        raise InputError(f"{name} states an image of {claimed:.3g} bytes in a file of {held}: it is damaged")


def as_stored(frames: np.ndarray, ndim: int) -> np.ndarray:
    """Frames [N, H, W, C] with the axes they had in the file: [H, W], [N, H, W] or all four."""
    return frames if ndim == 4 or frames.shape[-1] > 1 else frames[0, ..., 0] if ndim == 2 else frames[..., 0]


def as_frame(array: np.ndarray) -> np.ndarray:
    """[H, W] or [H, W, C] as [H, W, C], in the byte order of this machine."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array[..., None] if array.ndim == 2 else array
