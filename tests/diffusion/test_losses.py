import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from tweedie_diffusion.diffusion.losses import ambient_loss, consistency_loss, denoising_loss, edm_weight
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser, mixture_denoiser
from tweedie_diffusion.diffusion.reverse_steps import ancestral_step, corrected_step, heun_step, midpoint_step
from tweedie_diffusion.diffusion.rows import one_by_one

M, V, D = 0.4, 0.8, 8
ORACLE = gaussian_denoiser(M, V)
PERTURBATIONS = {"constant": jnp.ones_like, "linear": lambda x: x, "wave": lambda x: jnp.sin(3 * x)}
UNIT_DATA = np.random.default_rng(1).normal(size=(8192, D)).astype(np.float32)


def noisy_data(sigma_tn, rows=8192):
    """x_tn of x_0 ~ N(M, V)."""
    return M + jnp.sqrt(V + jnp.square(sigma_tn)) * UNIT_DATA[:rows]


@partial(jax.jit, static_argnames=("g", "weight_cap"))
def adsm(theta, sigma_tn, sigma_t, g="constant", weight_cap=16.0):
    """(ambient_loss, x_t) of the denoiser h* + θ·g."""
    seen = []

    def denoise(x_t, sigma):
        seen.append(x_t)
        return ORACLE(x_t, sigma) + theta * PERTURBATIONS[g](x_t)

    x_tn = noisy_data(sigma_tn)
    loss = ambient_loss(jax.random.key(0), denoise, x_tn, sigma_tn=sigma_tn, sigma_t=sigma_t, weight_cap=weight_cap)
    return loss, seen[0]


def standard_error(samples):
    return np.std(samples) / np.sqrt(len(samples))


def signal_fraction(sigma_tn, sigma_t):
    return 1 - np.float64(sigma_tn) ** 2 / np.float64(sigma_t) ** 2


# The weight of EDM.


@pytest.mark.parametrize("sigma_data", [0.5, 1.3])
def test_edm_weight_cancels_the_output_scale_of_the_network(sigma_data):
    sigma = np.array([0.002, 0.1, 1.0, 80.0])
    c_out = sigma * sigma_data / np.sqrt(sigma**2 + sigma_data**2)
    np.testing.assert_allclose(edm_weight(sigma, sigma_data=sigma_data), 1 / c_out**2, rtol=1e-5)


# Denoising and ambient score matching.


def test_denoising_loss_at_the_oracle_is_the_posterior_variance():
    loss = np.asarray(denoising_loss(jax.random.key(0), ORACLE, noisy_data(0.0), sigma_t=0.6), np.float64)
    assert abs(loss.mean() - V * 0.6**2 / (V + 0.6**2)) < 5 * standard_error(loss)


LEVELS = [(0.0, 0.6), (0.3, 0.31), (0.3, 0.5), (0.3, 5.0), (2.0, 2.2)]


@pytest.mark.parametrize(("sigma_tn", "sigma_t"), LEVELS)
def test_ambient_loss_at_the_oracle_is_the_variance_of_x_tn_given_x_t(sigma_tn, sigma_t):
    # x_tn ~ N(M, V + σ_tn²) seen through noise of variance σ_t² − σ_tn²; the weight is min(1/a², 16).
    prior, noise = V + sigma_tn**2, sigma_t**2 - sigma_tn**2
    expected = min(1 / signal_fraction(sigma_tn, sigma_t) ** 2, 16) * prior * noise / (prior + noise)
    loss = np.asarray(adsm(0.0, sigma_tn, sigma_t)[0], np.float64)
    assert abs(loss.mean() - expected) < 5 * standard_error(loss)


@pytest.mark.parametrize("g", PERTURBATIONS)
@pytest.mark.parametrize(("sigma_tn", "sigma_t"), LEVELS)
def test_ambient_gradient_at_the_oracle_is_zero(sigma_tn, sigma_t, g):
    gradient = np.asarray(jax.jacfwd(lambda theta: adsm(theta, sigma_tn, sigma_t, g)[0])(0.0), np.float64)
    assert 0 < abs(gradient.mean()) < 5 * standard_error(gradient)


