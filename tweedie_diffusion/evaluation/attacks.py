"""Two attacks on training images (arXiv:2404.10177): to have them again from extreme noise, and from what a mask left.

A model that has learned an image by heart gives it back where noise or a mask has left nothing to tell it by. Held-out
images, put through the same, say how much of that is plain good guessing.
"""

import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.inverse_problems import conditioned
from tweedie_diffusion.diffusion.reverse_steps import midpoint_step
from tweedie_diffusion.diffusion.rows import as_rows, expand, fold_in, normal, purpose_key, split
from tweedie_diffusion.diffusion.types import DenoiseFn
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.evaluation.memorisation import paired_cosines

RIDGE = 0.03  # of σ_t, as if the known part had so much more noise


def from_noise(
    attacked: Callable[[np.ndarray, np.ndarray], np.ndarray],
    x_s: np.ndarray,
    *,
    sigma_t: float,
    sigma_s: np.ndarray | float = 0.0,
    seed: int = 0,
    indices: np.ndarray | None = None,
) -> np.ndarray:
    """Attack 1: bring images to an extreme level, and let the model say what they were.

    Args:
        attacked: (x_t [N, ...], levels [N]) -> [N, ...], the posterior mean (one call of `denoise`), or a sample.
        x_s: [N, ...] images at level sigma_s: clean, or noisy already.
        sigma_t: that extreme level.
        sigma_s: float or [N].
        seed: of the noise; that of image n depends on (seed, sigma_t, indices[n]).
        indices: [N] numbers of the images; 0, 1, … if None.

    Returns:
        [N, ...].

    Raises:
        ValueError: if sigma_t < sigma_s.
    """
    keys = row_keys(seed, f"attack from noise {sigma_t:.6g}", np.arange(len(x_s)) if indices is None else indices)
    x_t = add_noise(keys, jnp.asarray(x_s, jnp.float32), sigma_s=sigma_s, sigma_t=sigma_t)
    return np.asarray(attacked(np.asarray(x_t), np.full(len(x_s), sigma_t, np.float32)))


def hidden_part(shape: tuple[int, ...], share: float) -> np.ndarray:
    """The mask of attack 2: True in the lowest rows of an image [H, W, C], or in the last features of a vector.

    Not in its middle: around a centred object there would be nothing left to know the image by.

    Args:
        shape: of one example.
        share: of it that is hidden, about, in (0, 1).

    Raises:
        ValueError: if nothing would be hidden, or everything.
    """
    hidden = np.zeros(shape, bool)
    rows = round(share * shape[0])
    hidden[shape[0] - rows :] = True
    if not 0 < rows < shape[0]:
        raise ValueError(f"a share of {share:g} hides {hidden.sum()} of the {hidden.size} values of {list(shape)}")
    return hidden


def given_the_rest(
    denoise: DenoiseFn,
    x_s: jax.Array,
    hidden: jax.Array,
    *,
    sigma_s: jax.Array | float = 0.0,
    iterations: int = 3,
    limit: float = math.inf,
) -> DenoiseFn:
    """E[x_0 | x_t, y], y what a mask leaves of x_s: `conditioned`, the noise of y taken for √(σ_s² + (.03σ_t)²).

    Of Gaussian data, with as many iterations as values are known, it is exact but for that part of σ_t. The Jacobian
    of a network is no covariance to the last digit: it and `limit` keep an image that was learned by heart, which has
    next to no variance, from running away.

    Args:
        denoise: the denoiser.
        x_s: [B, ...] images; what is hidden of them is not looked at.
        hidden: [B, ...] or [...] booleans, True for what is not known.
        sigma_s: float or [B], the noise of the known part.
        iterations: of `conditioned`.
        limit: the greatest absolute value that an image has.

    Returns:
        A denoiser (x_t [B, ...], sigma) -> [B, ...] for these images.
    """
    hidden = jnp.broadcast_to(hidden, x_s.shape)
    known = lambda v: jnp.where(hidden, 0.0, v)

    def denoise_given(x_t, sigma):
        sigma_y = jnp.hypot(as_rows(sigma_s, x_s), RIDGE * as_rows(sigma, x_t))
        given = conditioned(denoise, known, known(x_s), sigma_y=sigma_y, iterations=iterations)
        return jnp.clip(given(x_t, sigma), -limit, limit)

    return denoise_given


def inpaint(
    key: jax.Array,
    given: DenoiseFn,
    x_s: jax.Array,
    hidden: jax.Array,
    sigmas: jax.Array,
    *,
    sigma_s: jax.Array | float = 0.0,
) -> jax.Array:
    """Attack 2: draw what a mask hides, given the rest and its noise, by a reverse process.

    Not to be compiled as a whole: with the Jacobian of a network in a loop the compiler takes minutes.

    Args:
        key: one key, or [B] keys: with them row i depends on key i alone.
        given: of `given_the_rest`, compiled by the caller.
        x_s, hidden, sigma_s: as there.
        sigmas: [N] levels of the reverse process, never increasing, all > 0.

    Returns:
        [B, ...]; where σ_s = 0, with the known part as it is.

    Raises:
        ValueError: if levels increase.
    """
    key_start, key_steps = split(key, 2)
    x = sigmas[0] * normal(key_start, x_s.shape)
    for i, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas)):
        x = midpoint_step(fold_in(key_steps, i), given, x, sigma, sigma_next)
    exact = expand(as_rows(sigma_s, x_s) == 0, x_s) & ~jnp.broadcast_to(hidden, x_s.shape)
    return jnp.where(exact, x_s, given(x, sigmas[-1]))


def row_keys(seed: int, purpose: str, indices: np.ndarray) -> jax.Array:
    """[N] keys, of the images of these numbers."""
    key = purpose_key(seed, purpose)
    return jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.asarray(indices))


def likeness(found: np.ndarray, x_0: np.ndarray, features: FeatureSet) -> np.ndarray:
    """[N] cosines of the features of what an attack found, [N, ...], with those of the images it was to find."""
    return paired_cosines(features(found), features(x_0))


def hidden_likeness(found: np.ndarray, x_0: np.ndarray, hidden: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """[N] cosines of the hidden parts alone, of pixels minus those of the mean training image [...]."""
    part = lambda x: (np.asarray(x, np.float64) - mean[None])[:, hidden]
    return paired_cosines(part(found), part(x_0))
