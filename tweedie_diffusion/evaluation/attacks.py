"""Two attacks on training images (arXiv:2404.10177): to have them again from extreme noise, and from what a mask left.

A model that has learned an image by heart gives it back where noise or a mask has left nothing to tell it by. Held-out
images, put through the same, say how much of that is plain good guessing.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.diffusion.reverse_steps import midpoint_step
from tweedie_diffusion.diffusion.rows import as_rows, check_levels, expand, fold_in, purpose_key, split
from tweedie_diffusion.diffusion.types import DenoiseFn, ReverseStep
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.evaluation.memorisation import paired_cosines

BATCH = 64  # images a call, so that one shape is compiled
RESAMPLINGS = 8  # of each step: what was drawn is brought back to the upper level, and drawn again


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
    """The mask of attack 2: True in a central rectangle of an image [H, W, C], or in the last features of a vector.

    Args:
        shape: of one example.
        share: of it that is hidden, about, in (0, 1).

    Raises:
        ValueError: if nothing would be hidden, or everything.
    """
    hidden = np.zeros(shape, bool)
    if len(shape) == 3:
        sides = [round(length * math.sqrt(share)) for length in shape[:2]]
        top, left = ((length - side) // 2 for length, side in zip(shape, sides, strict=False))
        hidden[top : top + sides[0], left : left + sides[1]] = True
    else:
        hidden[len(hidden) - round(share * len(hidden)) :] = True
    if not 0 < hidden.sum() < hidden.size:
        raise ValueError(f"a share of {share:g} hides {hidden.sum()} of the {hidden.size} values of {list(shape)}")
    return hidden


def inpaint(
    key: jax.Array,
    denoise: DenoiseFn,
    x_s: jax.Array,
    hidden: jax.Array,
    sigmas: jax.Array,
    *,
    sigma_s: jax.Array | float = 0.0,
    step: ReverseStep = midpoint_step,
    resamplings: int = RESAMPLINGS,
) -> jax.Array:
    """Attack 2: draw what a mask hides, given the rest, through the noise that the rest has.

    The reverse process, in which the known part is put back at every level σ ≥ σ_s as x_s + √(σ² − σ_s²)η (Song et al.
    2021, arXiv:2011.13456). That alone draws the hidden part too independent of the rest: each step is taken several
    times, with the noise of the step put back in between (RePaint, Lugmayr et al. 2022, arXiv:2201.09865). Below σ_s
    all is free, and each step is taken once: the noise of the known part is taken from it, and more noise would only
    hide what it says.

    Args:
        key: one key, or [B] keys: with them row i depends on key i alone.
        denoise: the denoiser.
        x_s: [B, ...] images; what is hidden of them is not looked at.
        hidden: [B, ...] or [...] booleans, True for what must be drawn.
        sigmas: [N] or [N, B] levels, never increasing, all > 0, σ_s among them if it is not 0.
        sigma_s: float or [B], the noise of the known part.
        step: a ReverseStep that draws noise.
        resamplings: times each step is taken, >= 1.

    Returns:
        [B, ...]; where σ_s = 0, with the known part as it was.

    Raises:
        ValueError: if levels increase, or resamplings < 1.
    """
    if resamplings < 1:
        raise ValueError(f"resamplings must be at least 1 (got {resamplings})")
    sigmas = jnp.asarray(sigmas, jnp.float32)
    sigmas = jnp.broadcast_to(sigmas.reshape(len(sigmas), -1), (len(sigmas), len(x_s)))
    check_levels(sigmas[1:], sigmas[:-1], "sigmas must never increase: the reverse process goes down")
    hidden, sigma_s = jnp.broadcast_to(hidden, x_s.shape), as_rows(sigma_s, x_s)
    known = jnp.where(hidden, 0.0, x_s)
    key_start, key_first, key_steps = split(key, 3)

    def put_back(key, x, sigma):
        at_level = add_noise(key, known, sigma_s=jnp.minimum(sigma_s, sigma), sigma_t=sigma)
        return jnp.where(hidden | expand(sigma < sigma_s, x), x, at_level)

    def body(x, inputs):
        i, sigma, sigma_next = inputs

        def once(j, x):
            key_up, key_known, key_step, key_next = split(fold_in(fold_in(key_steps, i), j), 4)
            raised = put_back(key_known, add_noise(key_up, x, sigma_s=sigma_next, sigma_t=sigma), sigma)
            upper = jnp.where(j > 0, raised, x)
            lower = put_back(key_next, step(key_step, denoise, upper, sigma, sigma_next), sigma_next)
            return jnp.where(expand((j > 0) & (sigma < sigma_s), x), x, lower)

        return jax.lax.fori_loop(0, resamplings, once, x), None

    x = put_back(key_first, add_noise(key_start, jnp.zeros_like(x_s), sigma_s=0.0, sigma_t=sigmas[0]), sigmas[0])
    x, _ = jax.lax.scan(body, x, (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:]))
    x0_hat = denoise(x, sigmas[-1])
    return jnp.where(hidden | expand(sigma_s > 0, x), x0_hat, x_s)


def inpainting_sigmas(num_steps: int, *, sigma_min: float, sigma_max: float, sigma_s: float = 0.0) -> jax.Array:
    """Levels for `inpaint`: half of the steps end exactly at σ_s, the others go on from there; all, without σ_s.

    Returns:
        [num_steps], or [num_steps − 1] through σ_s > sigma_min, of which num_steps must be 4 at least.
    """
    if sigma_s <= sigma_min:
        return karras_sigmas(num_steps, sigma_min=sigma_min, sigma_max=sigma_max)
    upper = karras_sigmas(num_steps - num_steps // 2, sigma_min=sigma_s, sigma_max=sigma_max)
    lower = karras_sigmas(num_steps // 2, sigma_min=sigma_min, sigma_max=sigma_s)
    return jnp.concatenate([upper, lower[1:]])


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
