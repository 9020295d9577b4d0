import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.models.preconditioning import blind_c_noise, clamped_c_noise, full_c_noise, precondition

SIGMAS = np.array([1e-3, 0.02, 0.5, 1.3, 80.0, 1e3])


class Probe:
    """A network that returns a constant and keeps what it was given."""

    def __init__(self, constant=0.0):
        self.constant = constant

    def __call__(self, x, c_noise):
        self.x, self.c_noise = x, c_noise
        return jnp.full_like(x, self.constant)


def coefficients(sigma_data, sigmas):
    """c_skip, c_out, c_in and c_noise at each of `sigmas`, recovered from what a probe sees and what it changes."""
    ones = jnp.ones((len(sigmas), 1))
    probe = Probe(0.0)
    c_skip = precondition(probe, sigma_data=sigma_data)(ones, jnp.asarray(sigmas))
    c_out = precondition(Probe(1.0), sigma_data=sigma_data)(0 * ones, jnp.asarray(sigmas))
    return [np.asarray(v, np.float64).ravel() for v in (c_skip, c_out, probe.x, probe.c_noise)]


@pytest.mark.parametrize("sigma_data", [0.05, 0.5, 7.0])
def test_the_coefficients_are_those_of_edm(sigma_data):
    total = SIGMAS**2 + sigma_data**2
    expected = [sigma_data**2 / total, SIGMAS * sigma_data / np.sqrt(total), 1 / np.sqrt(total), np.log(SIGMAS) / 4]
    for got, value in zip(coefficients(sigma_data, SIGMAS), expected, strict=True):
        np.testing.assert_allclose(got, value, rtol=2e-6)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
def test_network_input_and_effective_target_have_unit_variance(rng, sigma):
    sigma_data, n = 0.7, 20_000
    x_0 = sigma_data * rng.standard_normal(n)
    x_t = x_0 + sigma * rng.standard_normal(n)
    c_skip, c_out, c_in, _ = coefficients(sigma_data, [sigma])
    for quantity in (c_in * x_t, (x_0 - c_skip * x_t) / c_out):
        assert abs(quantity.var() - 1) < 5 * np.sqrt(2 / n)


def test_a_network_that_says_zero_is_the_best_denoiser_of_a_centred_gaussian(rng):
    x_t = rng.standard_normal((4, 3)).astype(np.float32)
    sigma = np.array([0.1, 0.4, 1.0, 5.0])
    got = precondition(Probe(0.0), sigma_data=0.6)(jnp.asarray(x_t), sigma)
    posterior_mean = 0.6**2 / (0.6**2 + sigma**2)
    np.testing.assert_allclose(got, posterior_mean[:, None] * x_t, rtol=1e-6)


def test_a_network_that_says_zero_leaves_the_prior_as_it_is(rng):
    x_t = jnp.asarray(rng.standard_normal((4, 3)), jnp.float32)
    network = lambda x, c_noise: 0 * x[:, :3]
    got = precondition(network, sigma_data=0.6, prior=lambda x, sigma: 0.3 * x)(x_t, jnp.full(4, 0.2))
    np.testing.assert_allclose(got, 0.3 * x_t, rtol=1e-6)


def test_a_network_sees_what_the_prior_takes_for_noise_in_units_of_the_noise():
    probe = lambda x, c_noise: x[:, 2:]
    x_t, sigma = jnp.array([[0.5, -0.5]]), 0.25
    got = precondition(probe, sigma_data=0.5, prior=lambda x, s: x + jnp.array([[0.1, -9.0]]))(x_t, sigma)
    c_out = sigma * 0.5 / np.hypot(sigma, 0.5)
    seen = (np.asarray(got) - [[0.6, -9.5]]) / c_out
    np.testing.assert_allclose(seen, [[3 * np.tanh(-0.1 / 0.75), 3.0]], rtol=1e-4)


def test_one_level_stands_for_a_level_per_example(rng):
    x_t = jnp.asarray(rng.standard_normal((3, 2)), jnp.float32)
    denoise = precondition(Probe(1.0), sigma_data=0.5)
    np.testing.assert_array_equal(denoise(x_t, 0.3), denoise(x_t, jnp.full(3, 0.3)))


