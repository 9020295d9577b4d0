"""FITS: the first image of the file, its planes the frames."""

import math
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import Frames, Source, as_frame, check_claim, opened, size_of


def open_frames(name: str, source: Source) -> Frames:
    """The planes of the first image of two or three axes, scaled as its header says; InputError for BLANK pixels."""
    with _first_image(name, source) as (_, unit):
        shape = unit.shape
        check_claim(name, math.prod(shape[-2:]) * abs(unit.header["BITPIX"]) // 8, size_of(source))
        if "BLANK" in unit.header:
            raise InputError(f"{name} marks pixels as BLANK, which are no measurements: fill or crop them")
        first = as_frame(np.asarray(unit.section[0] if len(shape) == 3 else unit.section[:, :]))

    def read(index: int) -> np.ndarray:
        if index == 0:
            return first
        with _first_image(name, source) as (_, unit):
            return as_frame(np.asarray(unit.section[index]))

    return Frames(shape[0] if len(shape) == 3 else 1, first.shape, first.dtype, read, source)


def write_frames(path: Path, frames: np.ndarray, like: Frames, note: str) -> None:
    """The same file with other pixels, and a HISTORY of what made them; other tables and images stay as they were."""
    planes = frames[..., 0]
    if like.header is None:
        image = fits.PrimaryHDU(planes[0] if len(planes) == 1 else planes)
        image.header.add_history(note)
        image.writeto(path, overwrite=True)
        return
    with _first_image(path.name, like.header, uint=False, do_not_scale_image_data=True) as (units, unit):
        header = unit.header.copy()
        for key in ("CHECKSUM", "DATASUM", "BSCALE", "BZERO"):  # of the old pixels
            header.remove(key, ignore_missing=True)
        header.add_history(note)
        kind: Any = fits.PrimaryHDU if units.index(unit) == 0 else fits.ImageHDU  # never compressed: that can lose
        units[units.index(unit)] = kind(planes[0] if len(unit.shape) == 2 else planes, header=header)
        fits.HDUList(units).writeto(path, overwrite=True)


@contextmanager
def _first_image(name, source, **how):
    try:
        with opened(source) as file, fits.open(file, memmap=False, **how) as units:
            listed: list[Any] = list(units)
            images = [unit for unit in listed if unit.is_image and len(unit.shape) in (2, 3)]
            if not images:
                raise InputError(f"{name} holds no image of two or three axes")
            yield listed, images[0]
    except (OSError, ValueError, TypeError, KeyError, IndexError, MemoryError, fits.VerifyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is not a readable FITS file ({error})") from error
