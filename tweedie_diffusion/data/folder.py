"""A folder of PNG and JPEG images."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.resize import crop_and_resize
from tweedie_diffusion.data.scaling import infer_scaling
from tweedie_diffusion.data.sources import Images

SUFFIXES = (".png", ".jpg", ".jpeg")


def open_folder(path: Path, *, value_range=None, image_size: int = 0, clean: bool = True) -> Images:
    """The images of a folder and its sub-folders, in the order of their names.

    Every file is decoded once now, so that a bad one is named before training, and again whenever it is read.

    Raises:
        InputError: if there is none, one cannot be read, or sizes, channels or depths are mixed.
    """
    files = image_files(path)

    def read(i: int) -> np.ndarray:
        image = read_image(files[i])
        return crop_and_resize(image, image_size) if image_size else image

    def kind(i: int):
        try:
            image = read(i)
        except InputError as error:
            return error
        return image.shape, image.dtype

    with ThreadPoolExecutor() as pool:
        kinds = list(pool.map(kind, range(len(files))))
    errors = [k for k in kinds if isinstance(k, InputError)]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InputError(f"{errors[0]}{more}: remove or replace it")
    good = [k for k in kinds if not isinstance(k, InputError)]
    odd = next((i for i, k in enumerate(good) if k != good[0]), None)
    if odd is not None:
        raise InputError(
            f"{files[odd]} is {_words(good[odd])} but {files[0]} is {_words(good[0])}: images must be of one kind"
            + (" (data.image_size makes clean images one size)" if clean and not image_size else "")
        )
    shape, dtype = good[0]
    scaling = infer_scaling(dtype, value_range, bounded=True)
    return Images(read, len(files), shape, scaling)


def image_files(path: Path) -> list[Path]:
    """The PNG and JPEG files under a folder, sorted by name; InputError if there is none."""
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and not f.name.startswith("."))
    if not files:
        raise InputError(f"there is no PNG or JPEG image in {path}")
    return files


def read_image(path: Path) -> np.ndarray:
    """One image file as [H, W, C]: uint8, or uint16 for 16-bit grey.

    Raises:
        InputError: if it cannot be decoded, or has transparency.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
                raise InputError(f"{path} has transparency, which has no noise model: save it without")
            if image.format == "PNG" and image.mode == "RGB" and _bits(path) == 16:
                raise InputError(f"{path} has 16 bits a colour, which would be read as 8: save it as .npz or .npy")
            if image.mode.startswith("I;16") or image.mode == "I":
                array = np.asarray(image).astype(np.uint16)
            else:
                array = np.asarray(image if image.mode in ("L", "RGB") else image.convert(_plain(image.mode)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not a readable image") from error
    return array[..., None] if array.ndim == 2 else array


def _bits(png: Path) -> int:
    """Bits a channel, from the header: Pillow does not tell."""
    with png.open("rb") as file:
        return file.read(25)[24]


def _plain(mode):
    """The mode a stored mode is expanded to: bilevel to grey, palette and others to colour."""
    return "L" if mode == "1" else "RGB"


def _words(kind):
    shape, dtype = kind
    return f"{shape[0]}×{shape[1]} with {shape[2]} channel{'s' if shape[2] > 1 else ''} of {dtype}"
