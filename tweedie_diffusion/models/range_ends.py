"""Pixels that may sit exactly at an end of their range, as backgrounds do (docs/maths.md, section 7)."""

import jax.numpy as jnp
from jax.scipy.stats import norm


def in_range(x_t, mean, own, rest, noise_variance, bounds):
    """What a pixel is if the mixture's Gaussian for it holds inside the bounds, and its mass beyond each sits there.

    Args:
        x_t, mean, own, rest: [...], see `patch_denoiser`; `rest` is 1 − own.
        noise_variance: σ², broadcasts with x_t.
        bounds: [2].

    Returns:
        Of the inside and the two ends, [3, ...] each: the mean given x_t; the log of its mass, that of an end for
        ρ = 1; the same given x_t.
    """
    # Each function of the normal distribution is called once, for all: a copy of one takes XLA up to a second.
    own, rest = jnp.maximum(own, 1e-9), jnp.maximum(rest, 1e-6)
    noise_variance = jnp.broadcast_to(noise_variance, x_t.shape)
    variance, prior_variance = noise_variance * own, noise_variance * own / rest
    prior_mean = x_t + (mean - x_t) / rest
    deviation, prior_deviation = jnp.sqrt(variance), jnp.sqrt(prior_variance)
    ends = jnp.stack([jnp.full_like(x_t, bound) for bound in bounds])
    standard = (ends - mean[None]) / deviation[None]
    prior_standard = (ends - prior_mean[None]) / prior_deviation[None]

    inside, prior_inside = _normal_mass(*jnp.stack([standard, prior_standard], axis=1))
    density = norm.pdf(standard)
    place = jnp.clip(mean + deviation * (density[0] - density[1]) / inside, *bounds)
    beyond = norm.logcdf(jnp.stack([prior_standard[0], -prior_standard[1]])) - jnp.log(prior_deviation)[None]
    prior = jnp.concatenate([jnp.log(prior_inside)[None], beyond])
    seen_variance = jnp.stack([prior_variance + noise_variance, noise_variance, noise_variance])
    seen = norm.logpdf(x_t[None], jnp.concatenate([prior_mean[None], ends]), jnp.sqrt(seen_variance))
    posterior = jnp.concatenate([jnp.log(inside)[None], beyond]) + seen
    return jnp.concatenate([place[None], ends]), prior, posterior


def weigh(log_masses, ends):
    """[3, ...] logs of the masses of the inside and the ends, from those at ρ = 1 and `ends`, the ρ [2] of the ends."""
    lengths = jnp.log(jnp.append(1.0, ends))
    return log_masses + lengths.reshape(3, *[1] * (log_masses.ndim - 1))


def _normal_mass(low, high):
    """Φ(high) − Φ(low), from the side where neither is near 1."""
    flip = low + high > 0
    upper, lower = norm.cdf(jnp.stack([jnp.where(flip, -low, high), jnp.where(flip, -high, low)]))
    return jnp.maximum(upper - lower, 1e-18)  # whose square is still a number
