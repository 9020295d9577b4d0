"""Noise levels: grids for sampling, the law of σ in training, and the change of coordinates VP ↔ VE."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr, ndtri

from tweedie_diffusion.diffusion.rows import check_levels, expand, is_known, per_key


def karras_sigmas(num_steps: int, *, sigma_min, sigma_max, rho: float = 7.0) -> jax.Array:
    """Levels from sigma_max down to sigma_min, both included exactly, closer together at low noise.

    σ_i = (σ_max^{1/ρ} + i/(N−1)·(σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ,  i = 0 … N−1
    (Karras et al. 2022, arXiv:2206.00364, equation 5).

    Args:
        num_steps: N >= 2, the number of levels.
        sigma_min: the last level, float or [B].
        sigma_max: the first level, float or [B], >= sigma_min.
        rho: ρ, how strongly the levels crowd at low noise; 1 is uniform.

    Returns:
        [N] float32, or [N, B] when a bound is [B].

    Raises:
        ValueError: if num_steps < 2, rho <= 0, or not 0 <= sigma_min <= sigma_max.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps must be >= 2, so that both ends are on the grid (got {num_steps})")
    if rho <= 0:
        raise ValueError(f"rho must be > 0 (got {rho})")
    check_levels(sigma_min, sigma_max, "sigma_max must be at least sigma_min >= 0")
    low, high = jnp.broadcast_arrays(jnp.asarray(sigma_min, jnp.float32), jnp.asarray(sigma_max, jnp.float32))
    ramp = jnp.linspace(0, 1, num_steps).reshape((num_steps,) + (1,) * low.ndim)
    root_low, root_high = (low ** (1 / rho))[None], (high ** (1 / rho))[None]
    inner = (root_high + ramp * (root_low - root_high)) ** rho
    return jnp.concatenate([high[None], jnp.clip(inner[1:-1], low[None], high[None]), low[None]])


def log_normal_sigma(
    key: jax.Array, shape, *, p_mean: float = -1.2, p_std: float = 1.2, sigma_min=0.0, sigma_max=jnp.inf
) -> jax.Array:
    """Draw σ with ln σ ~ N(p_mean, p_std²), truncated exactly to sigma_min < σ < sigma_max.

    By the inverse CDF in the nearer tail, which float32 resolves where the plain form returns infinity:
    σ = exp(p_mean − p_std·Φ⁻¹(S)), S uniform between Φ(−(ln σ_max − p_mean)/p_std) and Φ(−(ln σ_min − p_mean)/p_std),
    and mirrored when the bounds lie below the median. A truncation, not a clamp: no mass gathers at a bound
    (EDM's training law is p_mean −1.2, p_std 1.2). Accurate for bounds within 12 p_std of p_mean.

    Args:
        key: one key, or [B] keys for shape [B, ...].
        shape: of the result.
        p_mean, p_std: mean and standard deviation of ln σ.
        sigma_min, sigma_max: open bounds; scalars or arrays that broadcast to `shape`.

    Returns:
        float32 of `shape`, strictly inside its bounds.

    Raises:
        ValueError: if p_std <= 0 or not 0 <= sigma_min < sigma_max.
    """
    if is_known(p_std) and p_std <= 0:
        raise ValueError(f"p_std must be > 0 (got {p_std})")
    check_levels(sigma_min, sigma_max, "sigma_max must exceed sigma_min >= 0", strict=True)
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(shape)
    low = jnp.broadcast_to(jnp.asarray(sigma_min, jnp.float32), shape)
    high = jnp.broadcast_to(jnp.asarray(sigma_max, jnp.float32), shape)
    z_low, z_high = (jnp.log(low) - p_mean) / p_std, (jnp.log(high) - p_mean) / p_std
    mirror = jnp.where(z_low + z_high < 0, -1.0, 1.0)
    # Tail probabilities beyond the bounds; after mirroring the interval reaches into the upper tail.
    outer = ndtr(-jnp.where(mirror > 0, z_high, -z_low))
    inner = ndtr(-jnp.where(mirror > 0, z_low, -z_high))
    uniform = per_key(lambda k, s: jax.random.uniform(k, s, minval=jnp.finfo(jnp.float32).tiny), key, shape)
    tail = jnp.maximum(outer + (inner - outer) * uniform, jnp.finfo(jnp.float32).tiny)
    sigma = jnp.exp(p_mean - mirror * p_std * ndtri(tail))
    return jnp.clip(sigma, jnp.nextafter(low, jnp.inf), jnp.nextafter(high, 0.0))


def vp_to_ve(x: jax.Array, alpha) -> jax.Array:
    """Variance-preserving x = α x_0 + s ε to the library's coordinate, x/α = x_0 + (s/α) ε.

    Args:
        x: [B, ...].
        alpha: α = √(1 − s²), scalar or [B], in (0, 1].
    """
    return x / _rows_of_alpha(alpha, x)


def ve_to_vp(x: jax.Array, alpha) -> jax.Array:
    """The inverse of `vp_to_ve`: α x."""
    return x * _rows_of_alpha(alpha, x)


def _rows_of_alpha(alpha, x):
    if is_known(alpha) and not np.all((np.asarray(alpha) > 0) & (np.asarray(alpha) <= 1)):
        raise ValueError(f"alpha = sqrt(1 - s²) must lie in (0, 1] (got {np.asarray(alpha)})")
    return expand(jnp.broadcast_to(jnp.asarray(alpha, jnp.float32), x.shape[:1]), x)
