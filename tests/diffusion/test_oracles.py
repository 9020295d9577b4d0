import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tweedie_diffusion.diffusion.oracles import gaussian_denoiser, mixture_denoiser

SIGMAS = np.array([0.1, 0.5, 1.0, 5.0], np.float32)


def random_covariance(rng, features):
    factor = rng.normal(size=(features, features))
    return factor @ factor.T / features


def gaussian_posterior_mean(mean, covariance, x_t, sigma):
    """By the information form: (V⁻¹ + I/σ²)⁻¹ (V⁻¹ m + x_t/σ²)."""
    precision = np.linalg.inv(covariance)
    return np.linalg.solve(precision + np.eye(len(mean)) / sigma**2, precision @ mean + x_t / sigma**2)


@pytest.mark.parametrize("kind", ["scalar", "per feature", "full"])
def test_gaussian_denoiser_is_the_posterior_mean(rng, kind):
    mean, x_t = rng.normal(size=5), rng.normal(size=(4, 5))
    variance = {"scalar": 0.7, "per feature": rng.uniform(0.1, 2, 5), "full": random_covariance(rng, 5)}[kind]
    covariance = variance if kind == "full" else variance * np.eye(5)
    expected = [gaussian_posterior_mean(mean, covariance, *row) for row in zip(x_t, np.float64(SIGMAS), strict=True)]
    got = jax.jit(gaussian_denoiser(mean, variance))(jnp.float32(x_t), SIGMAS)
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)


def test_gaussian_denoiser_of_images_treats_pixels_one_by_one(rng):
    mean, variance, x_t = rng.normal(size=(3, 4, 2)), rng.uniform(0.1, 2, (3, 4, 2)), rng.normal(size=(2, 3, 4, 2))
    expected = mean + variance / (variance + 0.25) * (x_t - mean)
    got = gaussian_denoiser(mean, variance)(jnp.float32(x_t), 0.5)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_gaussian_denoiser_takes_any_shape_for_a_scalar_mean():
    got = gaussian_denoiser(1.0, 0.25)(jnp.zeros((2, 3, 4)), 0.5)
    np.testing.assert_allclose(got, np.full((2, 3, 4), 0.5), rtol=1e-6)


def test_gaussian_denoiser_takes_a_singular_covariance():
    # All variance along (1, 1): the estimate is the projection on it, shrunk by 2/(2 + σ²).
    got = gaussian_denoiser(np.zeros(2), np.ones((2, 2)))(jnp.array([[1.0, 0.0]]), 1.0)
    np.testing.assert_allclose(got, [[1 / 3, 1 / 3]], rtol=1e-5)


WEIGHTS, MEANS, VARIANCES = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.1, 1.5]), np.array([0.01, 0.2, 0.05])


