"""Noisy images in, clean images out, in the format they came in."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.folder import SUFFIXES, image_files, read_image
from tweedie_diffusion.data.scaling import Scaling, infer_scaling
from tweedie_diffusion.data.sources import check_values, load_arrays, pick_images, read_levels

ARRAYS = (".npz", ".npy")


@dataclasses.dataclass(frozen=True)
class ImageFiles:
    """Images as they are stored.

    Attributes:
        images: [N, ...] in the stored dtype.
        names: [N] relative paths, for a folder.
        sigma_tn: [N] noise levels in [-1, 1] units, if the file states them.
    """

    images: np.ndarray
    names: list[str] | None = None
    sigma_tn: np.ndarray | None = None


def read_images(path: Path, shape: tuple[int, ...]) -> ImageFiles:
    """Read an .npz, an .npy, one PNG or JPEG, or a folder of them.

    Args:
        path: what to read.
        shape: that every image must have.

    Raises:
        InputError: if it cannot be read, or an image has another shape.
    """
    if path.is_dir():
        files = image_files(path)
        images = [_of_shape(read_image(f), shape, f) for f in files]
        if len({image.dtype for image in images}) > 1:
            raise InputError(f"{path} mixes 8-bit and 16-bit images: denoise them apart")
        names = [str(f.relative_to(path)) for f in files]
        _check_stems(names)
        return ImageFiles(np.stack(images), names)
    if path.suffix.lower() in SUFFIXES and path.is_file():
        return ImageFiles(_of_shape(read_image(path), shape, path)[None])
    if path.suffix in ARRAYS:
        arrays = load_arrays(path)
        images = pick_images(arrays, path)
        _of_shape(images[0], shape, path)
        check_values(images, Scaling(-1, 1, images.dtype.name), str(path), clean=False)
        return ImageFiles(images, sigma_tn=read_levels(arrays, len(images), path))
    raise InputError(
        f"{path} is not an image, a folder of images, an .npz or an .npy" if path.exists() else f"{path} does not exist"
    )


def scaling_for(dtype: np.dtype, trained: Scaling) -> Scaling:
    """How to read images of a dtype for a model trained on `trained`: floats in the range of the training images,
    integers of another dtype in the range of that dtype.
    """
    if dtype.kind == "f" or dtype.name == trained.dtype:
        return dataclasses.replace(trained, dtype=dtype.name)
    return infer_scaling(dtype, None, bounded=trained.bounded)


def check_output(path: Path, suffixes: tuple[str, ...]) -> Path:
    """`path`, if a file of one of these kinds can be written there; InputError if not, before any work is done."""
    if path.suffix not in suffixes:
        raise InputError(f"{path} must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise InputError(f"{path} is a folder: name a file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"the folder of {path} does not exist: create it first")
    return path


def write_images(
    path: Path, images: np.ndarray, names: list[str] | None, arrays: dict[str, np.ndarray] | None = None
) -> None:
    """Write images in their stored dtype: arrays to .npz or .npy, one image to PNG, several to a folder of PNGs.

    Args:
        path: where to.
        images: [N, ...].
        names: [N] relative paths for a folder; .jpg becomes .png, which loses nothing.
        arrays: further ones for an .npz.
    """
    if names is not None:
        for name, image in zip(names, images, strict=True):
            file = (path / name).with_suffix(".png")
            file.parent.mkdir(parents=True, exist_ok=True)
            _write_png(file, image)
    elif path.suffix == ".npz":
        np.savez(path, allow_pickle=False, images=images, **(arrays or {}))
    elif path.suffix == ".npy":
        np.save(path, images)
    else:
        _write_png(path, images[0])


def _check_stems(names):
    """Two files that differ in their suffix alone would be written to one PNG."""
    seen = {}
    for name in names:
        other = seen.setdefault(Path(name).with_suffix(""), name)
        if other != name:
            raise InputError(f"{other} and {name} would be written to one file: rename one")


def _write_png(path, image):
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(path)


def _of_shape(image, shape, path):
    if image.shape != tuple(shape):
        raise InputError(f"{path} is {_words(image.shape)}, and the model takes {_words(shape)}")
    return image


def _words(shape):
    return "×".join(map(str, shape))
