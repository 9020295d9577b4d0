"""Additive Gaussian noise: from one level up to another, and the fixed noise of example i."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.rows import as_rows, check_levels, expand, is_known, normal


def add_noise(key: jax.Array, x_s: jax.Array, *, sigma_s, sigma_t) -> jax.Array:
    """x_t = x_s + √(σ_t² − σ_s²) η, η ~ N(0, I): from level σ_s up to level σ_t.

    Args:
        key: one key, or [B] keys.
        x_s: [B, ...], at level sigma_s.
        sigma_s, sigma_t: floats or [B], 0 <= sigma_s <= sigma_t.

    Returns:
        [B, ...], at level sigma_t.

    Raises:
        ValueError: if sigma_s > sigma_t (levels under jit are not checked).
    """
    check_levels(sigma_s, sigma_t, "sigma_t must be at least sigma_s >= 0: noise can be added, not taken away")
    sigma_s, sigma_t = as_rows(sigma_s, x_s), as_rows(sigma_t, x_s)
    added = jnp.sqrt((sigma_t - sigma_s) * (sigma_t + sigma_s))
    return x_s + expand(added, x_s) * normal(key, x_s.shape)


def corrupt_example(key: jax.Array, index, x_0, *, sigma_tn) -> jax.Array:
    """x_tn = x_0 + σ_tn z with z drawn from (key, index) alone: the same for ever, in every epoch and on every machine.

    Redrawing z each epoch would leak the clean image through the average, so this is the only place where the noise
    of the data is drawn. Call it on the host, one example at a time: inside a sharded jit the normal differs by 1 ulp.

    Args:
        key: one key for the whole data set.
        index: of the example, an integer in [0, 2³²).
        x_0: [...], one clean example, no batch axis.
        sigma_tn: float >= 0.

    Returns:
        [...] float32.

    Raises:
        ValueError: if sigma_tn < 0, or the index is out of its range.
    """
    check_levels(0.0, sigma_tn, "sigma_tn must be >= 0")
    if is_known(index) and not 0 <= index < 2**32:
        raise ValueError(f"index must lie in [0, 2**32), where every example has noise of its own (got {index})")
    x_0 = jnp.asarray(x_0, jnp.float32)
    return x_0 + jnp.float32(sigma_tn) * _unit_noise(key, jnp.asarray(index, jnp.uint32), x_0.shape)


def corrupt_examples(key: jax.Array, indices: np.ndarray, x_0: np.ndarray, *, sigma_tn: np.ndarray) -> np.ndarray:
    """`corrupt_example` for many examples in one call, bit for bit.

    Args:
        key: one key for the whole data set.
        indices: [B] of the examples, in [0, 2³²).
        x_0: [B, ...] clean examples.
        sigma_tn: [B], >= 0.

    Returns:
        [B, ...] float32.
    """
    noise = np.asarray(_unit_noises(key, np.asarray(indices, np.uint32), x_0.shape[1:]))
    return np.float32(x_0) + np.float32(sigma_tn).reshape(-1, *[1] * (x_0.ndim - 1)) * noise


@partial(jax.jit, static_argnames="shape")
def _unit_noise(key, index, shape):
    return jax.random.normal(jax.random.fold_in(key, index), shape)


@partial(jax.jit, static_argnames="shape")
def _unit_noises(key, indices, shape):
    # A loop over examples and not a batch of them: each then runs the program of `_unit_noise`.
    return jax.lax.map(lambda index: _unit_noise(key, index, shape), indices)
