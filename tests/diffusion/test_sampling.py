from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.diffusion.reverse_steps import (
    ancestral_step,
    corrected_step,
    euler_step,
    heun_step,
    midpoint_step,
)
from tweedie_diffusion.diffusion.sampling import carry_down, reverse_process, reverse_trajectory

M, V = 0.4, 0.25
ORACLE = gaussian_denoiser(M, V)


def flow(x, sigma, sigma_next):
    """The probability-flow ODE of N(M, V), exactly."""
    return M + (np.asarray(x, np.float64) - M) * np.sqrt((V + sigma_next**2) / (V + sigma**2))


def posterior_mean(x_t, sigma):
    return M + V / (V + sigma**2) * (x_t - M)


@pytest.mark.parametrize("sigma_last", [0.002, 0.3])
def test_heun_on_a_full_or_truncated_grid_is_the_exact_flow_then_the_posterior_mean(sigma_last):
    x_init = jnp.linspace(-150.0, 150.0, 7)[:, None]
    sigmas = karras_sigmas(128, sigma_min=sigma_last, sigma_max=80.0)
    expected = posterior_mean(flow(x_init, 80.0, sigma_last), sigma_last)
    np.testing.assert_allclose(reverse_process(jax.random.key(0), ORACLE, x_init, sigmas), expected, atol=2e-3)


def test_samples_have_the_mean_and_variance_of_the_data():
    x_init = 80.0 * jax.random.normal(jax.random.key(0), (20_000, 1))
    sigmas = karras_sigmas(60, sigma_min=0.002, sigma_max=80.0)
    x_0 = np.asarray(jax.jit(partial(reverse_process, denoise=ORACLE))(jax.random.key(1), x_init=x_init, sigmas=sigmas))
    start = M * np.sqrt(V) / 80.0  # x_init is centred on 0, not on M
    assert abs(x_0.mean() - M) < 5 * np.sqrt(V / 20_000) + start
    assert abs(x_0.var() / V - 1) < 5 * np.sqrt(2 / 20_000) + 2e-3


@pytest.mark.parametrize(("step", "missing"), [(ancestral_step, 0.1), (midpoint_step, 0.005), (corrected_step, 0.005)])
def test_noisy_steps_carry_the_law_of_the_data_down(step, missing):
    x_init = M + np.sqrt(V + 4.0) * jax.random.normal(jax.random.key(0), (1, 40_000))
    carry = jax.jit(lambda key: carry_down(key, ORACLE, x_init, jnp.geomspace(2.0, 0.05, 41), step=step))
    x = np.asarray(carry(jax.random.key(1)), np.float64)
    expected, five_errors = V + 0.05**2, 5 * np.sqrt(2 / 40_000)
    assert abs(x.mean() - M) < 5 * np.sqrt(expected / 40_000)
    assert -missing - five_errors < x.var() / expected - 1 < five_errors + 0.005


def test_every_step_draws_its_own_noise():
    # With denoise = 0 the ancestral chain keeps Var[x_s] = σ_s² if and only if its noises are uncorrelated.
    zero = lambda x, sigma: jnp.zeros_like(x)
    x_init = 2.0 * jax.random.normal(jax.random.key(0), (1, 40_000))
    x = carry_down(jax.random.key(1), zero, x_init, jnp.geomspace(2.0, 0.5, 9), step=ancestral_step)
    assert abs(np.asarray(x, np.float64).var() / 0.25 - 1) < 5 * np.sqrt(2 / 40_000)


@pytest.mark.parametrize("sigma_tn", [0.3, 0.123456])
def test_a_truncated_grid_ends_with_a_call_exactly_at_its_last_level(sigma_tn):
    levels = lambda x, sigma: jnp.broadcast_to(sigma[:, None], x.shape)
    sigmas = karras_sigmas(8, sigma_min=sigma_tn, sigma_max=80.0)
    x_0 = reverse_process(jax.random.key(0), levels, jnp.ones((2, 3)), sigmas)
    np.testing.assert_array_equal(x_0, np.full((2, 3), np.float32(sigma_tn)))


def test_a_grid_of_one_level_is_one_call_of_the_denoiser():
    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    x_0 = reverse_process(jax.random.key(0), ORACLE, x, jnp.array([0.3]))
    np.testing.assert_allclose(x_0, posterior_mean(np.asarray(x), 0.3), rtol=1e-6)


def test_an_euler_step_to_zero_is_the_last_call():
    x, sigmas = jnp.ones((2, 3)), jnp.array([2.0, 1.0, 0.5])
    ended = reverse_process(jax.random.key(0), ORACLE, x, sigmas, step=euler_step)
    to_zero = carry_down(jax.random.key(0), ORACLE, x, jnp.append(sigmas, 0.0), step=euler_step)
    np.testing.assert_allclose(to_zero, ended, rtol=1e-6)