@pytest.mark.parametrize("g", PERTURBATIONS)
def test_ambient_gradient_at_the_mixture_oracle_is_zero(rng, g):
    modes = np.where(rng.random((8192, 1)) < 0.3, -1.0, 1.0)
    x_tn = jnp.float32(modes + np.sqrt(0.1 + 0.3**2) * rng.normal(size=(8192, D)))
    oracle = mixture_denoiser([0.3, 0.7], [[-1.0] * D, [1.0] * D], [0.1, 0.1])

    def loss(theta):
        denoise = lambda x, sigma: oracle(x, sigma) + theta * PERTURBATIONS[g](x)
        return ambient_loss(jax.random.key(0), denoise, x_tn, sigma_tn=0.3, sigma_t=1.5)

    gradient = np.asarray(jax.jit(jax.jacfwd(loss))(0.0), np.float64)
    assert abs(gradient.mean()) < 5 * standard_error(gradient)


@pytest.mark.parametrize("theta", [-0.1, 0.1])
@pytest.mark.parametrize("g", PERTURBATIONS)
def test_any_perturbation_of_the_oracle_raises_the_ambient_loss(g, theta):
    difference = np.asarray(adsm(theta, 0.3, 0.5, g)[0], np.float64) - adsm(0.0, 0.3, 0.5, g)[0]
    assert difference.mean() > 5 * standard_error(difference)


@pytest.mark.parametrize("g", PERTURBATIONS)
@pytest.mark.parametrize(("sigma_tn", "sigma_t"), LEVELS)
def test_ambient_loss_above_its_minimum_is_the_squared_error_times_a_squared(sigma_tn, sigma_t, g):
    loss, x_t = adsm(0.5, sigma_tn, sigma_t, g, weight_cap=1.0)
    least, _ = adsm(0.0, sigma_tn, sigma_t, g, weight_cap=1.0)
    squared_error = np.mean(np.square(0.5 * np.asarray(PERTURBATIONS[g](x_t), np.float64)), axis=1)
    rest = np.asarray(loss, np.float64) - least - signal_fraction(sigma_tn, sigma_t) ** 2 * squared_error
    assert abs(rest.mean()) < 5 * standard_error(rest)


@pytest.mark.parametrize(("sigma_tn", "sigma_t"), [(0.3, 0.5), (0.3, 2.0)])
def test_the_error_against_clean_images_can_be_read_from_noisy_ones(sigma_tn, sigma_t):
    # E‖a·h + (1−a)·x_t − x_tn‖²/D = a²·MSE + a·σ_tn², whatever the data and however wrong the denoiser.
    rng, seen = np.random.default_rng(3), []
    x_0 = rng.choice([-1.0, 0.2, 0.9], size=(8192, D))
    x_tn = jnp.float32(x_0 + sigma_tn * rng.normal(size=x_0.shape))

    def wrong(x, sigma):
        seen.append((x, jnp.tanh(2 * x)))
        return seen[0][1]

    loss = ambient_loss(jax.random.key(0), wrong, x_tn, sigma_tn=sigma_tn, sigma_t=sigma_t, weight_cap=1.0)
    a = signal_fraction(sigma_tn, sigma_t)
    from_noisy = (np.asarray(loss, np.float64) - a * sigma_tn**2) / a**2
    against_clean = np.mean(np.square(np.asarray(seen[0][1]) - x_0), axis=1)
    difference = from_noisy - against_clean
    assert abs(difference.mean()) < 5 * standard_error(difference) < 0.02


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_ambient_loss_of_clean_data_is_the_denoising_loss_bit_for_bit(transform):
    x_0, sigma_t = noisy_data(0.0, rows=64), jnp.geomspace(0.01, 50.0, 64)
    ambient = transform(lambda k: ambient_loss(k, ORACLE, x_0, sigma_tn=0.0, sigma_t=sigma_t))(jax.random.key(5))
    plain = transform(lambda k: denoising_loss(k, ORACLE, x_0, sigma_t=sigma_t))(jax.random.key(5))
    np.testing.assert_array_equal(ambient, plain)


def test_antithetic_noise_has_the_same_mean_and_little_of_the_spread_near_the_data_noise():
    def gradient(antithetic):
        def loss(theta):
            denoise = lambda x, sigma: ORACLE(x, sigma) + theta * jnp.sin(3 * x)
            options = {"sigma_tn": 0.3, "sigma_t": 0.31, "weight_cap": 400.0, "antithetic": antithetic}
            return ambient_loss(jax.random.key(0), denoise, noisy_data(0.3), **options)

        return np.asarray(jax.jit(jax.jacfwd(loss))(0.1), np.float64)

    plain, antithetic = gradient(False), gradient(True)
    difference = plain - antithetic
    assert abs(difference.mean()) < 5 * standard_error(difference)
    assert antithetic.std() < 0.4 * plain.std()


