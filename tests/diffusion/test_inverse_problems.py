import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.diffusion.inverse_problems import conditioned
from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser, mixture_denoiser
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS
from tweedie_diffusion.diffusion.sampling import reverse_process

D, SIGMA_Y = 4, 0.3
RNG = np.random.default_rng(0)
MEAN, FACTOR, A = RNG.normal(size=D), RNG.normal(size=(D, D)), RNG.normal(size=(3, D))
V = FACTOR @ FACTOR.T / D + 0.05 * np.eye(D)
Y = A @ (MEAN + np.array([0.5, -1.0, 0.3, 0.8])) + np.array([0.1, -0.4, 0.2])
DENOISE = gaussian_denoiser(MEAN, V)


def linear_map(x):
    return jnp.einsum("bd,md->bm", x, jnp.float32(A), precision="highest")


def rows(y, count):
    return jnp.tile(jnp.float32(y)[None], (count, 1))


def at_once(*arguments, **settings):
    """`conditioned`, compiled."""
    return jax.jit(conditioned(*arguments, **settings))


def posterior(y, covariance=V, mean=MEAN, a=A):
    """Mean and covariance of x_0 given y, by the information form."""
    precision = np.linalg.inv(covariance)
    found = np.linalg.inv(precision + a.T @ a / SIGMA_Y**2)
    return found @ (precision @ mean + a.T @ y / SIGMA_Y**2), found


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_of_gaussian_data_it_is_the_posterior_mean_given_both(rng, sigma):
    x_t = rng.normal(size=(5, D))
    mean, covariance = posterior(Y)
    both = np.linalg.inv(np.linalg.inv(covariance) + np.eye(D) / sigma**2)
    expected = (np.linalg.solve(covariance, mean)[None] + x_t / sigma**2) @ both
    got = at_once(DENOISE, linear_map, rows(Y, 5), sigma_y=SIGMA_Y)(jnp.float32(x_t), sigma)
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3)


def draw(denoise, count, step, num_steps):
    """Samples of a denoiser: the same noise for the same count."""
    key_start, key = jax.random.split(jax.random.key(0))
    sigmas = karras_sigmas(num_steps, sigma_min=0.02, sigma_max=40.0)
    x_init = 40.0 * jax.random.normal(key_start, (count, D))
    return jax.jit(lambda x: reverse_process(key, denoise, x, sigmas, step=REVERSE_STEPS[step]))(x_init)


@pytest.mark.parametrize("step", REVERSE_STEPS)
def test_every_step_draws_from_it_as_from_the_denoiser_of_the_posterior(step):
    got = draw(conditioned(DENOISE, linear_map, rows(Y, 3), sigma_y=SIGMA_Y, iterations=4), 3, step, 12)
    np.testing.assert_allclose(got, draw(gaussian_denoiser(*posterior(Y)), 3, step, 12), atol=5e-3)


def test_samples_of_gaussian_data_have_the_posterior_law():
    count, (mean, covariance) = 8000, posterior(Y)
    denoise = conditioned(DENOISE, linear_map, rows(Y, count), sigma_y=SIGMA_Y, iterations=4)
    x_0, scale = np.asarray(draw(denoise, count, "heun", 40), np.float64), np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((x_0.mean(0) - mean) / scale, np.zeros(D), atol=5 / count**0.5 + 0.02)
    scales = np.outer(scale, scale)
    np.testing.assert_allclose(np.cov(x_0.T) / scales, covariance / scales, atol=5 * (2 / count) ** 0.5 + 0.01)


