from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tweedie_diffusion.diffusion.losses import denoising_loss
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.diffusion.refresh import (
    ReplayBuffer,
    draw_rows,
    empty_buffer,
    posterior_draws,
    replace_oldest,
    reweigh,
)

M, V, SIGMA_TN, SIGMA_MIN = 0.4, 0.8, 0.5, 0.01
ORACLE = gaussian_denoiser(M, V)
ROWS = 20_000


def exact_step(key, denoise, x, sigma, sigma_next, *, sign=1.0):
    """The reverse kernel of N(M, V): mean as `ancestral_step`, variance σ_n²(1 − r²)(1 + (1 − r²)/r²·V/(V + σ²))."""
    r2, d = (sigma_next / sigma)[:, None] ** 2, denoise(x, sigma)
    whole = 1 + (1 - r2) / r2 * V / (V + sigma[:, None] ** 2)
    noise = jnp.sqrt(sigma_next[:, None] ** 2 * (1 - r2) * whole) * jax.random.normal(key, x.shape)
    return d + r2 * (x - d) + sign * noise


@pytest.fixture(scope="module")
def pairs():
    """(x_0 as the exact kernel draws it, the x_tn it was drawn for)."""
    rng = np.random.default_rng(0)
    x_tn = jnp.float32(M + (V + SIGMA_TN**2) ** 0.5 * rng.standard_normal((ROWS, 1)))
    options = {"sigma_tn": SIGMA_TN, "sigma_min": SIGMA_MIN, "num_steps": 3, "step": exact_step}
    draw = jax.jit(lambda key: posterior_draws(key, ORACLE, x_tn, **options))
    return np.asarray(draw(jax.random.key(1)), np.float64)[:, 0], np.asarray(x_tn, np.float64)[:, 0]


def test_draws_by_the_exact_kernel_have_the_posterior_mean_and_variance(pairs):
    x_0, x_tn = pairs
    gain = V / (V + SIGMA_TN**2)
    rest = x_0 - (M + gain * (x_tn - M))
    variance = gain * SIGMA_TN**2
    assert abs(rest.mean()) < 5 * (variance / ROWS) ** 0.5
    assert abs(rest.var() - variance) < 5 * variance * (2 / ROWS) ** 0.5


def test_refresh_is_stationary_at_the_exact_denoiser_and_kernel(pairs):
    x_0 = jnp.float32(pairs[0])[:, None]

    def loss(theta, key):
        return denoising_loss(key, lambda x, sigma: ORACLE(x, sigma) + theta * x, x_0, sigma_t=0.3)

    gradient = np.asarray(jax.jit(jax.jacfwd(loss))(0.0, jax.random.key(2)), np.float64)
    assert abs(gradient.mean()) < 5 * gradient.std() / ROWS**0.5


def test_corrected_steps_keep_the_variance_of_the_data():
    x_tn = jnp.float32(M + (V + SIGMA_TN**2) ** 0.5 * np.random.default_rng(1).standard_normal((ROWS, 1)))
    options = {"sigma_tn": SIGMA_TN, "sigma_min": 0.05, "num_steps": 16}
    x_0 = np.asarray(jax.jit(lambda key: posterior_draws(key, ORACLE, x_tn, **options))(jax.random.key(0)), np.float64)
    assert abs(x_0.var() - V) < 5 * V * (2 / ROWS) ** 0.5 + 0.01 * V  # the last call takes σ_min²/V, the steps .5 %


def test_clean_rows_are_returned_as_they_are():
    x = jnp.arange(6.0).reshape(3, 2)
    options = {"sigma_min": 0.05, "num_steps": 4}
    drawn = posterior_draws(jax.random.key(0), ORACLE, x, sigma_tn=jnp.array([0.5, 0.0, 0.05]), **options)
    assert np.isfinite(drawn).all()
    np.testing.assert_array_equal(drawn[1:], x[1:])
    assert (drawn[0] != x[0]).all()


def test_the_oldest_draws_are_replaced_first():
    buffer = empty_buffer(5, (1,))
    for start in (1, 4, 7):
        rows = jnp.arange(start, start + 3)
        buffer = replace_oldest(buffer, rows[:, None].astype(jnp.float32), rows)
    assert buffer.label.tolist() == [6, 7, 8, 9, 5]
    np.testing.assert_array_equal(buffer.x_0[:, 0], buffer.label)