@pytest.mark.parametrize("cap", [16.0, 100.0])
def test_ambient_weight_is_one_over_a_squared_up_to_the_cap(cap):
    sigma_t = np.resize(0.3 * np.array([1.0001, 1.05, 1.1547, 1.2, 2.0, 100.0], np.float32), len(UNIT_DATA))
    plain, _ = adsm(0.0, 0.3, sigma_t, weight_cap=1.0)
    weighted, _ = adsm(0.0, 0.3, sigma_t, weight_cap=cap)
    expected = np.minimum(1 / signal_fraction(np.float32(0.3), sigma_t) ** 2, cap)
    np.testing.assert_allclose(weighted / plain, expected, rtol=1e-5)


@jax.jit
def value_and_gradient(theta, sigma_tn, sigma_t):
    loss = lambda t: adsm(t, sigma_tn, sigma_t, "linear")[0].mean()
    return jax.value_and_grad(loss)(theta)


@pytest.mark.parametrize("sigma_tn", [0.0, 1e-3, 0.3, 5.0])
def test_ambient_loss_and_gradient_are_finite_just_above_the_data(sigma_tn):
    value, gradient = value_and_gradient(0.5, sigma_tn, max(sigma_tn * (1 + 1e-6), 1e-3))
    assert np.isfinite(value)
    assert np.isfinite(gradient)
    assert gradient != 0


def test_clean_and_noisy_examples_mix_in_one_batch():
    sigma_tn = np.resize(np.array([0.0, 0.3], np.float32), 64)
    x_tn = noisy_data(0.3, rows=64)
    ambient = jax.jit(lambda levels: ambient_loss(jax.random.key(0), ORACLE, x_tn, sigma_tn=levels, sigma_t=0.5))
    clean, noisy = ambient(np.zeros_like(sigma_tn)), ambient(np.full_like(sigma_tn, 0.3))
    np.testing.assert_array_equal(ambient(sigma_tn), np.where(sigma_tn == 0, clean, noisy))


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ({"sigma_tn": 0.5, "sigma_t": 0.3}, r"sigma_t must exceed sigma_tn >= 0 \(got 0.3 <= 0.5\)"),
        ({"sigma_tn": np.array([0.1, 0.3]), "sigma_t": 0.3}, r"sigma_t must exceed sigma_tn >= 0 \(got 0.3 <= 0.3\)"),
        ({"sigma_tn": -0.1, "sigma_t": 0.3}, r"sigma_t must exceed sigma_tn >= 0 \(got -0.1 < 0\)"),
        ({"sigma_tn": 0.0, "sigma_t": np.nan}, r"sigma_t must exceed sigma_tn"),
        ({"sigma_tn": 0.1, "sigma_t": 0.3, "weight_cap": 0.5}, r"weight_cap must be >= 1 \(got 0.5\)"),
        ({"sigma_tn": 0.1, "sigma_t": np.full(3, 0.3)}, r"sigma must be a scalar or \[2\].*got shape \(3,\)"),
    ],
)
def test_ambient_loss_refuses(levels, message):
    with pytest.raises(ValueError, match=message):
        ambient_loss(jax.random.key(0), ORACLE, jnp.ones((2, D)), **levels)


@pytest.mark.parametrize("sigma_t", [0.0, -1.0, np.array([0.5, 0.0])])
def test_denoising_loss_refuses_levels_that_are_not_positive(sigma_t):
    with pytest.raises(ValueError, match=r"sigma_t must be > 0 \(got"):
        denoising_loss(jax.random.key(0), ORACLE, jnp.ones((2, D)), sigma_t=sigma_t)


# Consistency. A linear denoiser gain(σ)·x has, from level T down to level S with the ancestral mean, the bias
# [gain(S)·(gain(T) + r²(1 − gain(T))) − gain(T)]·x_t, and its low side the variance gain(S)²σ_S²(1 − r²).

T, S = 1.0, 0.8
R2 = (S / T) ** 2


