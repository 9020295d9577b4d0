"""Tweedie's formula, first and second order, and its double form for data that are noisy already."""

import jax
import jax.numpy as jnp

from tweedie_diffusion.diffusion.rows import as_rows, check_levels, expand
from tweedie_diffusion.diffusion.types import DenoiseFn


def score_from_denoised(x_t: jax.Array, x0_hat: jax.Array, *, sigma_t) -> jax.Array:
    """∇ ln p_σt(x_t) = (E[x_0 | x_t] − x_t)/σ_t² (Tweedie; Efron 2011). All [B, ...], sigma_t float or [B], > 0."""
    check_levels(0.0, sigma_t, "sigma_t must be > 0", strict=True)
    return (x0_hat - x_t) / expand(as_rows(sigma_t, x_t) ** 2, x_t)


def denoised_from_score(x_t: jax.Array, score: jax.Array, *, sigma_t) -> jax.Array:
    """E[x_0 | x_t] = x_t + σ_t² ∇ ln p_σt(x_t), the inverse of `score_from_denoised`."""
    check_levels(0.0, sigma_t, "sigma_t must be >= 0")
    return x_t + expand(as_rows(sigma_t, x_t) ** 2, x_t) * score


def signal_fraction(sigma_t: jax.Array, sigma_tn: jax.Array) -> jax.Array:
    """a = 1 − (σ_tn/σ_t)², as (σ_t − σ_tn)(σ_t + σ_tn)/σ_t² so that float32 keeps it exact near σ_t = σ_tn."""
    return (sigma_t - sigma_tn) * (sigma_t + sigma_tn) / (sigma_t * sigma_t)


def denoised_at_level(x_t: jax.Array, x0_hat: jax.Array, *, sigma_t, sigma_tn) -> jax.Array:
    """Double Tweedie: E[x_tn | x_t] = a·E[x_0 | x_t] + (1 − a)·x_t, a = 1 − (σ_tn/σ_t)².

    arXiv:2404.10177, equation 3.4 (with α = 1, the variance-exploding coordinate).

    Args:
        x_t: [B, ...], at level sigma_t.
        x0_hat: [B, ...], E[x_0 | x_t].
        sigma_t: float or [B], > 0.
        sigma_tn: float or [B], the level asked for, 0 <= sigma_tn <= sigma_t.

    Returns:
        [B, ...].

    Raises:
        ValueError: if sigma_tn > sigma_t (levels under jit are not checked).
    """
    check_levels(sigma_tn, sigma_t, "sigma_t must be at least sigma_tn >= 0")
    a = expand(signal_fraction(as_rows(sigma_t, x_t), as_rows(sigma_tn, x_t)), x_t)
    return a * x0_hat + (1 - a) * x_t


def posterior_covariance_product(denoise: DenoiseFn, x_t: jax.Array, v: jax.Array, *, sigma_t) -> jax.Array:
    """Cov[x_0 | x_t] v = σ_t² (∂denoise/∂x_t) v, by one Jacobian-vector product (second-order Tweedie).

    Args:
        denoise: the denoiser.
        x_t, v: [B, ...].
        sigma_t: float or [B].

    Returns:
        [B, ...].
    """
    check_levels(0.0, sigma_t, "sigma_t must be > 0", strict=True)
    sigma_t = as_rows(sigma_t, x_t)
    _, jacobian_v = jax.jvp(lambda x: denoise(x, sigma_t), (x_t,), (v,))
    return expand(jnp.square(sigma_t), x_t) * jacobian_v
