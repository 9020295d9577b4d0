"""The mixture of patches that a network corrects: fitted once to the noisy training images, kept in the workdir."""

import dataclasses
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats.arrays import load_arrays, write_arrays
from tweedie_diffusion.data.noisy import NoisyImages
from tweedie_diffusion.data.sources import spaced
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.models.patch_mixture import PatchMixture, fit_patch_mixture
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.processes import on_first_process
from tweedie_diffusion.training.workdir import has_checkpoints

MAX_BYTES = 2**28  # of the images that it is fitted to
PATCHES_EACH = 100  # component, at least, in all training images


def check_patches(model: Config, facts: DataFacts) -> None:
    """Raise InputError if the training images hold too few patches for the mixture of config.model."""
    patches = facts.num_train * math.prod(length - model.patch_side + 1 for length in facts.shape[:-1])
    if patches < PATCHES_EACH * model.patch_components:
        what = "patches" if len(facts.shape) == 3 else "vectors"
        raise InputError(
            f"{patches} {what} are too few for model.patch_components={model.patch_components}: "
            f"lower it to at most {patches // PATCHES_EACH}, or set 0"
        )


def open_mixture(workdir: Path, config: Config, noisy: NoisyImages, given: PatchMixture | None = None) -> PatchMixture:
    """The mixture of the run: with a checkpoint the saved one, else that of init_from, if given, or one fitted now."""
    if has_checkpoints(workdir) or not on_first_process():
        return read_mixture(workdir)
    mixture = given
    if mixture is None:
        tqdm.write(f"fitting a mixture of {config.model.patch_components} to the noisy data", file=sys.stderr)
        mixture = mixture_of(noisy, config.model, config.seed)
    with whole(workdir / "patch_mixture.npz") as (unfinished,):
        write_arrays(unfinished, {name: np.asarray(array) for name, array in dataclasses.asdict(mixture).items()})
    return mixture


def read_mixture(workdir: Path) -> PatchMixture:
    """The mixture that a run has saved.

    Raises:
        InputError: if it cannot be read.
    """
    path = workdir / "patch_mixture.npz"
    try:
        return PatchMixture(**{name: jnp.asarray(array) for name, array in load_arrays(path).items()})
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error})") from error


def mixture_of(noisy: NoisyImages, model: Config, seed: int) -> PatchMixture:
    """The mixture of config.model, from the images with at most the median noise, all brought to the same level."""
    levels = noisy.sigma_tn
    usable = np.flatnonzero(levels <= np.quantile(levels, 0.5, method="higher"))
    most = max(MAX_BYTES // noisy[0]["x_tn"].nbytes, 1)
    chosen = usable[spaced(len(usable), most)]
    sigma_tn = float(levels[chosen].max())
    x_tn = noisy.rows(chosen)["x_tn"]
    cleaner = np.flatnonzero(levels[chosen] < sigma_tn)
    if len(cleaner):
        key = purpose_key(seed, "noise of the patches")
        more = add_noise(key, jnp.asarray(x_tn[cleaner]), sigma_s=levels[chosen][cleaner], sigma_t=sigma_tn)
        x_tn[cleaner] = jax.device_get(more)
    return fit_patch_mixture(
        x_tn, sigma_tn=sigma_tn, components=model.patch_components, side=model.patch_side, seed=seed
    )
