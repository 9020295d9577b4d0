"""Steps of the reverse process, x at σ -> x_next at σ_next < σ: two for the ODE, three that draw noise.

With r = σ_next/σ and d = denoise(x, σ). The exact reverse kernel of Gaussian data is
x_s | x_t ~ N(d + r²(x_t − d), σ_s²(1 − r²) + (1 − r²)² Cov[x_0 | x_t]); each stochastic step says how much of it
it keeps. Euler–Maruyama is left out on purpose: it is biased even for the exact denoiser.
"""

import jax
import jax.numpy as jnp

from tweedie_diffusion.diffusion.rows import as_rows, check_levels, expand, normal, split
from tweedie_diffusion.diffusion.types import DenoiseFn


def _levels(x, sigma, sigma_next):
    check_levels(sigma_next, sigma, "sigma must be at least sigma_next >= 0: reverse steps go down")
    check_levels(0.0, sigma, "sigma must be > 0", strict=True)
    return as_rows(sigma, x), as_rows(sigma_next, x)


def _lost_variance(sigma, sigma_next):
    """1 − r², without cancellation and never below 0."""
    return jnp.maximum((sigma - sigma_next) * (sigma + sigma_next), 0.0) / (sigma * sigma)


def _shrink(x, d, r):
    return d + expand(r, x) * (x - d)


def euler_step(key, denoise: DenoiseFn, x: jax.Array, sigma, sigma_next, *, sign: float = 1.0) -> jax.Array:
    """x_next = d + r (x − d): one Euler step of the probability-flow ODE dx/dσ = (x − d)/σ. First order.

    A step to σ_next = 0 returns denoise(x, σ). Deterministic: `key` and `sign` are ignored.

    Args:
        key: ignored.
        denoise: the denoiser.
        x: [B, ...] at level sigma.
        sigma, sigma_next: floats or [B], sigma > 0, 0 <= sigma_next <= sigma.
        sign: ignored.

    Returns:
        [B, ...] at level sigma_next.

    Raises:
        ValueError: if sigma_next > sigma (levels under jit are not checked).
    """
    del key, sign
    sigma, sigma_next = _levels(x, sigma, sigma_next)
    return _shrink(x, denoise(x, sigma), sigma_next / sigma)


def heun_step(key, denoise: DenoiseFn, x: jax.Array, sigma, sigma_next, *, sign: float = 1.0) -> jax.Array:
    """Heun's step of the probability-flow ODE (EDM, algorithm 1, no churn). Second order, two calls.

    x_e = d + r (x − d);  x_next = x + (σ_next − σ)·½[(x − d)/σ + (x_e − denoise(x_e, σ_next))/σ_next].
    A step to σ_next = 0 is an Euler step. Arguments, returns and errors as `euler_step`.
    """
    del key, sign
    sigma, sigma_next = _levels(x, sigma, sigma_next)
    d = denoise(x, sigma)
    x_euler = _shrink(x, d, sigma_next / sigma)
    safe_next = jnp.where(sigma_next > 0, sigma_next, sigma)
    slope = (x - d) / expand(sigma, x)
    slope_next = (x_euler - denoise(x_euler, safe_next)) / expand(safe_next, x)
    x_heun = x + expand(sigma_next - sigma, x) * (slope + slope_next) / 2
    return jnp.where(expand(sigma_next > 0, x), x_heun, x_euler)


def ancestral_step(key, denoise: DenoiseFn, x: jax.Array, sigma, sigma_next, *, sign: float = 1.0) -> jax.Array:
    """x_next = d + r²(x − d) + σ_next√(1 − r²) z (DDPM; Ho et al. 2020). First order, one call.

    The mean is exact for any data; the variance misses (1 − r²)² Cov[x_0 | x].

    Args:
        key: one key, or [B] keys.
        denoise: the denoiser.
        x: [B, ...] at level sigma.
        sigma, sigma_next: floats or [B], sigma > 0, 0 <= sigma_next <= sigma.
        sign: −1 negates z.

    Returns:
        [B, ...] at level sigma_next.

    Raises:
        ValueError: if sigma_next > sigma (levels under jit are not checked).
    """
    sigma, sigma_next = _levels(x, sigma, sigma_next)
    noise = expand(sign * sigma_next * jnp.sqrt(_lost_variance(sigma, sigma_next)), x) * normal(key, x.shape)
    return _shrink(x, denoise(x, sigma), (sigma_next / sigma) ** 2) + noise


