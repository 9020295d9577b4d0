"""MRC: micrographs, and stacks of them."""

import textwrap
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
from mrcfile.mrcinterpreter import MrcInterpreter

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import Frames, Source, as_frame, as_stored, opened

AXES = ("cellb", "mapc", "mapr", "maps")  # the angles of the cell, and which axis is which
LABEL, LABELS = 80, 10  # characters of one, and how many, says the format


def open_frames(name: str, source: Source) -> Frames:
    """The sections of the file; a file on disk is read a section at a time."""
    with _open(name, source) as mrc:
        data, _ = _pixels_and_header(mrc)
        shape, dtype = data.shape, data.dtype.newbyteorder("=")
        if len(shape) not in (2, 3) or dtype.kind not in "uif" or 0 in shape:
            raise InputError(f"{name} holds {dtype} of shape {list(shape)}: only micrographs and stacks are read")
        first = as_frame(np.array(data[0] if len(shape) == 3 else data))

    def read(index: int) -> np.ndarray:
        if index == 0:
            return first
        with _open(name, source) as mrc:
            return as_frame(np.array(_pixels_and_header(mrc)[0][index]))

    count = shape[0] if len(shape) == 3 else 1
    return Frames(count, (*shape[-2:], 1), dtype, read, (name, source), ndim=len(shape))


def write_frames(path: Path, frames: np.ndarray, like: Frames, note: str) -> None:
    """The same pixel size and place, stack or volume, extended header and labels, with those of what made it."""
    header = _header(*like.header) if like.header else {}
    ndim = like.ndim if header else 2 if len(frames) == 1 else 3
    with mrcfile.new(path, as_stored(frames, ndim), overwrite=True) as written:
        fields, labels = _pixels_and_header(written)[1], textwrap.wrap(note, LABEL)
        if header:
            if header["stack"]:
                written.set_image_stack()
            written.voxel_size = header["voxel_size"]
            written.nstart = header["start"]
            fields.origin = header["origin"]
            for name, value in zip(AXES, header["axes"], strict=True):
                fields[name] = value
            fields.exttyp, extended = header["extended"]
            written.set_extended_header(extended)
            labels = header["labels"][: LABELS - len(labels)] + labels
        fields.nlabl = 0
        for line in labels:
            written.add_label(line)


def _header(name: str, source: Source) -> dict[str, Any]:
    """What is written back beside the pixels."""
    with _open(name, source) as mrc:
        _, fields = _pixels_and_header(mrc)
        return {
            "voxel_size": mrc.voxel_size.copy(),
            "origin": fields.origin.copy(),
            "start": mrc.nstart.copy(),
            "labels": mrc.get_labels(),
            "stack": mrc.is_image_stack(),
            "axes": [fields[name].copy() for name in AXES],
            "extended": (fields.exttyp.copy(), np.array(mrc.extended_header)),
        }


def _pixels_and_header(mrc) -> tuple[Any, Any]:
    return mrc.data, mrc.header


@contextmanager
def _open(name, source):
    try:
        if isinstance(source, Path):
            with mrcfile.mmap(source, mode="r") as mrc:
                yield mrc
        else:
            yield MrcInterpreter(iostream=opened(source))
    except (ValueError, OSError, RuntimeWarning, IndexError, OverflowError, MemoryError) as error:
        raise InputError(f"{name} is not a readable MRC file ({str(error) or 'it states too much'})") from error