def linear(gain_t, gain_s):
    return lambda x, sigma: jnp.where(sigma == T, gain_t, gain_s)[:, None] * x


def linear_bias(gain_t, gain_s):
    return gain_s * (gain_t + R2 * (1 - gain_t)) - gain_t


def consistency(denoise, rows=8_000, **options):
    """Loss of a batch whose rows are all the same x_t, so that its spread is that of the draws."""
    x_t = jnp.broadcast_to(jnp.linspace(-1.0, 2.0, D), (rows, D))
    loss = jax.jit(lambda key: consistency_loss(key, denoise, x_t, sigma_t=T, sigma_s=S, **options))
    return np.asarray(loss(jax.random.key(0)), np.float64)


MEAN_SQUARE = np.mean(np.linspace(-1.0, 2.0, D) ** 2)


@pytest.mark.parametrize("antithetic", [False, True])
@pytest.mark.parametrize("step", [ancestral_step, midpoint_step, corrected_step])
def test_consistency_at_the_oracle_is_zero(step, antithetic):
    loss = consistency(ORACLE, step=step, antithetic=antithetic)
    assert abs(loss.mean()) < 5 * standard_error(loss) + 1e-12


@pytest.mark.parametrize("draws", [2, 3, 5])
def test_consistency_estimator_is_unbiased(draws):
    loss = consistency(linear(0.3, 0.9), draws=draws)
    draw_variance = 0.9**2 * S**2 * (1 - R2)  # a squared difference would be too large by this
    assert abs(loss.mean() - linear_bias(0.3, 0.9) ** 2 * MEAN_SQUARE) < 5 * standard_error(loss) < draw_variance / 20


@pytest.mark.parametrize("antithetic", [False, True])
def test_ridge_adds_its_share_of_the_variance_of_a_draw(antithetic):
    loss = consistency(linear(0.3, 0.9), antithetic=antithetic, ridge=0.4)
    added = 0.4 * 0.9**2 * S**2 * (1 - R2)
    expected = linear_bias(0.3, 0.9) ** 2 * MEAN_SQUARE + added
    assert abs(loss.mean() - expected) < 5 * standard_error(loss) < added / 10


@pytest.mark.parametrize("ridge", [0.0, 0.3, 1.0])
def test_ridge_has_the_minimiser_of_its_closed_form(ridge):
    x_t = np.sqrt(V + T**2) * UNIT_DATA  # data N(0, V) at level T, read with a gain of 0.3
    best = minimiser(0.3, V, T, S, ridge)

    def loss(gain):
        options = {"sigma_t": T, "sigma_s": S, "teacher": linear(0.3, 0.0), "ridge": ridge}
        return consistency_loss(jax.random.key(0), linear(0.3, gain), x_t, **options)

    gradient = np.asarray(jax.jit(jax.jacfwd(loss))(best), np.float64)
    assert abs(gradient.mean()) < 5 * standard_error(gradient) < 0.02


def minimiser(gain_t, variance, sigma_t, sigma_s, ridge):
    """The closed form: the gain at sigma_s that is consistent with gain_t at sigma_t, for data N(0, variance)."""
    r2, total = (sigma_s / sigma_t) ** 2, variance + sigma_t**2
    mean_gain = gain_t + r2 * (1 - gain_t)
    return gain_t * mean_gain * total / (mean_gain**2 * total + ridge * sigma_s**2 * (1 - r2))