@pytest.mark.parametrize("shape", ["[K]", "[K, D]", "[K, D, D]"])
def test_mixture_denoiser_is_the_integral_over_x_0(shape):
    grid = np.linspace(-4, 4, 20_001)
    sigma, x_t = (v.ravel() for v in np.meshgrid([0.05, 0.3, 1.0, 10.0], np.linspace(-3, 3, 13)))
    prior = sum(w * stats.norm.pdf(grid, m, np.sqrt(v)) for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True))
    posterior = prior * stats.norm.pdf(x_t[:, None], grid, sigma[:, None])
    expected = posterior @ grid / posterior.sum(axis=1)
    variances = VARIANCES.reshape({"[K]": 3, "[K, D]": (3, 1), "[K, D, D]": (3, 1, 1)}[shape])
    got = jax.jit(mixture_denoiser(WEIGHTS, MEANS[:, None], variances))(jnp.float32(x_t)[:, None], sigma)
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["[K]", "[K, D]", "[K, D, D]"])
def test_mixture_denoiser_weighs_the_posterior_means_of_its_components(rng, kind):
    means, x_t = rng.normal(size=(3, 4)), rng.normal(size=(4, 4))
    variances = {
        "[K]": rng.uniform(0.1, 1, 3),
        "[K, D]": rng.uniform(0.1, 1, (3, 4)),
        "[K, D, D]": np.stack([random_covariance(rng, 4) for _ in range(3)]),
    }[kind]
    covariances = variances if kind == "[K, D, D]" else np.stack([v * np.eye(4) for v in variances])
    expected = []
    for row, sigma in zip(x_t, np.float64(SIGMAS), strict=True):
        density = [
            w * stats.multivariate_normal.pdf(row, m, v + sigma**2 * np.eye(4))
            for w, m, v in zip(WEIGHTS, means, covariances, strict=True)
        ]
        posterior = [gaussian_posterior_mean(m, v, row, sigma) for m, v in zip(means, covariances, strict=True)]
        expected.append(np.average(posterior, axis=0, weights=density))
    got = jax.jit(mixture_denoiser(WEIGHTS, means, variances))(jnp.float32(x_t), SIGMAS)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_mixture_weights_need_not_sum_to_one(rng):
    x_t = jnp.float32(rng.normal(size=(6, 1)))
    scaled, plain = (jax.jit(mixture_denoiser(c * WEIGHTS, MEANS[:, None], VARIANCES))(x_t, 0.5) for c in (7.0, 1.0))
    np.testing.assert_allclose(scaled, plain, rtol=1e-5)


def test_a_mixture_of_points_is_their_weighted_mean():
    # Two points ±1 of equal weight: E[x_0 | x_t] = tanh(x_t/σ²).
    x_t = jnp.array([[-0.3], [0.0], [0.1]])
    got = jax.jit(mixture_denoiser([1.0, 1.0], [[-1.0], [1.0]], [0.0, 0.0]))(x_t, 0.4)
    np.testing.assert_allclose(got, np.tanh(np.asarray(x_t, np.float64) / 0.16), rtol=1e-5, atol=1e-7)


def test_a_mixture_of_images_is_the_mixture_of_their_pixels(rng):
    means, x_t = rng.normal(size=(3, 2, 2, 1)), rng.normal(size=(5, 2, 2, 1)).astype(np.float32)
    images = jax.jit(mixture_denoiser(WEIGHTS, means, VARIANCES))(x_t, 0.5)
    flat = jax.jit(mixture_denoiser(WEIGHTS, means.reshape(3, 4), VARIANCES))(x_t.reshape(5, 4), 0.5)
    np.testing.assert_allclose(images.reshape(5, 4), flat, rtol=1e-6)


def test_mixture_denoiser_is_finite_far_from_every_component():
    denoise = mixture_denoiser(WEIGHTS, MEANS[:, None], VARIANCES)
    x_t = jnp.array([[-1e4], [1e4]])
    assert np.isfinite(jax.jit(jax.grad(lambda x: denoise(x, 0.01).sum()))(x_t)).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gaussian_denoiser(0.0, -1.0), "variances must be >= 0"),
        (lambda: gaussian_denoiser(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]])), "positive semi-definite"),
        (lambda: gaussian_denoiser(np.zeros(3), np.ones(2)), r"variances \[1\], \[1, 3\] or \[1, 3, 3\]"),
        (lambda: mixture_denoiser([1.0, -1.0], np.zeros((2, 3)), np.ones(2)), "weights must be >= 0"),
        (lambda: mixture_denoiser([1.0, 1.0], np.zeros((2, 3)), -np.ones(2)), "variances must be >= 0"),
        (lambda: mixture_denoiser([1.0], np.zeros((2, 3)), np.ones(2)), r"weights must be \[2\].*got \(1,\)"),
        (lambda: mixture_denoiser([1.0, 1.0], np.zeros((2, 3)), np.ones(3)), r"variances \[2\], \[2, 3\].*and \(3,\)"),
    ],
)
def test_oracles_refuse(make, message):
    with pytest.raises(ValueError, match=message):
        make()
