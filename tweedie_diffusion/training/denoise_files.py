"""Denoise files: read, scale, denoise or draw from the posterior, scale back, write."""

from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.files import ARRAYS, check_output, read_images, scaling_for, write_images
from tweedie_diffusion.data.folder import SUFFIXES
from tweedie_diffusion.training.trained import TrainedModel


def denoise_files(
    model: TrainedModel, source: Path, out: Path, *, sigma: float | None, num_samples: int, seed: int
) -> np.ndarray:
    """Write the posterior mean of every image of `source` to `out`, and `num_samples` draws from the posterior.

    An .npz gets `images`, and with draws `samples` [N, num_samples, ...] and `std` [N, ...], their spread. Image files
    get NAME.png and NAME_sample0.png, ….

    Args:
        model: trained.
        source: .npz, .npy, PNG, JPEG, or a folder.
        out: .npz or .npy for arrays, .png for one image, a new or empty folder for a folder.
        sigma: noise of the images in [-1, 1] units; None takes `sigma_tn` of the .npz, or that of the training images.
        num_samples: draws an image.
        seed: of the draws.

    Returns:
        [N] the levels used.

    Raises:
        InputError: if something cannot be read, written, or has another shape.
    """
    read = read_images(source, model.facts.shape)
    _check_out(source, out, num_samples)
    _check_draws(out, read.names, num_samples)
    scaling = scaling_for(read.images.dtype, model.facts.scaling)
    levels = _levels(model, sigma, read.sigma_tn, len(read.images))
    x_t = scaling.to_unit(read.images)
    mean = scaling.from_unit(model.denoise_all(x_t, levels))
    if not num_samples:
        write_images(out, mean, read.names)
        return levels
    samples = np.stack([model.posterior_sample(x_t, levels, n, seed=seed) for n in range(num_samples)], axis=1)
    stored = scaling.from_unit(samples)
    if read.names is None and out.suffix == ".npz":
        spread = samples.std(axis=1) * np.float32((scaling.high - scaling.low) / 2)
        write_images(out, mean, None, {"samples": stored, "std": spread})
        return levels
    write_images(out, mean, read.names)
    for n in range(num_samples):
        if read.names is None:
            write_images(_numbered(out, n), stored[:, n], None)
        else:
            write_images(out, stored[:, n], [str(_numbered(Path(name), n)) for name in read.names])
    return levels


def _levels(model, sigma, stated, count):
    facts = model.facts
    if sigma is not None:
        if not (np.isfinite(sigma) and sigma > 0):
            raise InputError(f"--sigma must be > 0, a standard deviation in units of [-1, 1] (got {sigma})")
        return np.full(count, sigma, np.float32)
    if stated is not None:
        return stated
    if not 0 < facts.sigma_tn_min == facts.sigma_tn_max:
        raise InputError("state the noise of the images: --sigma=…, in units of [-1, 1]")
    return np.full(count, facts.sigma_tn_max, np.float32)


def _check_out(source, out, num_samples):
    if source.is_dir():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists already: name a new folder for the results")
    elif source.suffix.lower() in SUFFIXES:
        check_output(out, (".png",))
    else:
        check_output(out, ARRAYS[:1] if num_samples else ARRAYS)
    if out.is_file():
        raise InputError(f"{out} exists already: name another file, or remove it")


def _check_draws(out, names, num_samples):
    """The files of the draws must not replace others."""
    if names is None:
        taken = [_numbered(out, n) for n in range(num_samples) if out.suffix == ".png" and _numbered(out, n).exists()]
        if taken:
            raise InputError(f"{taken[0]} exists already: name another file, or remove it")
        return
    stems = {str(Path(name).with_suffix("")) for name in names}
    clashes = sorted(s for s in stems for n in range(num_samples) if f"{s}_sample{n}" in stems)
    if clashes:
        raise InputError(f"a draw of {clashes[0]} would replace another image's result: rename one of the two")


def _numbered(path, n):
    """NAME.png -> NAME_sampleN.png."""
    return path.with_stem(f"{path.stem}_sample{n}")
