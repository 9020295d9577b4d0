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
    own mean and covariance (Boys et al. 2023, arXiv:2310.06721; by Krylov iterations Rozet et al. 2024,
    arXiv:2405.13712; ΠGDM, Song et al. 2023, has r² I for C). Every reverse step takes it as it takes any denoiser:
    what `reverse_process` then draws are samples of p(x_0 | y), with errors where p(x_0 | x_t) has several modes that
    y tells apart.

    C is made symmetric, and never formed: each iteration of Lanczos on A C Aᵀ takes a product with the Jacobian and one
    with its transpose. Learned Jacobians have negative eigenvalues, of directions with no variance in truth: there
    nothing is corrected, (λ + σ_y²)⁻¹ is 0 for λ <= 0, which changes nothing where C is a covariance.

    Args:
        denoise: E[x_0 | x_t], differentiable.
        linear_map: A, of batches [B, ...]; each row of the result comes from the same row alone.
        y: [B, ...] measurements of what `linear_map` returns.
        sigma_y: σ_y, float or [B], > 0: the standard deviation of their noise.
        iterations: of Lanczos; as many as y has values are exact.

    Returns:
        A denoiser of batches of B.

    Raises:
        ValueError: if sigma_y is not > 0, or iterations < 1.
    """
    check_levels(0.0, sigma_y, "sigma_y must be > 0: state a small one if y has no noise", strict=True)
    if iterations < 1:
        raise ValueError(f"iterations must be >= 1 (got {iterations})")
    y = jnp.asarray(y)
    variance_y = jnp.square(as_rows(sigma_y, y))

    def denoise_given_y(x_t, sigma):
        sigma = as_rows(sigma, x_t)
        x0_hat, jacobian = jax.linearize(lambda x: denoise(x, sigma), x_t)
        jacobian_transposed = jax.linear_transpose(jacobian, x_t)
        map_transposed = jax.linear_transpose(linear_map, x_t)

        def covariance(v):
            return expand(jnp.square(sigma), v) / 2 * (jacobian(v) + jacobian_transposed(v)[0])

        def back(u):
            return covariance(map_transposed(u)[0])

        product = lambda u: linear_map(back(u))
        return x0_hat + back(_solve(product, variance_y, y - linear_map(x0_hat), iterations))

    return denoise_given_y


def _solve(product: Linear, variance: jax.Array, b: jax.Array, iterations: int) -> jax.Array:
    """f(S) b for each row, S the symmetric `product` and f(λ) = 1/(λ + variance) for λ > 0, else 0: from the Krylov
    space of b, kept orthogonal (Lanczos).
    """
    flat = b.reshape(b.shape[0], -1)
    tiny = jnp.finfo(b.dtype).tiny
    length = jnp.sqrt(jnp.maximum(_dot(flat, flat), tiny))

    def iterate(k, state):
        basis, diagonal, beside, v = state
        basis = basis.at[:, k].set(v)
        w = product(v.reshape(b.shape)).reshape(flat.shape)
        diagonal = diagonal.at[:, k].set(_dot(v, w))
        w = _apart_from(basis, _apart_from(basis, w))  # once is not enough in float32
        squared = _dot(w, w)
        goes_on = squared > jnp.maximum(jnp.square(1e-6 * diagonal[:, k]), tiny)
        norm = jnp.sqrt(jnp.where(goes_on, squared, 1.0))
        beside = beside.at[:, k].set(jnp.where(goes_on, norm, 0.0))
        return basis, diagonal, beside, jnp.where(goes_on[:, None], w / norm[:, None], 0.0)

    zeros = jnp.zeros((b.shape[0], iterations), b.dtype)
    state = jnp.zeros((*zeros.shape, flat.shape[1]), b.dtype), zeros, zeros, flat / length[:, None]
    unroll = jax.default_backend() == "cpu"  # which takes many times as long for a convolution in a loop
    basis, diagonal, beside, _ = jax.lax.fori_loop(0, iterations, iterate, state, unroll=unroll or None)
    across = jax.vmap(lambda entries: jnp.diag(entries[:-1], 1))(beside)
    shares = _positive_inverse(jax.vmap(jnp.diag)(diagonal) + across + across.mT, variance)
    return jnp.einsum("bkm,bk->bm", basis, length[:, None] * shares, precision="highest").reshape(b.shape)


def _apart_from(basis, w):
    """w [B, M] without what it has of basis [B, K, M]."""
    shares = jnp.einsum("bkm,bm->bk", basis, w, precision="highest")
    return w - jnp.einsum("bkm,bk->bm", basis, shares, precision="highest")


@jax.custom_jvp
def _positive_inverse(matrix: jax.Array, variance: jax.Array) -> jax.Array:
    """The first column of f(matrix), f as in `_solve`: symmetric [B, K, K] and [B] -> [B, K]."""
    values, vectors = jnp.linalg.eigh(matrix)
    return jnp.einsum("bik,bk,bk->bi", vectors, _inverse(values, variance), vectors[:, 0], precision="highest")


@_positive_inverse.defjvp
def _positive_inverse_jvp(primals, tangents):
    """With divided differences of f (Daleckii and Krein), which equal eigenvalues leave finite."""
    (matrix, variance), (matrix_dot, variance_dot) = primals, tangents
    values, vectors = jnp.linalg.eigh(matrix)
    inverse = _inverse(values, variance)
    gaps = values[:, :, None] - values[:, None]
    apart = jnp.abs(gaps) > 1e-4 * (jnp.abs(values[:, :, None]) + jnp.abs(values[:, None]) + variance[:, None, None])
    slope = -inverse[:, :, None] * inverse[:, None]  # what the difference of two positive ones is, too
    differences = (inverse[:, :, None] - inverse[:, None]) / jnp.where(apart, gaps, 1.0)
    both = (inverse[:, :, None] > 0) & (inverse[:, None] > 0)
    differences = jnp.where(apart & ~both, differences, slope)
    turned = jnp.einsum("bji,bjk,bkl->bil", vectors, matrix_dot, vectors, precision="highest")
    found = jnp.einsum("bik,bkl,bl->bi", vectors, differences * turned, vectors[:, 0], precision="highest")
    of_variance = -jnp.square(inverse) * variance_dot[:, None]
    found += jnp.einsum("bik,bk,bk->bi", vectors, of_variance, vectors[:, 0], precision="highest")
    return jnp.einsum("bik,bk,bk->bi", vectors, inverse, vectors[:, 0], precision="highest"), found


def _inverse(values, variance):
    return jnp.where(values > 0, 1 / (jnp.maximum(values, 0.0) + variance[:, None]), 0.0)


def _dot(v, w):
    """[B, M] -> [B]."""
    return jnp.sum(v * w, axis=1)
