"""Levels are a float, 0-d or [B]; keys are one or [B], and with [B] a row never depends on its batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.losses import ambient_loss, consistency_loss, denoising_loss
from tweedie_diffusion.diffusion.noise_levels import log_normal_sigma
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.diffusion.reverse_steps import (
    ancestral_step,
    corrected_step,
    euler_step,
    heun_step,
    midpoint_step,
)
from tweedie_diffusion.diffusion.rows import as_rows, check_levels, expand, fold_in, mean_features, normal, split
from tweedie_diffusion.diffusion.sampling import reverse_process
from tweedie_diffusion.diffusion.tweedie import denoised_at_level

ORACLE = gaussian_denoiser(0.4, 0.8)
ZERO = lambda x, sigma: jnp.zeros_like(x)
STEPS = {
    "euler": euler_step,
    "heun": heun_step,
    "ancestral": ancestral_step,
    "midpoint": midpoint_step,
    "corrected": corrected_step,
}
LOSSES = {
    "denoising": lambda key, x, high, low, h=ORACLE: denoising_loss(key, h, x, sigma_t=high),
    "ambient": lambda key, x, high, low, h=ORACLE: ambient_loss(key, h, x, sigma_t=high, sigma_tn=low),
    "consistency": lambda key, x, high, low, h=ORACLE: consistency_loss(
        key, h, x, sigma_t=high, sigma_s=low, antithetic=True
    ),
}


def step_call(step):
    return lambda key, x, high, low, h=ORACLE: step(key, h, x, high, low)


# Everything that takes a key, a batch and two levels: f(key, x, high, low).
CALLS = (
    {"add_noise": lambda key, x, high, low, h=ORACLE: add_noise(key, x, sigma_s=low, sigma_t=high)}
    | {name: step_call(step) for name, step in STEPS.items()}
    | LOSSES
)
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
IMAGE = (2, 4, 3)


ALL, LAST = slice(0, 3), slice(2, 3)  # a batch, and its last row in a batch of its own


def keys(rows=ALL):
    return jax.random.split(jax.random.key(0), 3)[rows]


@pytest.mark.parametrize("name", ["add_noise", "ancestral", "midpoint", "corrected"])
def test_noise_of_a_row_is_bit_equal_in_every_batch(name):
    draw = lambda rows: np.asarray(CALLS[name](keys(rows), jnp.zeros((3, *IMAGE))[rows], 0.5, 0.4, ZERO))
    whole = draw(ALL)
    np.testing.assert_array_equal(draw(LAST), whole[LAST])
    assert (whole[0] != whole[1]).all()


@every_call
def test_a_row_does_not_depend_on_its_batch(rng, call):
    x = jnp.asarray(rng.normal(size=(3, *IMAGE)), jnp.float32)
    high, low = np.array([0.5, 1.0, 2.0], np.float32), np.array([0.4, 0.8, 0.9], np.float32)
    whole, part = (call(keys(rows), x[rows], high[rows], low[rows]) for rows in (ALL, LAST))
    np.testing.assert_allclose(part, whole[LAST], rtol=1e-5, atol=1e-6)


@every_call
def test_a_level_may_be_a_float_an_array_or_one_per_row(rng, call):
    x = jnp.asarray(rng.normal(size=(3, *IMAGE)), jnp.float32)
    by_float = call(jax.random.key(0), x, 0.5, 0.3)
    for form in (jnp.float32, lambda level: jnp.full(3, level)):
        np.testing.assert_array_equal(call(jax.random.key(0), x, form(0.5), form(0.3)), by_float)


@every_call
def test_the_denoiser_always_receives_one_float32_level_per_row(call):
    seen = []

    def denoise(x, sigma):
        seen.append((sigma.shape, sigma.dtype))
        return x

    call(jax.random.key(0), jnp.ones((3, *IMAGE)), 0.5, 0.3, denoise)
    assert set(seen) <= {((3,), np.dtype("float32"))}


@every_call
def test_one_level_too_many_is_refused(call):
    with pytest.raises(
        ValueError, match=r"sigma must be a scalar or \[3\], one level per example \(got shape \(4,\)\)"
    ):
        call(jax.random.key(0), jnp.ones((3, 7)), np.full(4, 0.5), 0.3)


@pytest.mark.parametrize("name", ["add_noise", "ancestral", "midpoint", "corrected", *LOSSES])
def test_one_key_too_many_is_refused(name):
    with pytest.raises(ValueError, match=r"key must be one key or \[2\] keys, one per example \(got shape \(3,\)\)"):
        CALLS[name](keys(), jnp.ones((2, 7)), 0.5, 0.3)


@pytest.mark.parametrize("step", [heun_step, midpoint_step])
def test_reverse_process_of_a_row_does_not_depend_on_its_batch(rng, step):
    x = jnp.asarray(rng.normal(size=(3, *IMAGE)), jnp.float32)
    run = lambda rows: reverse_process(keys(rows), ORACLE, x[rows], jnp.geomspace(1.0, 0.3, 5), step=step)
    np.testing.assert_allclose(run(LAST), run(ALL)[LAST], rtol=1e-5, atol=1e-5)


def test_training_levels_of_a_row_do_not_depend_on_its_batch():
    whole, part = (
        jax.jit(lambda key: log_normal_sigma(key, key.shape, sigma_min=0.2))(keys(rows)) for rows in (ALL, LAST)
    )
    np.testing.assert_array_equal(part, whole[LAST])


@pytest.mark.parametrize("shape", [(7,), (6, 1), IMAGE], ids=["vector", "signal", "image"])
def test_double_tweedie_takes_every_shape_and_level_of_its_own_per_row(shape):
    x_t, x0_hat = jnp.ones((2, *shape)), jnp.zeros((2, *shape))
    got = denoised_at_level(x_t, x0_hat, sigma_t=1.0, sigma_tn=jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(got, np.stack([np.zeros(shape), np.full(shape, 0.25)]))


def test_an_old_style_key_draws_the_same_noise():
    old, new = jax.random.key_data(jax.random.key(7)), jax.random.key(7)
    np.testing.assert_array_equal(normal(old, (2, 3)), normal(new, (2, 3)))


def test_split_keys_are_distinct_and_of_the_same_kind():
    data = np.asarray(jax.random.key_data(split(keys(), 2)))
    assert data.shape[:2] == (2, 3)
    assert len({tuple(k) for k in data.reshape(6, -1)}) == 6


def test_fold_in_folds_each_key_alone():
    folded = jax.random.key_data(fold_in(keys(), 4))
    alone = [jax.random.key_data(jax.random.fold_in(key, 4)) for key in keys()]
    np.testing.assert_array_equal(folded, alone)


def test_as_rows_gives_float32_rows():
    rows = as_rows(0.5, jnp.ones((3, 2)))
    assert (rows.shape, rows.dtype) == ((3,), jnp.float32)


def test_expand_keeps_the_batch_axis_first():
    assert expand(jnp.ones(3), jnp.ones((3, 2, 4))).shape == (3, 1, 1)


def test_mean_features_averages_everything_but_the_batch():
    np.testing.assert_allclose(mean_features(jnp.arange(12.0).reshape(2, 3, 2)), [2.5, 8.5])


def test_check_levels_names_the_first_offender():
    with pytest.raises(ValueError, match=r"up \(got 0.2 < 0.4\)"):
        check_levels(np.array([0.1, 0.4, 0.9]), np.array([0.3, 0.2, 0.1]), "up")


def test_check_levels_lets_traced_levels_pass():
    jax.jit(lambda low: check_levels(low, 0.1, "up"))(0.5)
