"""NumPy's .npy and .npz; nothing pickled is ever read."""

import io
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import MOST_DEFLATED, Frames, Source, as_frame, as_stored, opened

STATED = {"sigma_tn", "labels", "train_labels"}  # of each image, read from a single .npz only
ZIP = b"PK"  # what an .npz begins with
# What NumPy lets through when a file is damaged; RuntimeError: from zipfile, for flags it does not know.
DAMAGED = (
    *(ValueError, EOFError, OSError, RuntimeError, OverflowError, MemoryError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, struct.error),
)


def open_frames(name: str, source: Source) -> Frames:
    """The images of an .npy or .npz [N, H, W] or [N, H, W, C]; of an .npy also one image [H, W].

    A large .npy on disk is mapped, and read an image at a time.
    """
    if isinstance(source, Path) and _is_npy(name):
        arrays = {"images": _mapped(name, source)}
    else:
        arrays = load_arrays(source, name)
    key = pick_key(arrays, name)
    single = _is_npy(name) and arrays[key].ndim == 2
    images = arrays[key][None, ..., None] if single else pick_images(arrays, name)
    if images.ndim != 4 or images.dtype.kind not in "uif":
        raise InputError(f"{name} holds vectors, not images")
    read = lambda i: as_frame(np.array(images[i]))
    header, stated = (key, source), tuple(sorted(set(arrays) & STATED))
    return Frames(
        len(images), images.shape[1:], images.dtype.newbyteorder("="), read, header, arrays[key].ndim, stated=stated
    )


def write_frames(path: Path, frames: np.ndarray, like: Frames, note: str) -> None:
    """An .npz with the array of the same name, all others as they were, and the note; an .npy holds nothing else."""
    key, source = like.header or ("images", None)
    more = {} if _is_npy(path.name) else {"note": np.array(note)}
    others = load_arrays(source, path.name) if source and more else {}
    write_arrays(path, others | {key: as_stored(frames, like.ndim)} | more)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Named arrays to an .npz, or the one there is to an .npy."""
    with path.open("wb") as file:  # NumPy would add a suffix of its own
        if _is_npy(path.name):
            (array,) = arrays.values()
            np.save(file, array, allow_pickle=False)
        else:
            np.savez(file, allow_pickle=False, **arrays)


def write_stacked(
    path: Path, key: str, parts: Iterable[np.ndarray], count: int, others: dict[str, np.ndarray] | None = None
) -> None:
    """An .npz of an array [count, ...], the parts one after another, one held at a time, and of other arrays; or an
    .npy of that array alone.
    """
    if _is_npy(path.name):
        with path.open("wb") as file:
            _write_parts(file, parts, count)
        return
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
            _write_parts(file, parts, count)
        for name, array in (others or {}).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def _write_parts(file, parts, count):
    for i, part in enumerate(parts):
        if i == 0:
            header = {"descr": np.lib.format.dtype_to_descr(part.dtype), "fortran_order": False}
            np.lib.format.write_array_header_1_0(file, header | {"shape": (count, *part.shape[1:])})
        file.write(np.ascontiguousarray(part).data)


def load_arrays(source: Source, name: str = "") -> dict[str, np.ndarray]:
    """The arrays of an .npz by name, or of an .npy under `images`; never unpickles.

    Raises:
        InputError: if the file is missing, damaged or holds pickled objects.
    """
    name = name or str(source)
    if isinstance(source, Path) and not source.is_file():
        raise InputError(f"{name} does not exist")
    try:
        with opened(source) as file:
            size, zipped = file.seek(0, io.SEEK_END), file.seek(0) == 0 and file.read(len(ZIP)) == ZIP
            file.seek(0)
            return dict(_members(file, size)) if zipped else {"images": _read(file, size)}
    except DAMAGED as error:
        raise InputError(f"{name} is not a readable NumPy file ({error})") from error


def _members(file: BinaryIO, size: int) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a zip archive of `size` bytes, by name; ValueError for what NumPy does not write."""
    with zipfile.ZipFile(file) as archive:
        for member in archive.infolist():
            inside = PurePosixPath(member.filename)
            if inside.is_absolute() or ".." in inside.parts:
                raise ValueError(f"its array {inside} lies outside of it")
            if inside.suffix != ".npy" or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"its {inside} is no array of NumPy")
            if member.file_size > MOST_DEFLATED * size:
                raise ValueError(f"its {inside} states {member.file_size:.3g} bytes in a file of {size}")
            with archive.open(member) as array:
                yield member.filename.removesuffix(".npy"), _read(array, member.file_size)


def _read(file, size: int) -> np.ndarray:
    """The array of an .npy of `size` bytes; ValueError if its header states more, before memory is taken for it."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size - file.tell():
        raise ValueError(f"its header states {list(shape)} of {dtype}, which it does not hold")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


def pick_key(arrays: dict[str, np.ndarray], name: str | Path) -> str:
    """The name of the images among named arrays: `images`, `train_images`, or that of the only array but for a note."""
    named = [key for key in arrays if key != "note"]
    key = next((k for k in ("images", "train_images") if k in arrays), named[0] if len(named) == 1 else None)
    if key is None:
        raise InputError(f"{name} holds {', '.join(sorted(arrays)) or 'nothing'}: name the one to use `images`")
    return key


def _is_npy(name):
    return Path(name).suffix.lower() == ".npy"


def pick_images(arrays: dict[str, np.ndarray], name: str | Path) -> np.ndarray:
    """The images among named arrays as [N, H, W, C] or [N, D]: `images`, `train_images`, or the only array.

    Raises:
        InputError: if none or several could be meant, or the array is not numeric images.
    """
    key = pick_key(arrays, name)
    stored = arrays[key]
    if stored.ndim not in (2, 3, 4) or stored.dtype.kind not in "uif" or stored.size == 0:
        raise InputError(
            f"{name}: `{key}` must be numbers of shape [N, H, W], [N, H, W, C] or [N, D] "
            f"(got {stored.dtype} of shape {list(stored.shape)})"
        )
    return stored[..., None] if stored.ndim == 3 else stored


def _mapped(name, path):
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as error:
        raise InputError(f"{name} is not a readable NumPy file ({error})") from error
