"""HDF5: the data set named `images`, or the only one there is."""

import math
import shutil
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import h5py
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import Frames, Source, as_frame, as_stored, check_claim, opened, size_of


def open_frames(name: str, source: Source) -> Frames:
    """The images [N, H, W] or [N, H, W, C] of the file, or its one image [H, W]; each is read when asked for."""
    with _tree(name, source) as tree:
        dataset = _choose(name, tree)
        others = _check_sources(name, source, dataset)
        shape, dtype = dataset.shape, dataset.dtype.newbyteorder("=")
        held = size_of(source) + sum(other.stat().st_size for other in others)
        check_claim(name, math.prod(shape[1:] if len(shape) > 2 else shape) * dtype.itemsize, held)
        place, first = dataset.name, as_frame(dataset[0] if len(shape) > 2 else dataset[()])

    def read(index: int) -> np.ndarray:
        if index == 0:
            return first
        with _tree(name, source) as tree:
            dataset: Any = tree[place]
            return as_frame(dataset[index])

    one = shape[1:] if len(shape) > 2 else shape
    count = shape[0] if len(shape) > 2 else 1
    return Frames(count, one if len(one) == 3 else (*one, 1), dtype, read, (source, place), ndim=len(shape))


def write_frames(path: Path, frames: np.ndarray, like: Frames, note: str) -> None:
    """The same file with other pixels, and the attribute `tweedie_diffusion` that says what made them."""
    source, place = like.header or (b"", "images")
    pixels = as_stored(frames, like.ndim)
    if source:
        with opened(source) as file, path.open("wb") as copy:
            shutil.copyfileobj(file, copy)
    with h5py.File(path, "r+" if source else "w") as written:
        dataset: Any = written.get(place)
        if dataset is None:
            dataset = written.create_dataset(place, data=pixels)
        elif dataset.is_virtual or dataset.external:  # its pixels lie in other files, which are not ours to change
            attributes = dict(dataset.attrs)
            del written[place]
            dataset = written.create_dataset(place, data=pixels)
            dataset.attrs.update(attributes)
        else:
            dataset[...] = pixels
        dataset.attrs["tweedie_diffusion"] = note


@contextmanager
def _tree(name, source):
    try:
        with h5py.File(source if isinstance(source, Path) else opened(source), "r") as tree:
            yield tree
    except InputError:
        raise
    except Exception as error:  # of damaged files: OSError, RuntimeError, ValueError, KeyError
        raise InputError(f"{name} is not a readable HDF5 file ({error})") from error


def _check_sources(name, source, dataset) -> list[Path]:
    """The other files that hold the pixels of a data set. HDF5 shows zeros for those it does not find."""
    virtual = [part.file_name for part in dataset.virtual_sources()] if dataset.is_virtual else []
    stated = [file for file in virtual if file != "."] + [file for file, *_ in dataset.external or ()]
    if stated and not isinstance(source, Path):
        raise InputError(f"{name} shows the pixels of other files, which an archive cannot: unpack it")
    for file in stated:
        if PurePath(file).is_absolute() or ".." in PurePath(file).parts:
            raise InputError(f"{name} shows the pixels of {file}, outside of its folder: put both into one")
    found = [source.parent / file for file in stated if "%" not in file]  # with %, the name of a series
    for file in found:
        if not file.is_file():
            raise InputError(f"{name} shows the pixels of {file.name}, which is not there")
    return found


def _choose(name, tree):
    found, elsewhere = {}, []

    def visit(path, item):
        if isinstance(item, h5py.Dataset) and item.ndim in (2, 3, 4) and item.dtype.kind in "uif":
            found[path] = item

    def visit_link(path, link):
        if isinstance(link, h5py.ExternalLink):
            elsewhere.append(link.filename)

    tree.visititems(visit)
    if "images" in found or len(found) == 1:
        return found.get("images") or next(iter(found.values()))
    tree.visititems_links(visit_link)
    if elsewhere and not found:
        raise InputError(f"{name} only links to {', '.join(elsewhere)}, and links are not followed: name those files")
    raise InputError(f"{name} holds {', '.join(sorted(found)) or 'no images'}: name the one to use `images`")
