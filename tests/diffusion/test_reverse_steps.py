import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.diffusion import reverse_steps
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser, mixture_denoiser
from tweedie_diffusion.diffusion.reverse_steps import (
    ancestral_step,
    corrected_step,
    euler_step,
    heun_step,
    midpoint_step,
)

ODE_STEPS = [euler_step, heun_step]
NOISY_STEPS = [ancestral_step, midpoint_step, corrected_step]
ALL_STEPS = ODE_STEPS + NOISY_STEPS
M, V = 0.4, 0.8
DENOISE = gaussian_denoiser(M, V)


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)


def replace_draws(monkeypatch, draws):
    """The i-th normal drawn by a step is draws[i] from here on."""
    left = iter(draws)
    monkeypatch.setattr(reverse_steps, "normal", lambda key, shape: jnp.broadcast_to(next(left), shape))


def mean_and_variance(monkeypatch, step, x, sigma, sigma_next):
    """Of x_next given x for a linear denoiser, exactly: the noise is Σ c_i z_i, and each c_i is read off alone."""

    def respond(draws):
        replace_draws(monkeypatch, jnp.asarray(draws, jnp.float32))
        return np.asarray(step(jax.random.key(0), DENOISE, x, sigma, sigma_next), np.float64)

    mean = respond([0.0, 0.0])
    return mean, sum((respond(draws) - mean) ** 2 for draws in np.eye(2))


def reverse_kernel(x, sigma_t, sigma_s):
    """x_s | x_t of the Gaussian by conditioning the joint law of (x_t, x_s): Cov(x_t, x_s) = V + σ_s²."""
    gain = (V + sigma_s**2) / (V + sigma_t**2)
    return M + gain * (np.asarray(x, np.float64) - M), (V + sigma_s**2) * (1 - gain)


def posterior_variance(sigma_t):
    return 1 / (1 / V + 1 / sigma_t**2)


def observed_order(step, counts):
    """Slope of ln(global error) against ln(step length), σ from 4 to 0.5, geometric grid."""
    x, errors = jnp.full((1, 1), 3.0), []
    exact = M + (3.0 - M) * np.sqrt((V + 0.5**2) / (V + 4.0**2))
    for count in counts:
        y, grid = x, np.geomspace(4.0, 0.5, count + 1)
        for sigma, sigma_next in itertools.pairwise(grid):
            y = step(None, DENOISE, y, sigma, sigma_next)
        errors.append(abs(float(y[0, 0]) - exact))
    return np.polyfit(np.log(counts), -np.log(errors), 1)[0]


@pytest.mark.parametrize(("step", "order"), [(euler_step, 1), (heun_step, 2)])
def test_ode_step_has_its_order_against_the_closed_form(step, order):
    assert abs(observed_order(step, [8, 16, 32]) - order) < 0.2