def midpoint_step(key, denoise: DenoiseFn, x: jax.Array, sigma, sigma_next, *, sign: float = 1.0) -> jax.Array:
    """Stochastic midpoint at σ_m = √(σσ_next). Second order in the law, two calls.

    x_m = d + r_1²(x − d) + n_1,  d_m = denoise(x_m, σ_m),
    x_next = d_m + r²(x − d_m) + r_2² n_1 + n_2,
    with r_1 = σ_m/σ, r_2 = σ_next/σ_m, n_1 = σ_m√(1 − r_1²) z_1, n_2 = σ_next√(1 − r_2²) z_2. Because n_1 is in d_m
    and in the final noise alike, their covariance restores the posterior variance that the ancestral step misses.
    Arguments, returns and errors as `ancestral_step`; sigma_next = 0 takes σ_m = σ/2.
    """
    sigma, sigma_next = _levels(x, sigma, sigma_next)
    sigma_mid = jnp.where(sigma_next > 0, jnp.sqrt(sigma * sigma_next), sigma / 2)
    key_mid, key_next = split(key, 2)
    noise_mid = sign * expand(sigma_mid * jnp.sqrt(_lost_variance(sigma, sigma_mid)), x) * normal(key_mid, x.shape)
    noise_next = sign * sigma_next * jnp.sqrt(_lost_variance(sigma_mid, sigma_next))
    noise_next = expand(noise_next, x) * normal(key_next, x.shape)
    x_mid = _shrink(x, denoise(x, sigma), (sigma_mid / sigma) ** 2) + noise_mid
    d_mid = denoise(x_mid, sigma_mid)
    shared = expand((sigma_next / sigma_mid) ** 2, x) * noise_mid
    return _shrink(x, d_mid, (sigma_next / sigma) ** 2) + shared + noise_next


def corrected_step(key, denoise: DenoiseFn, x: jax.Array, sigma, sigma_next, *, sign: float = 1.0) -> jax.Array:
    """Ancestral step with the missing variance restored by one Jacobian-vector product. Second order.

    x_next = d + r²(x − d) + σ_next√(1 − r²)·(z + ½(1 − r²)/r² · J z),  J = ∂denoise/∂x = Cov[x_0 | x]/σ²:
    the bracket is the start of the square root √(I + (1 − r²)/r²·J) z, so keep r = sigma_next/sigma >= 0.8 and take
    several steps for a longer hop (at r = 0.2 its noise is several times too large).
    Arguments, returns and errors as `ancestral_step`, and sigma_next must be > 0.
    """
    check_levels(0.0, sigma_next, "corrected_step needs sigma_next > 0: end with denoise instead", strict=True)
    sigma, sigma_next = _levels(x, sigma, sigma_next)
    lost = _lost_variance(sigma, sigma_next)
    z = sign * normal(key, x.shape)
    d, jacobian_z = jax.jvp(lambda v: denoise(v, sigma), (x,), (z,))
    restored = z + expand(lost / (2 * (sigma_next / sigma) ** 2), x) * jacobian_z
    return _shrink(x, d, (sigma_next / sigma) ** 2) + expand(sigma_next * jnp.sqrt(lost), x) * restored


STOCHASTIC_STEPS = {"ancestral": ancestral_step, "midpoint": midpoint_step, "corrected": corrected_step}
REVERSE_STEPS = {"euler": euler_step, "heun": heun_step} | STOCHASTIC_STEPS