def test_full_embedding_is_a_quarter_of_the_logarithm():
    np.testing.assert_allclose(full_c_noise(jnp.asarray(SIGMAS)), np.log(SIGMAS) / 4, rtol=1e-6)


def test_clamped_embedding_is_constant_below_the_level_and_full_above():
    np.testing.assert_allclose(
        clamped_c_noise(0.5)(jnp.asarray(SIGMAS)), np.log(np.maximum(SIGMAS, 0.5)) / 4, rtol=1e-6
    )


def test_blind_embedding_says_nothing():
    np.testing.assert_array_equal(blind_c_noise(jnp.asarray(SIGMAS)), np.zeros(len(SIGMAS)))


@pytest.mark.parametrize("c_noise_fn", [full_c_noise, clamped_c_noise(0.2), blind_c_noise])
def test_the_network_receives_the_chosen_embedding_and_the_rest_stays(c_noise_fn):
    x_t, sigma = jnp.ones((2, 3)), jnp.array([0.1, 2.0])
    chosen, plain = Probe(1.0), Probe(1.0)
    got = precondition(chosen, sigma_data=0.5, c_noise_fn=c_noise_fn)(x_t, sigma)
    np.testing.assert_array_equal(chosen.c_noise, c_noise_fn(sigma))
    np.testing.assert_array_equal(got, precondition(plain, sigma_data=0.5)(x_t, sigma))


@pytest.mark.parametrize("sigma_data", [0.0, -0.5, np.nan, np.inf])
def test_sigma_data_must_be_a_positive_number(sigma_data):
    with pytest.raises(ValueError, match="sigma_data must be a positive finite number"):
        precondition(Probe(), sigma_data=sigma_data)


@pytest.mark.parametrize("sigma_tn", [0.0, -1.0, np.nan, np.inf])
def test_a_clamp_needs_a_level(sigma_tn):
    with pytest.raises(ValueError, match="sigma_tn must be > 0"):
        clamped_c_noise(sigma_tn)


def test_levels_must_fit_the_batch():
    with pytest.raises(ValueError, match=r"sigma must be a scalar or \[3\]"):
        precondition(Probe(), sigma_data=0.5)(jnp.ones((3, 2)), jnp.ones(2))


@pytest.mark.parametrize("sigma", [1e-3, 1e3])
def test_output_and_gradient_are_finite_at_extreme_levels(sigma):
    denoise = precondition(lambda x, c_noise: jnp.sin(x) * c_noise[:, None], sigma_data=0.5)
    x_t = sigma * jnp.array([[-3.0, 0.0, 4.0]])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(denoise(x, sigma)))(x_t)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1, 1), (1, 7, 1, 5), (0, 4), (2, 3, 1, 1, 2)])
def test_any_shape_passes_through(shape):
    assert precondition(Probe(1.0), sigma_data=0.5)(jnp.ones(shape), 0.3).shape == shape


def test_a_low_precision_network_is_summed_in_float32():
    network = lambda x, c_noise: jnp.zeros(x.shape, jnp.bfloat16)
    x_t = jnp.full((1, 1), 1 + 2.0**-20)
    got = precondition(network, sigma_data=1e6)(x_t, 1e-3)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, x_t)


def test_the_network_sees_features_of_the_noisy_image_as_further_channels(rng):
    x_t, sigma = jnp.asarray(rng.standard_normal((2, 3)), jnp.float32), jnp.array([0.1, 2.0])
    seen = []
    denoise = precondition(
        lambda x, c_noise: seen.append(x) or x[:, :3],
        sigma_data=0.5,
        features=lambda x_t, sigma: x_t[:, :2] / sigma[:, None],
    )
    assert denoise(x_t, sigma).shape == x_t.shape
    np.testing.assert_allclose(seen[0][:, 3:], x_t[:, :2] / sigma[:, None], rtol=1e-6)
    np.testing.assert_allclose(seen[0][:, :3], x_t / np.sqrt(0.25 + np.array([[0.1], [2.0]]) ** 2), rtol=1e-6)