def test_each_row_has_its_own_measurement_and_noise(rng):
    x_t, y, sigma_y = jnp.float32(rng.normal(size=(3, D))), jnp.float32(rng.normal(size=(3, 3))), [0.1, 0.5, 2.0]
    together = at_once(DENOISE, linear_map, y, sigma_y=jnp.array(sigma_y))(x_t, 0.7)
    alone = at_once(DENOISE, linear_map, y[1:2], sigma_y=sigma_y[1])(x_t[1:2], 0.7)
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_a_mask_of_pixels_is_a_linear_map(rng):
    mask = rng.random((1, 3, 4, 1)) < 0.5
    x_t, y = jnp.float32(rng.normal(size=(2, 3, 4, 1))), jnp.float32(rng.normal(size=(2, 3, 4, 1)))
    got = at_once(gaussian_denoiser(0.2, 0.5), lambda x: x * mask, y * mask, sigma_y=0.4, iterations=2)(x_t, 1.5)
    precision = 1 / 0.5 + 1 / 1.5**2 + mask / 0.4**2  # of each pixel, from prior, x_t and y
    expected = (0.2 / 0.5 + x_t / 1.5**2 + mask * y / 0.4**2) / precision
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_measurement_of_much_noise_changes_nothing():
    x_t = jnp.ones((2, D))
    got = at_once(DENOISE, linear_map, rows(Y, 2), sigma_y=1e6)(x_t, 0.5)
    np.testing.assert_allclose(got, DENOISE(x_t, 0.5), rtol=1e-5)


def test_of_a_mixture_whose_classes_y_does_not_tell_apart_it_is_exact(rng):
    # Two modes along x, y of another feature alone, which is independent of x: a Gaussian problem for that feature.
    denoise = mixture_denoiser([0.3, 0.7], [[-1.0, 0.2], [1.0, 0.2]], [0.05, 0.05])
    x_t, y = jnp.float32(rng.normal(size=(4, 2))), jnp.float32(rng.normal(size=(4, 1)))
    got = at_once(denoise, lambda x: x[:, 1:], y, sigma_y=0.4)(x_t, 0.6)
    precision = 1 / 0.05 + 1 / 0.6**2 + 1 / 0.4**2
    np.testing.assert_allclose(got[:, 0], denoise(x_t, 0.6)[:, 0], rtol=1e-4, atol=1e-5)
    expected = (0.2 / 0.05 + x_t[:, 1] / 0.6**2 + y[:, 0] / 0.4**2) / precision
    np.testing.assert_allclose(got[:, 1], expected, rtol=1e-4, atol=1e-5)


def test_directions_of_a_negative_covariance_are_left_as_they_are():
    # ∂denoise/∂x = diag(0.5, −0.2, 0.1): the second feature has a "covariance" of −0.2·σ², and y says nothing of it.
    slopes = jnp.array([[0.5, -0.2, 0.1]])
    got = at_once(lambda x, sigma: slopes * x, lambda x: x, jnp.zeros((2, 3)), sigma_y=0.1)(jnp.ones((2, 3)), 2.0)
    kept = lambda c: c - c * 4 * c / (c * 4 + 0.01)
    np.testing.assert_allclose(got, [[kept(0.5), -0.2, kept(0.1)]] * 2, rtol=1e-4, atol=1e-6)


def test_it_can_be_differentiated_where_y_has_equal_variances():
    # Of N(0, 1) pixels and y = x, the matrices of Lanczos break down at once: slope = 1/(1 + 1/σ² + 1/σ_y²)/σ².
    denoise = conditioned(gaussian_denoiser(0.0, 1.0), lambda x: x, jnp.ones((1, 4)), sigma_y=0.5)
    _, slope = jax.jit(lambda x: jax.jvp(lambda x: denoise(x, jnp.full(1, 2.0)), (x,), (jnp.ones((1, 4)),)))(
        jnp.array([[0.3, -0.5, 1.0, 0.0]])
    )
    np.testing.assert_allclose(slope, np.full((1, 4), 0.25 / (1 + 0.25 + 4)), rtol=1e-3)


@pytest.mark.parametrize(
    ("settings", "message"), [({"sigma_y": 0.0}, "sigma_y must be > 0"), ({"sigma_y": 1.0, "iterations": 0}, ">= 1")]
)
def test_conditioned_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        conditioned(DENOISE, linear_map, rows(Y, 1), **settings)
