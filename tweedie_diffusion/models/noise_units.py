"""What an image shows in units of its noise, which tells at every level alike what is noise and what is not."""

import jax
import jax.numpy as jnp

from tweedie_diffusion.diffusion.rows import as_rows, expand

BOUND = 3.0  # standard deviations, beyond which a value is no noise and its size says little more
CHANNELS = 5  # for each of the image


def bounded(x: jax.Array) -> jax.Array:
    """3·tanh(x/3): what is no noise is told apart from it, and its size matters little more."""
    return BOUND * jnp.tanh(x / BOUND)


def noise_units(x_t: jax.Array, sigma) -> jax.Array:
    """3·tanh(v/(3σ)) of five v a pixel: the differences of its 2×2 patch (Haar's three), x_t + 1 and 1 − x_t.

    Of white noise of level σ each difference has variance σ², and more of it is detail; beyond −1 and 1, the ends of
    the range of clean images, all is noise. A network that reads these tells noise from image below the noise of its
    data as it has learned above, where c_in·x_t alone asks of it an amplification by 1/σ that no training above has
    shown. (Denoisers that scale with their input carry over to other levels: Mohan et al. 2020, arXiv:1906.05478.)

    Args:
        x_t: [B, H, W, C] at level sigma.
        sigma: float or [B], > 0.

    Returns:
        [B, H, W, 5·C] in [-3, 3]. Patches reach to the right and below; at the last column and row they repeat it, so
        that there one difference of noise has twice the variance and two are 0.

    Raises:
        ValueError: for anything but images.
    """
    if x_t.ndim != 4:
        raise ValueError(f"noise_units is for images [B, H, W, C] (got shape {list(x_t.shape)})")
    right = jnp.concatenate([x_t[:, :, 1:], x_t[:, :, -1:]], axis=2)
    across, along = x_t - right, x_t + right
    below = lambda v: jnp.concatenate([v[:, 1:], v[:, -1:]], axis=1)
    differences = [across + below(across), along - below(along), across - below(across)]
    shown = jnp.concatenate([*(d / 2 for d in differences), x_t + 1, 1 - x_t], axis=-1)
    return bounded(shown / expand(as_rows(sigma, x_t), x_t))
