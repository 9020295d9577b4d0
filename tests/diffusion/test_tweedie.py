import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.diffusion.oracles import gaussian_denoiser, mixture_denoiser
from tweedie_diffusion.diffusion.tweedie import (
    denoised_at_level,
    denoised_from_score,
    posterior_covariance_product,
    score_from_denoised,
    signal_fraction,
)

WEIGHTS, MEANS, VARIANCES = np.array([0.3, 0.7]), np.array([-1.0, 0.6]), np.array([0.04, 0.16])
GRID = np.linspace(-7, 7, 20_001)


def bell(x, variance):
    return np.exp(-(x**2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def log_density(x, sigma):
    return np.log(sum(w * bell(x - m, v + sigma**2) for w, m, v in zip(WEIGHTS, MEANS, VARIANCES, strict=True)))


def posterior_moments(x_t, sigma_s, sigma_t):
    """Mean and variance of x_s given x_t for the 1-D mixture, by integration over x_s."""
    posterior = np.exp(log_density(GRID, sigma_s))[None] * bell(x_t[:, None] - GRID, sigma_t**2 - sigma_s**2)
    posterior /= posterior.sum(1, keepdims=True)
    mean = posterior @ GRID
    return mean, posterior @ GRID**2 - mean**2


def column(x):
    return jnp.asarray(x, jnp.float32)[:, None]


X_T = np.linspace(-2.5, 2.5, 11)


def test_score_is_the_gradient_of_the_log_density():
    x0_hat, _ = posterior_moments(X_T, 0.0, 0.5)
    gradient = (log_density(X_T + 1e-5, 0.5) - log_density(X_T - 1e-5, 0.5)) / 2e-5
    score = score_from_denoised(column(X_T), column(x0_hat), sigma_t=0.5)
    np.testing.assert_allclose(score[:, 0], gradient, rtol=1e-4, atol=1e-5)


def test_denoised_from_score_is_the_posterior_mean():
    gradient = (log_density(X_T + 1e-5, 0.5) - log_density(X_T - 1e-5, 0.5)) / 2e-5
    x0_hat = denoised_from_score(column(X_T), column(gradient), sigma_t=0.5)
    np.testing.assert_allclose(x0_hat[:, 0], posterior_moments(X_T, 0.0, 0.5)[0], rtol=1e-4, atol=1e-5)


def test_score_takes_one_level_per_row():
    x_t, x0_hat = jnp.ones((2, 2, 2)), jnp.zeros((2, 2, 2))
    score = score_from_denoised(x_t, x0_hat, sigma_t=jnp.array([0.5, 2.0]))
    np.testing.assert_array_equal(score[:, 0, 0], [-4.0, -0.25])


@pytest.mark.parametrize("sigma_tn", [0.1, 0.3, 0.49])
def test_double_tweedie_is_the_mean_of_the_noisy_data(sigma_tn):
    x0_hat, _ = posterior_moments(X_T, 0.0, 0.5)
    expected, _ = posterior_moments(X_T, sigma_tn, 0.5)
    got = denoised_at_level(column(X_T), column(x0_hat), sigma_t=0.5, sigma_tn=sigma_tn)
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-4, atol=2e-5)


def test_double_tweedie_of_a_gaussian_is_the_linear_regression():
    x_t, sigma_t, sigma_tn = column(X_T), jnp.linspace(0.5, 3, 11), jnp.linspace(0.0, 0.4, 11)
    expected = 0.3 + (0.7 + sigma_tn**2) / (0.7 + sigma_t**2) * (X_T - 0.3)
    got = denoised_at_level(x_t, gaussian_denoiser(0.3, 0.7)(x_t, sigma_t), sigma_t=sigma_t, sigma_tn=sigma_tn)
    np.testing.assert_allclose(got[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_double_tweedie_at_level_0_is_the_clean_estimate():
    x_t, x0_hat = jnp.full((2, 3), 0.7), jnp.full((2, 3), 0.1)
    np.testing.assert_array_equal(denoised_at_level(x_t, x0_hat, sigma_t=0.3, sigma_tn=0.0), x0_hat)


def test_double_tweedie_at_its_own_level_is_the_input():
    x_t, x0_hat = jnp.full((2, 3), 0.7), jnp.full((2, 3), 0.1)
    np.testing.assert_array_equal(denoised_at_level(x_t, x0_hat, sigma_t=0.3, sigma_tn=0.3), x_t)


@pytest.mark.parametrize("gap", [1e-6, 1e-3, 0.1, 10.0])
def test_signal_fraction_keeps_its_digits_near_the_data_level(gap):
    sigma_tn = np.float32(0.2)
    sigma_t = np.float32(0.2 * (1 + gap))
    expected = 1 - (np.float64(sigma_tn) / np.float64(sigma_t)) ** 2
    np.testing.assert_allclose(signal_fraction(jnp.float32(sigma_t), jnp.float32(sigma_tn)), expected, rtol=5e-7)


def test_denoised_at_level_refuses_a_level_above_the_input():
    with pytest.raises(ValueError, match=r"sigma_t must be at least sigma_tn >= 0 \(got 0.3 < 0.5\)"):
        denoised_at_level(jnp.ones((2, 3)), jnp.ones((2, 3)), sigma_t=0.3, sigma_tn=jnp.array([0.1, 0.5]))


def test_covariance_product_of_a_gaussian_is_its_closed_form(rng):
    factor = rng.normal(size=(4, 4))
    covariance, mean = factor @ factor.T, rng.normal(size=4)
    x_t, v = rng.normal(size=(2, 3, 4))
    sigma = np.array([0.3, 1.0, 4.0])
    expected = [(covariance - covariance @ np.linalg.solve(covariance + s**2 * np.eye(4), covariance)) @ row
                for s, row in zip(sigma, v, strict=True)]  # fmt: skip
    denoise = jax.jit(gaussian_denoiser(mean, covariance))
    got = posterior_covariance_product(denoise, jnp.float32(x_t), jnp.float32(v), sigma_t=sigma)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sigma_t", [0.2, 0.5, 1.5])
def test_covariance_product_of_a_mixture_is_the_posterior_variance(sigma_t):
    denoise = jax.jit(mixture_denoiser(WEIGHTS, MEANS[:, None], VARIANCES))
    got = posterior_covariance_product(denoise, column(X_T), jnp.full((11, 1), 2.0), sigma_t=sigma_t)
    np.testing.assert_allclose(got[:, 0], 2 * posterior_moments(X_T, 0.0, sigma_t)[1], rtol=1e-3, atol=1e-5)
