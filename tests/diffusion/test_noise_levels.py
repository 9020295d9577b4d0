import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tweedie_diffusion.diffusion.noise_levels import karras_sigmas, log_normal_sigma, ve_to_vp, vp_to_ve

INF = np.inf


@pytest.mark.parametrize(("sigma_min", "sigma_max", "rho"), [(0.002, 80.0, 7.0), (0.1, 5.0, 3.0), (0.0, 1.0, 7.0)])
def test_karras_sigmas_follow_edm_equation_5(sigma_min, sigma_max, rho):
    i = np.arange(18, dtype=np.float64)
    expected = (sigma_max ** (1 / rho) + i / 17 * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    sigmas = karras_sigmas(18, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    np.testing.assert_allclose(sigmas, expected, rtol=2e-5, atol=1e-9)


def test_karras_sigmas_with_rho_1_are_uniform():
    sigmas = karras_sigmas(5, sigma_min=1.0, sigma_max=3.0, rho=1.0)
    np.testing.assert_allclose(sigmas, [3.0, 2.5, 2.0, 1.5, 1.0], rtol=1e-6)


@pytest.mark.parametrize(("sigma_min", "sigma_max"), [(0.002, 80.0), (0.3, 80.0), (0.1, 0.7)])
def test_karras_sigmas_end_exactly_at_the_bounds(sigma_min, sigma_max):
    sigmas = np.asarray(karras_sigmas(40, sigma_min=sigma_min, sigma_max=sigma_max))
    assert (sigmas[0], sigmas[-1]) == (np.float32(sigma_max), np.float32(sigma_min))


def test_karras_sigmas_strictly_decrease():
    sigmas = np.asarray(karras_sigmas(256, sigma_min=0.002, sigma_max=80.0))
    assert (np.diff(sigmas) < 0).all()


def test_karras_sigmas_of_equal_bounds_are_constant():
    np.testing.assert_array_equal(karras_sigmas(6, sigma_min=0.3, sigma_max=0.3), np.full(6, np.float32(0.3)))


def test_karras_sigmas_take_one_bound_per_row():
    sigmas = karras_sigmas(9, sigma_min=jnp.array([0.01, 0.2]), sigma_max=5.0)
    alone = [karras_sigmas(9, sigma_min=low, sigma_max=5.0) for low in (0.01, 0.2)]
    np.testing.assert_allclose(sigmas, np.stack(alone, axis=1), rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 1}, r"num_steps must be >= 2.*got 1"),
        ({"rho": 0.0}, r"rho must be > 0 \(got 0.0\)"),
        ({"sigma_min": 90.0}, r"sigma_max must be at least sigma_min >= 0 \(got 80 < 90\)"),
        ({"sigma_min": -1.0}, r"sigma_max must be at least sigma_min >= 0 \(got -1 < 0\)"),
    ],
)
def test_karras_sigmas_refuse(arguments, message):
    with pytest.raises(ValueError, match=message):
        karras_sigmas(**{"num_steps": 10, "sigma_min": 0.002, "sigma_max": 80.0} | arguments)


def truncated_log_normal_cdf(sigma, low, high, p_mean=-1.2, p_std=1.2):
    with np.errstate(divide="ignore"):
        a, b = ((np.log(bound) - p_mean) / p_std for bound in (low, high))
    return stats.truncnorm.cdf((np.log(np.float64(sigma)) - p_mean) / p_std, a, b)


BOUNDS = [
    (0.0, INF),
    (0.05, INF),
    (0.4, INF),
    (5.0, INF),
    (1000.0, INF),
    (0.0, 1e-4),
    (0.0, 0.01),
    (0.0, 3.0),
    (0.2, 0.5),
    (5.0, 6.0),
]


@pytest.mark.parametrize(("low", "high"), BOUNDS)
def test_training_law_is_the_truncated_log_normal(low, high):
    sigma = np.asarray(log_normal_sigma(jax.random.key(1), (20_000,), sigma_min=low, sigma_max=high))
    assert stats.kstest(sigma, lambda s: truncated_log_normal_cdf(s, low, high)).pvalue > 0.01