@pytest.mark.parametrize(("sigma", "sigma_next"), [(1.0, 0.9), (1.0, 0.3), (20.0, 15.0)])
@pytest.mark.parametrize("step", NOISY_STEPS)
def test_kernel_mean_is_exact(monkeypatch, x, step, sigma, sigma_next):
    mean, _ = mean_and_variance(monkeypatch, step, x, sigma, sigma_next)
    np.testing.assert_allclose(mean, reverse_kernel(x, sigma, sigma_next)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", NOISY_STEPS)
def test_mirrored_steps_average_to_the_kernel_mean(x, step):
    pair = [step(jax.random.key(0), DENOISE, x, 1.0, 0.7, sign=sign) for sign in (1.0, -1.0)]
    np.testing.assert_allclose(np.mean(pair, axis=0), reverse_kernel(x, 1.0, 0.7)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("sigma", "sigma_next"), [(1.0, 0.9), (1.0, 0.3), (2.0, 1.0)])
def test_ancestral_step_misses_the_posterior_variance_times_lost_squared(monkeypatch, x, sigma, sigma_next):
    _, variance = mean_and_variance(monkeypatch, ancestral_step, x, sigma, sigma_next)
    missing = (1 - (sigma_next / sigma) ** 2) ** 2 * posterior_variance(sigma)
    np.testing.assert_allclose(variance, reverse_kernel(x, sigma, sigma_next)[1] - missing, rtol=1e-5)


@pytest.mark.parametrize(("sigma", "sigma_next"), [(1.0, 0.9), (1.0, 0.3), (2.0, 1.0)])
def test_corrected_step_adds_only_the_square_of_its_correction(monkeypatch, x, sigma, sigma_next):
    # (1 + uJ/2r²)² σ_s²u = σ_s²u + u²Cov + u³J²σ_t²/(4r²), with J = Cov/σ_t²
    r2 = (sigma_next / sigma) ** 2
    excess = (1 - r2) ** 3 * posterior_variance(sigma) ** 2 / (4 * r2 * sigma**2)
    _, variance = mean_and_variance(monkeypatch, corrected_step, x, sigma, sigma_next)
    np.testing.assert_allclose(variance, reverse_kernel(x, sigma, sigma_next)[1] + excess, rtol=1e-5)


@pytest.mark.parametrize(("sigma", "sigma_next"), [(1.0, 0.9), (1.0, 0.3), (2.0, 1.0)])
def test_midpoint_step_shares_its_first_noise(monkeypatch, x, sigma, sigma_next):
    # n_1 of variance σ_m²(1 − r) enters through d_m and directly, with the weight (1 − r²)J_m + r; σ_m² = σσ_next.
    r, gain_mid = sigma_next / sigma, V / (V + sigma * sigma_next)
    expected = (1 - r) * (sigma * sigma_next * ((1 - r**2) * gain_mid + r) ** 2 + sigma_next**2)
    _, variance = mean_and_variance(monkeypatch, midpoint_step, x, sigma, sigma_next)
    np.testing.assert_allclose(variance, np.full(x.shape, expected), rtol=1e-5)


@pytest.mark.parametrize(("step", "order"), [(ancestral_step, 2), (midpoint_step, 3), (corrected_step, 3)])
def test_kernel_variance_error_has_its_order_in_the_lost_variance(monkeypatch, x, step, order):
    lost, errors = np.array([0.2, 0.1, 0.05]), []
    for u in lost:
        sigma_next = np.sqrt(1 - u)
        _, variance = mean_and_variance(monkeypatch, step, x, 1.0, sigma_next)
        errors.append(np.abs(variance - reverse_kernel(x, 1.0, sigma_next)[1]).max())
    assert abs(np.polyfit(np.log(lost), np.log(errors), 1)[0] - order) < 0.25


@pytest.mark.parametrize("step", NOISY_STEPS)
def test_drawn_samples_have_the_variance_of_the_coefficients(monkeypatch, step):
    x = jnp.zeros((2, 20_000))
    samples = np.asarray(step(jax.random.key(0), DENOISE, x, 1.0, 0.8), np.float64)
    mean, variance = mean_and_variance(monkeypatch, step, x[:, :1], 1.0, 0.8)
    assert abs(samples.mean() - mean[0, 0]) < 5 * np.sqrt(variance[0, 0] / samples.size)
    assert abs(samples.var() / variance[0, 0] - 1) < 5 * np.sqrt(2 / samples.size)


def bias_pushed_into_the_exact_denoiser(monkeypatch, step, sigma, sigma_next):
    """RMS over x_t of E[denoise(x_s, σ_s) | x_t] − denoise(x_t, σ_t) for ½N(±1, 0.1²), by quadrature over the noise."""
    denoise = jax.jit(mixture_denoiser([0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01]))
    x_t = np.linspace(-5, 5, 161)
    density = sum(np.exp(-((x_t - m) ** 2) / (2 * (0.01 + sigma**2))) for m in (-1, 1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    weights /= weights.sum()
    z_1, z_2, x = (jnp.float32(v).reshape(-1, 1) for v in np.meshgrid(nodes, nodes, x_t, indexing="ij"))
    replace_draws(monkeypatch, [z_1, z_2])
    low = denoise(step(jax.random.key(0), denoise, x, sigma, sigma_next), sigma_next)
    mean = np.einsum("i,j,ijx->x", weights, weights, np.asarray(low).reshape(30, 30, 161))
    bias = mean - np.asarray(denoise(jnp.float32(x_t)[:, None], sigma))[:, 0]
    return np.sqrt((density * bias**2).sum() / density.sum())


@pytest.mark.parametrize(
    ("step", "sigma_next", "bias"),
    [
        (ancestral_step, 0.8, 0.00835),
        (midpoint_step, 0.8, 0.00090),
        (corrected_step, 0.8, 0.00097),
        (ancestral_step, 0.5, 0.1038),
        (midpoint_step, 0.5, 0.0429),
        (corrected_step, 0.5, 0.0370),
    ],
)
def test_bias_pushed_into_the_exact_denoiser_of_two_modes(monkeypatch, step, sigma_next, bias):
    # The figures come from an independent integration in float64.
    assert abs(bias_pushed_into_the_exact_denoiser(monkeypatch, step, 0.9, sigma_next) - bias) < 0.01 * bias


@pytest.mark.parametrize(("step", "order"), [(ancestral_step, 2), (midpoint_step, 3), (corrected_step, 3)])
def test_the_residual_at_the_exact_denoiser_falls_at_the_order_of_the_kernel(monkeypatch, step, order):
    long, short = (bias_pushed_into_the_exact_denoiser(monkeypatch, step, 0.9, 0.9 * np.exp(-h)) for h in (0.06, 0.03))
    assert abs(np.log2(long / short) - order) < 0.25


@pytest.mark.parametrize("step", [euler_step, heun_step, ancestral_step])
def test_a_step_to_zero_returns_the_denoiser(x, step):
    np.testing.assert_allclose(step(jax.random.key(0), DENOISE, x, 0.7, 0.0), DENOISE(x, 0.7), rtol=1e-6)


def test_a_midpoint_step_to_zero_returns_the_denoiser_at_half_the_level(monkeypatch, x):
    replace_draws(monkeypatch, [jnp.float32(0), jnp.float32(0)])
    x_mid, _ = reverse_kernel(x, 0.8, 0.4)
    expected = M + V / (V + 0.4**2) * (x_mid - M)
    np.testing.assert_allclose(midpoint_step(jax.random.key(0), DENOISE, x, 0.8, 0.0), expected, rtol=1e-5)


def test_the_gradient_of_a_heun_step_to_zero_is_finite(x):
    gradient = jax.jit(jax.grad(lambda v: heun_step(None, DENOISE, v, 0.7, 0.0).sum()))(x)
    np.testing.assert_allclose(gradient, np.full(x.shape, V / (V + 0.7**2)), rtol=1e-5)


@pytest.mark.parametrize("step", ALL_STEPS)
def test_a_step_to_the_same_level_does_nothing(x, step):
    np.testing.assert_allclose(step(jax.random.key(0), DENOISE, x, 0.7, 0.7), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("step", NOISY_STEPS)
def test_sign_negates_the_noise(x, step):
    zero = lambda x_t, sigma: jnp.zeros_like(x_t)
    forward, mirrored = (step(jax.random.key(0), zero, jnp.zeros_like(x), 1.0, 0.7, sign=s) for s in (1.0, -1.0))
    np.testing.assert_array_equal(mirrored, -forward)


@pytest.mark.parametrize("step", ODE_STEPS)
def test_ode_steps_draw_nothing(x, step):
    a, b = (step(jax.random.key(i), DENOISE, x, 1.0, 0.7, sign=1.0 - 2 * i) for i in (0, 1))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("step", ALL_STEPS)
def test_steps_refuse_to_go_up(x, step):
    with pytest.raises(ValueError, match=r"sigma must be at least sigma_next >= 0.*got 0.5 < 0.7"):
        step(jax.random.key(0), DENOISE, x, 0.5, 0.7)


@pytest.mark.parametrize("step", ALL_STEPS)
def test_steps_refuse_a_negative_level(x, step):
    with pytest.raises(ValueError, match=r"sigma_next.*got -0.1 < 0|got -0.1 <= 0"):
        step(jax.random.key(0), DENOISE, x, 0.5, -0.1)


def test_corrected_step_refuses_to_end_at_zero(x):
    with pytest.raises(
        ValueError, match=r"corrected_step needs sigma_next > 0: end with denoise instead \(got 0 <= 0\)"
    ):
        corrected_step(jax.random.key(0), DENOISE, x, 0.5, 0.0)