def test_a_new_draw_has_the_mean_weight():
    buffer = ReplayBuffer(jnp.zeros((4, 1)), jnp.zeros(4, int), jnp.log(jnp.array([0.7, 0.1, 0.1, 0.1])), jnp.int32(1))
    weights = np.exp(replace_oldest(buffer, jnp.ones((1, 1)), jnp.ones(1, int)).log_weight)
    np.testing.assert_allclose(weights, np.array([0.7, 0.25, 0.1, 0.1]) / 1.15, rtol=1e-5)


def test_rows_are_drawn_by_their_weights():
    weights = np.array([0.5, 0.0, 0.2, 0.3])
    log_weight = jnp.log(jnp.float32(weights) + 1e-30)
    buffer = ReplayBuffer(jnp.arange(4.0)[:, None], jnp.arange(4), log_weight, jnp.int32(0))
    x_0, label = draw_rows(jax.random.key(0), buffer, ROWS)
    np.testing.assert_array_equal(x_0[:, 0], label)
    counts = np.bincount(np.asarray(label), minlength=4)
    assert (np.abs(counts - ROWS * weights) <= 5 * np.sqrt(ROWS * weights * (1 - weights))).all()


def noisy_mixture(centres, shares, sigma, rows=ROWS):
    rng = np.random.default_rng(3)
    chosen = np.asarray(centres)[rng.choice(len(centres), size=rows, p=shares)]
    return (chosen + sigma * rng.standard_normal(chosen.shape)).astype(np.float32)


def uniform_buffer(centres):
    return replace_oldest(
        empty_buffer(len(centres), np.shape(centres)[1:]), jnp.float32(centres), jnp.zeros(len(centres), int)
    )


def test_a_plain_step_is_that_of_expectation_maximisation():
    centres = np.array([[0.0, 0.0], [1.0, 0.5], [-1.0, 2.0]])
    x = noisy_mixture(centres, [0.2, 0.5, 0.3], 0.6, rows=200)
    density = np.stack([stats.multivariate_normal(c, 0.36 * np.eye(2)).pdf(x) for c in centres], axis=1) / 3
    expected = (density / density.sum(axis=1, keepdims=True)).mean(axis=0)
    weights = np.exp(reweigh(uniform_buffer(centres), x, sigma_tn=0.6).log_weight)
    np.testing.assert_allclose(weights, expected, rtol=1e-4)


@pytest.mark.parametrize("relaxation", [1.0, 1.8])
def test_weights_settle_at_the_shares_of_the_data(relaxation):
    centres, shares = [[-1.0], [0.0], [1.0]], [0.6, 0.1, 0.3]
    x = noisy_mixture(centres, shares, 0.5)
    step = jax.jit(partial(reweigh, x_tn=x, sigma_tn=0.5, relaxation=relaxation))
    buffer = uniform_buffer(centres)
    for _ in range(100):
        buffer = step(buffer)
    # The Fisher information of the shares, on the simplex, gives the standard error.
    density = stats.norm.pdf(x, np.ravel(centres), 0.5)
    scores = (density[:, :2] - density[:, 2:]) / (density @ shares)[:, None]
    error = np.sqrt(np.diag(np.linalg.inv(scores.T @ scores)))
    assert (np.abs(np.exp(buffer.log_weight)[:2] - shares[:2]) < 5 * error).all()
    assert error.max() < 0.02


def test_clean_rows_take_no_part_in_the_weights():
    centres = [[-1.0], [1.0]]
    x = noisy_mixture(centres, [0.6, 0.4], 0.5, rows=50)
    alone = reweigh(uniform_buffer(centres), x, sigma_tn=0.5)
    with_clean = reweigh(
        uniform_buffer(centres), np.append(x, [[1.0]] * 20, axis=0), sigma_tn=np.append(np.full(50, 0.5), np.zeros(20))
    )
    np.testing.assert_allclose(with_clean.log_weight, alone.log_weight, rtol=1e-5)
    none = reweigh(uniform_buffer(centres), x, sigma_tn=0.0)
    np.testing.assert_allclose(np.exp(none.log_weight), 0.5, rtol=1e-5)
