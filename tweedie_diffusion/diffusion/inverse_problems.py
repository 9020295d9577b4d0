"""Linear inverse problems: the denoiser of p(x_0 | y) for y = A x_0 + noise, from the denoiser of p(x_0)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tweedie_diffusion.diffusion.rows import as_rows, check_levels, expand
from tweedie_diffusion.diffusion.types import DenoiseFn

Linear = Callable[[jax.Array], jax.Array]  # [B, ...] -> [B, ...], linear, row by row


def conditioned(denoise: DenoiseFn, linear_map: Linear, y: jax.Array, *, sigma_y, iterations: int = 8) -> DenoiseFn:
    """E[x_0 | x_t, y] ≈ h + C Aᵀ (A C Aᵀ + σ_y² I)⁻¹ (y − A h),  h = E[x_0 | x_t], C = Cov[x_0 | x_t] = σ_t² ∂h/∂x_t.

    Exact for Gaussian x_0, whatever A: p(x_0 | x_t) is N(h, C) then. Otherwise it takes that law for a Gaussian of its
    own mean and covariance (Boys et al. 2023, arXiv:2310.06721; with conjugate gradients Rozet et al. 2024,
    arXiv:2405.13712; ΠGDM, Song et al. 2023, has r² I for C). Every reverse step takes it as it takes any denoiser:
    what `reverse_process` then draws are samples of p(x_0 | y), with errors where p(x_0 | x_t) has several modes that
    y tells apart.

    C is made symmetric, and never formed: each iteration of conjugate gradients on the system of y takes a product with
    the Jacobian and one with its transpose. A row stops early where a learned Jacobian is not positive.

    Args:
        denoise: E[x_0 | x_t], differentiable.
        linear_map: A, of batches [B, ...]; each row of the result comes from the same row alone.
        y: [B, ...] measurements of what `linear_map` returns.
        sigma_y: σ_y, float or [B], > 0: the standard deviation of their noise.
        iterations: of conjugate gradients; as many as y has values are exact.

    Returns:
        A denoiser of batches of B.

    Raises:
        ValueError: if sigma_y is not > 0, or iterations < 1.
    """
    check_levels(0.0, sigma_y, "sigma_y must be > 0: state a small one if y has no noise", strict=True)
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1 (got {iterations})")
    y = jnp.asarray(y)
    variance_y = expand(jnp.square(as_rows(sigma_y, y)), y)

    def denoise_given_y(x_t, sigma):
        sigma = as_rows(sigma, x_t)
        x0_hat, jacobian = jax.linearize(lambda x: denoise(x, sigma), x_t)
        jacobian_transposed = jax.linear_transpose(jacobian, x_t)
        map_transposed = jax.linear_transpose(linear_map, x_t)

        def covariance(v):
            return expand(jnp.square(sigma), v) / 2 * (jacobian(v) + jacobian_transposed(v)[0])

        def back(u):
            return covariance(map_transposed(u)[0])

        u = _conjugate_gradients(lambda u: linear_map(back(u)) + variance_y * u, y - linear_map(x0_hat), iterations)
        return x0_hat + back(u)

    return denoise_given_y


def _conjugate_gradients(system: Linear, b: jax.Array, iterations: int) -> jax.Array:
    """The solution u of system(u) = b for each row, from 0; a row stays where it is once it has converged, or met a
    direction of no positive curvature.
    """

    def dot(v, w):
        return jnp.sum((v * w).reshape(v.shape[0], -1), axis=1)

    start = dot(b, b)
    least = start * jnp.finfo(b.dtype).eps ** 2

    def iterate(_, state):
        u, residual, direction, squared, goes_on = state
        product = system(direction)
        curvature = dot(direction, product)
        goes_on = goes_on & (squared > least) & (curvature > 0)
        length = jnp.where(goes_on, squared / jnp.where(goes_on, curvature, 1.0), 0.0)
        u = u + expand(length, b) * direction
        residual = residual - expand(length, b) * product
        now = dot(residual, residual)
        ratio = jnp.where(goes_on, now / jnp.where(goes_on, squared, 1.0), 0.0)
        return u, residual, residual + expand(ratio, b) * direction, now, goes_on

    state = jnp.zeros_like(b), b, b, start, jnp.ones(b.shape[0], bool)
    return jax.lax.fori_loop(0, iterations, iterate, state)[0]