def test_a_grid_per_row_carries_each_row_by_its_own_levels():
    x = jnp.array([[3.0], [-2.0]])
    last = [0.1, 0.4]
    grid = karras_sigmas(60, sigma_min=jnp.array(last), sigma_max=5.0)
    expected = [posterior_mean(flow(row, 5.0, level), level) for row, level in zip(x, last, strict=True)]
    np.testing.assert_allclose(reverse_process(jax.random.key(0), ORACLE, x, grid), expected, atol=1e-3)


def test_a_repeated_level_changes_nothing():
    x = jnp.ones((2, 3))
    once, twice = (
        reverse_process(jax.random.key(0), ORACLE, x, jnp.array(grid)) for grid in ([2.0, 0.5], [2.0, 2.0, 0.5, 0.5])
    )
    np.testing.assert_allclose(twice, once, rtol=1e-6)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([0.5, 0.6, 0.1], "sigmas must never increase: the reverse process goes down"),
        ([0.5, 0.0], "sigmas must end above 0: the last call is denoise"),
        ([[0.5, 0.4, 0.3]], r"sigmas must be \[N\] or \[N, 2\] with N >= 1 \(got shape \(1, 3\)\)"),
        ([], r"sigmas must be \[N\] or \[N, 2\] with N >= 1"),
        (0.5, r"sigmas must be \[N\] or \[N, 2\] with N >= 1 \(got shape \(\)\)"),
    ],
)
def test_reverse_process_refuses(sigmas, message):
    with pytest.raises(ValueError, match=message):
        reverse_process(jax.random.key(0), ORACLE, jnp.ones((2, 3)), jnp.array(sigmas))


def test_a_trajectory_of_the_exact_flow_is_at_each_level_where_the_flow_is():
    x_init = jnp.linspace(-9.0, 9.0, 7)[:, None]
    sigmas = karras_sigmas(64, sigma_min=0.1, sigma_max=8.0)
    x_t, x0_hat = reverse_trajectory(jax.random.key(0), ORACLE, x_init, sigmas)
    expected = np.stack([flow(x_init, 8.0, level) for level in np.asarray(sigmas, np.float64)])
    np.testing.assert_allclose(x_t, expected, atol=2e-3)
    np.testing.assert_allclose(
        x0_hat, posterior_mean(expected, np.asarray(sigmas, np.float64)[:, None, None]), atol=2e-3
    )
    np.testing.assert_array_equal(x_t[0], x_init)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("step", [heun_step, ancestral_step])
def test_a_trajectory_passes_where_the_process_does(step, compiled):
    """Row i of a noisy process is where the process ends that stops at level i, and the last is what it returns."""
    x_init, grid = jnp.linspace(-3.0, 3.0, 6).reshape(3, 2), jnp.geomspace(4.0, 0.2, 5)
    keys = jax.random.split(jax.random.key(1), 3)
    run = lambda key, x, sigmas: reverse_trajectory(key, ORACLE, x, sigmas, step)
    x_t, x0_hat = (jax.jit(run) if compiled else run)(keys, x_init, grid)
    for i in range(5):
        stopped = carry_down(keys, ORACLE, x_init, grid[: i + 1], step=step)
        np.testing.assert_allclose(x_t[i], stopped, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(x0_hat[-1], reverse_process(keys, ORACLE, x_init, grid, step=step), rtol=1e-5)


def test_a_trajectory_of_one_level_is_where_it_begins():
    x = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
    x_t, x0_hat = reverse_trajectory(jax.random.key(0), ORACLE, x, jnp.array([0.3]))
    np.testing.assert_array_equal(x_t, x[None])
    np.testing.assert_allclose(x0_hat[0], posterior_mean(np.asarray(x), 0.3), rtol=1e-6)


def test_a_trajectory_that_ends_at_no_noise_is_refused():
    with pytest.raises(ValueError, match="sigmas must end above 0"):
        reverse_trajectory(jax.random.key(0), ORACLE, jnp.ones((2, 3)), jnp.array([0.5, 0.0]))


def test_the_process_does_not_pay_for_a_trajectory_that_nobody_asked_for():
    """What is compiled of the loop stacks nothing and calls the denoiser once a step of Euler, and once at the end."""
    calls = []
    denoise = lambda x, sigma: calls.append(x.shape) or ORACLE(x, sigma)
    arguments = jax.random.key(0), jnp.ones((2, 3)), jnp.geomspace(4.0, 0.2, 5)
    traced = jax.make_jaxpr(lambda key, x, s: reverse_process(key, denoise, x, s, step=euler_step))(*arguments)
    (loop,) = [equation for equation in traced.eqns if equation.primitive.name == "scan"]
    assert [v.aval.shape for v in loop.outvars] == [(2, 3)]
    assert len(calls) == 2