@pytest.mark.parametrize("ridge", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("variance", [1e-8, 0.1, 100.0])
def test_ridge_makes_the_exact_denoiser_of_a_higher_level(variance, ridge):
    levels = np.geomspace(0.5, 0.05, 20_000)
    gain = variance / (variance + levels[0] ** 2)
    for sigma_t, sigma_s in itertools.pairwise(levels):
        gain = minimiser(gain, variance, sigma_t, sigma_s, ridge)
    slope = lambda s, y: 1 - ridge * np.exp(2 * (s - y)) * (variance + np.exp(2 * y)) / (variance + np.exp(2 * s))
    tau = np.exp(solve_ivp(slope, np.log([0.5, 0.05]), np.log([0.5]), rtol=1e-8).y[0, -1])
    np.testing.assert_allclose(gain, variance / (variance + tau**2), rtol=1e-3)
    assert 0.05 * (1 + 2 * ridge * np.log(10)) ** 0.5 * 0.999 <= tau <= 0.5**ridge * 0.05 ** (1 - ridge) * 1.001


def test_consistency_estimator_with_a_teacher_is_unbiased():
    loss = consistency(linear(0.3, 0.9), teacher=linear(0.5, 0.1))
    bias = 0.9 * (0.5 + R2 * (1 - 0.5)) - 0.5  # drawn and compared by the teacher's 0.5, read by the student's 0.9
    assert abs(loss.mean() - bias**2 * MEAN_SQUARE) < 5 * standard_error(loss)


def test_more_draws_lower_the_spread():
    # Of d_i = b + e_i, e of variance v a feature: Var = 4b²v/K + 2v²/(K(K − 1)).
    spread = lambda draws: consistency(linear(0.3, 0.3 / (0.3 + R2 * 0.7)), draws=draws).std()  # b = 0
    assert spread(4) / spread(2) == pytest.approx((2 / 12) ** 0.5, rel=0.1)


def test_a_sampler_draws_in_place_of_the_teacher():
    loss = consistency(linear(0.3, 0.9), sampler=linear(0.6, 0.0))
    bias = 0.9 * (0.6 + R2 * (1 - 0.6)) - 0.3
    assert abs(loss.mean() - bias**2 * MEAN_SQUARE) < 5 * standard_error(loss)


def test_antithetic_draws_cancel_odd_noise_exactly():
    loss = consistency(linear(0.3, 0.9), rows=100, antithetic=True)
    np.testing.assert_allclose(loss, linear_bias(0.3, 0.9) ** 2 * MEAN_SQUARE, rtol=1e-5)


def test_one_antithetic_draw_is_exact_for_a_linear_denoiser():
    loss = consistency(linear(0.3, 0.9), rows=100, antithetic=True, draws=1)
    np.testing.assert_allclose(loss, linear_bias(0.3, 0.9) ** 2 * MEAN_SQUARE, rtol=1e-5)


def test_one_antithetic_draw_takes_its_share_of_the_ridge():
    loss = consistency(linear(0.3, 0.9), antithetic=True, draws=1, ridge=0.4)
    added = 0.4 * 0.9**2 * S**2 * (1 - R2)
    expected = linear_bias(0.3, 0.9) ** 2 * MEAN_SQUARE + added
    assert abs(loss.mean() - expected) < 5 * standard_error(loss) < added / 10


def test_one_antithetic_draw_at_the_exact_denoiser_falls_as_the_square_of_the_lost_variance():
    exact = mixture_denoiser([0.5, 0.5], [[-0.4] * D, [0.4] * D], [0.3, 0.3])
    x_t = jnp.asarray(0.5 * UNIT_DATA)

    def residual(lost):
        levels = {"sigma_t": 0.8, "sigma_s": 0.8 * np.sqrt(1 - lost)}
        loss = consistency_loss(jax.random.key(0), exact, x_t, **levels, antithetic=True, draws=1)
        return np.asarray(loss, np.float64).mean()

    assert np.log2(residual(0.04) / residual(0.02)) == pytest.approx(2, abs=0.15)


def test_antithetic_draws_lower_the_spread_for_a_curved_denoiser():
    denoise = mixture_denoiser([0.5, 0.5], [[-1.0] * D, [1.0] * D], [0.1, 0.1])
    assert consistency(denoise, rows=2000, antithetic=True).std() < 0.5 * consistency(denoise, rows=2000).std()


def test_consistency_takes_a_step_without_noise():
    loss = consistency(linear(0.3, 0.9), rows=3, step=heun_step)
    slope_t = 1 - 0.3
    x_euler = 0.3 + S * slope_t
    x_s = 1 + (S - T) * (slope_t + x_euler * (1 - 0.9) / S) / 2
    np.testing.assert_allclose(loss, (0.9 * x_s - 0.3) ** 2 * MEAN_SQUARE, rtol=1e-5)


def test_a_constant_network_is_pushed_away_from_collapse():
    # h = M + θx at θ = 0 is the best constant. Consistency is flat there; ambient has dL/dθ = −2·(1/a²)·a²·V.
    sigma_tn, x_tn = 0.3, noisy_data(0.3)

    def total(theta):
        denoise = lambda x, sigma: M + theta * x
        ambient = ambient_loss(jax.random.key(0), denoise, x_tn, sigma_tn=sigma_tn, sigma_t=0.6)
        return ambient + consistency_loss(jax.random.key(1), denoise, x_tn, sigma_t=0.3, sigma_s=0.2)

    gradient = np.asarray(jax.jit(jax.jacfwd(total))(0.0), np.float64)
    assert abs(gradient.mean() + 2 * V) < 5 * standard_error(gradient) < 0.1 * V


def offsets_gradient(with_teacher):
    """d/d(offset at T), d/d(offset at S) of the loss of a linear denoiser that is its own teacher or has none."""

    def loss(high, low):
        denoise = lambda x, sigma: linear(0.3, 0.9)(x, sigma) + jnp.where(sigma == T, high, low)[:, None]
        options = {"teacher": denoise if with_teacher else None, "antithetic": True}
        return consistency_loss(jax.random.key(0), denoise, jnp.ones((1, D)), sigma_t=T, sigma_s=S, **options)[0]

    return jax.jit(jax.grad(loss, argnums=(0, 1)))(0.0, 0.0)


def test_without_a_teacher_the_gradient_passes_the_high_and_the_low_side():
    # (bias + low − high)²; a gradient through the draw of x_s would add 0.9·(1 − r²) to the high side.
    bias = linear_bias(0.3, 0.9)
    np.testing.assert_allclose(offsets_gradient(with_teacher=False), (-2 * bias, 2 * bias), rtol=1e-4)


def test_with_a_teacher_the_gradient_passes_the_low_side_only():
    np.testing.assert_allclose(offsets_gradient(with_teacher=True), (0.0, 2 * linear_bias(0.3, 0.9)), rtol=1e-4)


def test_no_gradient_reaches_the_teacher():
    def loss(gain):
        options = {"teacher": lambda x, sigma: gain * x, "sigma_t": T, "sigma_s": S}
        return consistency_loss(jax.random.key(0), linear(0.3, 0.9), jnp.ones((1, D)), **options)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(0.5)
    assert value != 0
    assert gradient == 0


@pytest.mark.parametrize(
    ("sigma_t", "sigma_s", "message"),
    [
        (0.3, 0.5, r"sigma_t must be at least sigma_s > 0 \(got 0.3 < 0.5\)"),
        (0.3, 0.0, r"sigma_s must be > 0 \(got 0 <= 0\)"),
        (0.3, -0.1, r"sigma_t must be at least sigma_s > 0 \(got -0.1 < 0\)"),
    ],
)
def test_consistency_loss_refuses(sigma_t, sigma_s, message):
    with pytest.raises(ValueError, match=message):
        consistency_loss(jax.random.key(0), ORACLE, jnp.ones((2, D)), sigma_t=sigma_t, sigma_s=sigma_s)


def test_consistency_loss_refuses_a_single_draw():
    with pytest.raises(ValueError, match=r"draws must be >= 2, or 1 if antithetic \(got 1\)"):
        consistency_loss(jax.random.key(0), ORACLE, jnp.ones((2, D)), sigma_t=0.5, sigma_s=0.3, draws=1)


def test_consistency_loss_refuses_a_ridge_that_is_no_share():
    with pytest.raises(ValueError, match=r"ridge must lie in \[0, 1\] \(got 1.5\)"):
        consistency_loss(jax.random.key(0), ORACLE, jnp.ones((2, D)), sigma_t=0.5, sigma_s=0.3, ridge=1.5)


@pytest.mark.parametrize("step", [ancestral_step, midpoint_step])
def test_draws_one_by_one_are_those_of_one_call(step):
    x_t = noisy_data(0.5, rows=4)
    wave = lambda x, sigma: ORACLE(x, sigma) + 0.3 * jnp.sin(3 * x)
    settings = {"sigma_t": 0.5, "sigma_s": 0.3, "step": step, "draws": 2, "antithetic": True}
    of_draws = lambda how: consistency_loss(jax.random.key(0), wave, x_t, **settings, map_draws=how)
    np.testing.assert_allclose(of_draws(one_by_one), of_draws(jax.vmap), rtol=1e-5, atol=1e-7)
    of_pairs = lambda how: ambient_loss(
        jax.random.key(0), wave, x_t, sigma_tn=0.5, sigma_t=0.6, antithetic=True, map_draws=how
    )
    np.testing.assert_allclose(of_pairs(one_by_one), of_pairs(jax.vmap), rtol=1e-5)
