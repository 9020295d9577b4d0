"""Pixels that may sit exactly at an end of their range, as backgrounds do (docs/maths.md, section 7)."""

import jax.numpy as jnp
from jax.scipy.stats import norm


def in_range(x_t, mean, own, rest, noise_variance, bounds):
    """What a pixel is if the mixture's Gaussian for it holds inside the bounds, and its mass beyond each sits there.

    Returns:
        Of the inside and the two ends, [..., 3] each: the mean given x_t; the log of its mass, that of an end for
        ρ = 1; the same given x_t.
    """
    own, rest = jnp.maximum(own, 1e-9), jnp.maximum(rest, 1e-6)
    variance, prior_variance = noise_variance * own, noise_variance * own / rest
    prior_mean = x_t + (mean - x_t) / rest
    deviation, prior_deviation = jnp.sqrt(variance), jnp.sqrt(prior_variance)
    low, high = ((bound - mean) / deviation for bound in bounds)
    prior_low, prior_high = ((bound - prior_mean) / prior_deviation for bound in bounds)
    inside = _normal_mass(low, high)
    shift = deviation * (norm.pdf(low) - norm.pdf(high)) / inside
    prior = [jnp.log(_normal_mass(prior_low, prior_high))]
    posterior = [norm.logpdf(x_t, prior_mean, jnp.sqrt(prior_variance + noise_variance)) + jnp.log(inside)]
    places = [jnp.clip(mean + shift, *bounds)]
    for bound, beyond in zip(bounds, (prior_low, -prior_high), strict=True):
        prior.append(norm.logcdf(beyond) - jnp.log(prior_deviation))
        posterior.append(prior[-1] + norm.logpdf(x_t, bound, jnp.sqrt(noise_variance)))
        places.append(jnp.full_like(mean, bound))
    return tuple(jnp.stack(part, axis=-1) for part in (places, prior, posterior))


def weigh(log_masses, ends):
    """[..., 3] logs of the masses of the inside and the ends, from those at ρ = 1 and `ends`, the ρ [2] of the ends."""
    lengths = jnp.log(jnp.append(1.0, ends))
    return log_masses + lengths.reshape((1,) * (log_masses.ndim - 1) + (3,))


def _normal_mass(low, high):
    """Φ(high) − Φ(low), from the side where neither is near 1."""
    flip = low + high > 0
    mass = norm.cdf(jnp.where(flip, -low, high)) - norm.cdf(jnp.where(flip, -high, low))
    return jnp.maximum(mass, 1e-18)  # whose square is still a number
