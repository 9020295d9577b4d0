"""Exact denoisers of a Gaussian and of a Gaussian mixture: what every loss and solver is tested against."""

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.rows import as_rows, expand, is_known
from tweedie_diffusion.diffusion.types import DenoiseFn


def gaussian_denoiser(mean, variance) -> DenoiseFn:
    """E[x_0 | x_t] for x_0 ~ N(m, V): m + V(V + σ²I)⁻¹(x_t − m).

    Args:
        mean: m, a scalar or the shape [...] of one example.
        variance: a scalar or the shape of the mean (independent features); or [D, D] for a mean of D features.

    Returns:
        A denoiser (x_t [B, ...], sigma) -> [B, ...].

    Raises:
        ValueError: if the shapes do not fit or a variance is negative.
    """
    mean, variance = jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32)
    if variance.shape in ((), mean.shape) or mean.ndim == 0:
        _check_variances(variance)

        def denoise(x_t, sigma):
            example = x_t.shape[1:]
            m, v = jnp.broadcast_to(mean, example)[None], jnp.broadcast_to(variance, example)[None]
            return m + v / (v + expand(as_rows(sigma, x_t), x_t) ** 2) * (x_t - m)

        return denoise
    return mixture_denoiser(jnp.ones(1), mean[None], variance[None])


def mixture_denoiser(weights, means, variances) -> DenoiseFn:
    """E[x_0 | x_t] for x_0 ~ Σ_k w_k N(m_k, V_k): Σ_k π_k(x_t)·[m_k + V_k(V_k + σ²I)⁻¹(x_t − m_k)].

    π_k(x_t) ∝ w_k N(x_t; m_k, V_k + σ²I) are the responsibilities.

    Args:
        weights: [K], >= 0; scaled to sum to 1.
        means: [K, ...], D features each.
        variances: [K], [K, D] or [K, D, D].

    Returns:
        A denoiser (x_t [B, ...], sigma) -> [B, ...].

    Raises:
        ValueError: if the shapes do not fit, a weight or a variance is negative, or all weights are 0.
    """
    weights, means, variances = (jnp.asarray(v, jnp.float32) for v in (weights, means, variances))
    k, features = means.shape[0], int(np.prod(means.shape[1:]))
    if weights.shape != (k,) or variances.shape not in ((k,), (k, features), (k, features, features)):
        raise ValueError(
            f"for means {means.shape} weights must be [{k}] and variances [{k}], [{k}, {features}] or "
            f"[{k}, {features}, {features}] (got {weights.shape} and {variances.shape})"
        )
    if is_known(weights) and ((np.asarray(weights) < 0).any() or not np.asarray(weights).any()):
        raise ValueError("weights must be >= 0, and not all 0")
    centres = means.reshape(k, features)
    spectrum, basis = _diagonalise(variances, features)
    _check_variances(spectrum)

    return mixture_denoiser_along(weights, centres, spectrum, basis)


def mixture_denoiser_along(weights, centres, spectrum, basis=None) -> DenoiseFn:
    """`mixture_denoiser` for V_k = basis[k]·diag(spectrum[k])·basis[k]ᵀ; without a basis the axes are those of x.

    Args:
        weights: [K], > 0.
        centres: [K, D].
        spectrum: [K, D], >= 0.
        basis: [K, D, D], orthonormal columns, or None.
    """
    features = centres.shape[1]

    def denoise(x_t, sigma):
        flat = x_t.reshape(x_t.shape[0], 1, features)
        total = spectrum[None] + expand(as_rows(sigma, x_t) ** 2, flat)  # [B, K, D], the spectrum of V_k + σ²I
        y = flat - centres[None]
        y = y if basis is None else jnp.einsum("bkd,kde->bke", y, basis, precision="highest")
        log_density = -0.5 * jnp.sum(y**2 / total + jnp.log(total), axis=-1)
        responsibility = jax.nn.softmax(jnp.log(weights)[None] + log_density, axis=-1)
        shrunk = spectrum[None] / total * y
        shrunk = shrunk if basis is None else jnp.einsum("bke,kde->bkd", shrunk, basis, precision="highest")
        return jnp.sum(responsibility[..., None] * (centres[None] + shrunk), axis=1).reshape(x_t.shape)

    return denoise


def _diagonalise(variances, features):
    """([K, D] eigenvalues, [K, D, D] eigenvectors or None when the axes are already principal)."""
    if variances.ndim == 3:
        spectrum, basis = jnp.linalg.eigh(variances)
        rounding = 1e-6 * jnp.max(spectrum, axis=1, keepdims=True)
        return jnp.where(jnp.abs(spectrum) < rounding, jnp.abs(spectrum), spectrum), basis
    per_component = variances[:, None] if variances.ndim == 1 else variances
    return jnp.broadcast_to(per_component, (variances.shape[0], features)), None


def _check_variances(variances):
    if is_known(variances) and not (np.asarray(variances) >= 0).all():
        raise ValueError("variances must be >= 0, and matrices positive semi-definite")
