"""From a network to a denoiser: EDM preconditioning (Karras et al. 2022, arXiv:2206.00364, table 1)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from tweedie_diffusion.diffusion.rows import as_rows, expand
from tweedie_diffusion.diffusion.types import DenoiseFn
from tweedie_diffusion.models.noise_units import bounded

NetworkFn = Callable[[jax.Array, jax.Array], jax.Array]


def full_c_noise(sigma: jax.Array) -> jax.Array:
    """c_noise = ¼ ln σ, at every level (EDM, table 1)."""
    return jnp.log(sigma) / 4


def clamped_c_noise(sigma_tn: float) -> Callable[[jax.Array], jax.Array]:
    """c_noise = ¼ ln max(σ, σ_tn): the network never meets an embedding that ADSM has not trained."""
    if not (sigma_tn > 0 and math.isfinite(sigma_tn)):
        raise ValueError(f"a clamped embedding needs a noise level to clamp at: sigma_tn must be > 0 (got {sigma_tn})")
    return lambda sigma: jnp.log(jnp.maximum(sigma, sigma_tn)) / 4


def blind_c_noise(sigma: jax.Array) -> jax.Array:
    """c_noise = 0: a network blind to the noise level (c_skip, c_out and c_in still know it)."""
    return jnp.zeros_like(sigma)


def precondition(
    network_fn: NetworkFn,
    *,
    sigma_data: float,
    c_noise_fn: Callable[[jax.Array], jax.Array] = full_c_noise,
    features: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
    prior: DenoiseFn | None = None,
) -> DenoiseFn:
    """Wrap a network so that its input and its training target have unit variance at every σ.

    denoise(x, σ) = c_skip(σ)·x + c_out(σ)·F(c_in(σ)·x, c_noise(σ)), with
    c_skip = σ_d²/(σ² + σ_d²), c_out = σσ_d/√(σ² + σ_d²), c_in = 1/√(σ² + σ_d²), c_noise = ¼ ln σ
    (EDM, equation 7 and table 1).

    Args:
        network_fn: F(x [B, ..., K], c_noise [B]) -> [B, ...] of the shape of x_t: x is c_in·x_t and what `features` and
            `prior` add to its last axis. It may compute in a lower precision; the sum is float32.
        sigma_data: σ_d, the standard deviation of the clean data, in data units, > 0.
        c_noise_fn: how σ reaches the network's embedding: `full_c_noise`, `clamped_c_noise(sigma_tn)` or
            `blind_c_noise`.
        features: (x_t, sigma [B]) -> [B, ..., K], what the network sees beside c_in·x_t, as further channels: see
            `noise_units`.
        prior: a denoiser that the network corrects, in place of c_skip·x: see `patch_denoiser`. The network sees
            (x_t − prior)/σ too, bounded, as the last of its channels; sigma must be > 0. Its target then has the
            variance of the prior's error over c_out².

    Returns:
        A denoiser (x_t [B, ...], sigma float or [B]) -> x0_hat [B, ...].

    Raises:
        ValueError: if sigma_data is not a positive finite number, or, when called, the network returns another shape.
    """
    if not (sigma_data > 0 and math.isfinite(sigma_data)):
        raise ValueError(f"sigma_data must be a positive finite number (got {sigma_data})")

    def denoise(x_t: jax.Array, sigma: jax.Array) -> jax.Array:
        sigma = as_rows(sigma, x_t)
        total = jnp.hypot(sigma, sigma_data)
        start = prior(x_t, sigma) if prior else expand((sigma_data / total) ** 2, x_t) * x_t  # c_skip·x
        c_out = sigma * sigma_data / total
        c_in = 1 / total
        inputs = [expand(c_in, x_t) * x_t]
        if features:
            inputs.append(features(x_t, sigma))
        if prior:
            inputs.append(bounded((x_t - start) / expand(sigma, x_t)))
        network_out = network_fn(jnp.concatenate(inputs, axis=-1), c_noise_fn(sigma))
        if network_out.shape != x_t.shape:
            raise ValueError(f"the network returned {list(network_out.shape)} for data of {list(x_t.shape)}")
        return start + expand(c_out, x_t) * network_out.astype(x_t.dtype)

    return denoise