def test_training_law_takes_mean_and_width():
    sigma = log_normal_sigma(jax.random.key(2), (20_000,), p_mean=0.5, p_std=0.3, sigma_min=1.0)
    assert stats.kstest(np.asarray(sigma), lambda s: truncated_log_normal_cdf(s, 1.0, INF, 0.5, 0.3)).pvalue > 0.01


@pytest.mark.parametrize(("low", "high"), [*BOUNDS, (0.3, np.nextafter(np.float32(0.3), INF, dtype=np.float32) + 1e-7)])
def test_training_law_stays_strictly_inside_its_bounds(low, high):
    sigma = np.asarray(log_normal_sigma(jax.random.key(3), (20_000,), sigma_min=low, sigma_max=high))
    assert (np.isfinite(sigma) & (sigma > np.float32(low)) & (sigma < np.float32(high))).all()


def test_truncation_gathers_no_mass_at_the_bound():
    sigma = np.asarray(log_normal_sigma(jax.random.key(4), (20_000,), sigma_min=0.4))
    assert (sigma < 0.4 * (1 + 1e-5)).sum() <= 3  # a clamp would put 59 % of all draws there


def test_training_law_takes_one_bound_per_row():
    low = np.array([0.0, 0.2, 5.0], np.float32)
    sigma = np.asarray(jax.jit(lambda key: log_normal_sigma(key, (8_000, 3), sigma_min=low))(jax.random.key(5)))
    for column, bound in zip(sigma.T, low, strict=True):
        assert stats.kstest(column, lambda s, b=bound: truncated_log_normal_cdf(s, b, INF)).pvalue > 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p_std": 0.0}, r"p_std must be > 0 \(got 0.0\)"),
        ({"sigma_min": 1.0, "sigma_max": 1.0}, r"sigma_max must exceed sigma_min >= 0 \(got 1 <= 1\)"),
        (
            {"sigma_min": np.array([0.1, 0.7]), "sigma_max": 0.5},
            r"sigma_max must exceed sigma_min >= 0 \(got 0.5 <= 0.7\)",
        ),
        ({"sigma_min": -0.1}, r"sigma_max must exceed sigma_min >= 0 \(got -0.1 < 0\)"),
    ],
)
def test_training_law_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        log_normal_sigma(jax.random.key(0), (2,), **arguments)


@pytest.mark.parametrize("alpha", [0.6, np.array([1.0, 0.8, 0.1], np.float32)])
def test_vp_data_become_the_image_plus_noise_of_level_s_over_alpha(rng, alpha):
    x_0, noise = rng.normal(size=(2, 3, 4, 5))
    a = np.broadcast_to(alpha, 3).reshape(3, 1, 1).astype(np.float64)
    s = np.sqrt(1 - a**2)
    x_vp = jnp.asarray(a * x_0 + s * noise, jnp.float32)
    np.testing.assert_allclose(vp_to_ve(x_vp, alpha), x_0 + s / a * noise, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.6, np.array([1.0, 0.8, 0.1], np.float32)])
def test_ve_to_vp_undoes_vp_to_ve(rng, alpha):
    x = jnp.asarray(rng.normal(size=(3, 4, 5)), jnp.float32)
    np.testing.assert_allclose(ve_to_vp(vp_to_ve(x, alpha), alpha), x, rtol=1e-6)


@pytest.mark.parametrize("convert", [vp_to_ve, ve_to_vp])
@pytest.mark.parametrize("alpha", [0.0, 1.5, np.array([0.5, -0.1], np.float32), np.nan])
def test_alpha_outside_0_to_1_is_refused(convert, alpha):
    with pytest.raises(ValueError, match=r"alpha = sqrt\(1 - s²\) must lie in \(0, 1\]"):
        convert(jnp.ones((2, 3)), alpha)
