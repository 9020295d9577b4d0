import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser, mixture_denoiser
from tweedie_diffusion.evaluation.attacks import (
    from_noise,
    given_the_rest,
    hidden_likeness,
    hidden_part,
    inpaint,
    likeness,
    row_keys,
)
from tweedie_diffusion.evaluation.memorisation import centred_pixels, membership

CORRELATION, N = 0.9, 4000
PAIR = gaussian_denoiser(jnp.zeros(2), jnp.array([[1.0, CORRELATION], [CORRELATION, 1.0]]))
SECOND = jnp.array([False, True])


def learned_by_heart(x_train):
    """The denoiser of a model that knows its training images and nothing else."""
    return mixture_denoiser(np.ones(len(x_train)), x_train, np.full(len(x_train), 1e-4))


def test_what_was_learned_by_heart_comes_back_from_extreme_noise(rng):
    x = rng.uniform(-1, 1, (80, 6, 6, 1)).astype(np.float32)
    train, held_out = x[:40], x[40:]
    features = centred_pixels(train)
    by_heart, general = learned_by_heart(train), gaussian_denoiser(0.0, 1 / 3)
    score = lambda denoise, x_0: likeness(from_noise(denoise, x_0, sigma_t=0.7), x_0, features)
    assert membership(score(by_heart, train), score(by_heart, held_out))["auc"] > 0.95
    assert 0.3 < membership(score(general, train), score(general, held_out))["auc"] < 0.7


def test_images_are_brought_from_their_own_level_to_the_extreme_one(rng):
    x_tn, sigma_tn = np.zeros((2000, 5), np.float32), np.linspace(0, 1.9, 2000)
    x_t = from_noise(lambda x_t, sigma: x_t, x_tn, sigma_t=2.0, sigma_s=sigma_tn)
    added = np.sqrt(4 - sigma_tn**2)[:, None]
    assert np.mean((x_t / added) ** 2) == pytest.approx(1, abs=4 * np.sqrt(2 / x_t.size))
    assert np.mean((x_t[1800:] / added[1800:]) ** 2) == pytest.approx(1, abs=4 * np.sqrt(2 / 1000))


def test_the_noise_of_an_image_is_its_own():
    x = np.zeros((6, 3), np.float32)
    give_back = lambda x_t, sigma: x_t
    all_of_them = from_noise(give_back, x, sigma_t=5.0)
    assert np.array_equal(from_noise(give_back, x[:2], sigma_t=5.0, indices=np.array([4, 1])), all_of_them[[4, 1]])
    assert not np.allclose(from_noise(give_back, x, sigma_t=4.0) / 4, all_of_them / 5)


def test_hidden_parts():
    assert hidden_part((8, 6, 3), 0.25).sum() == 2 * 6 * 3
    assert hidden_part((8, 6, 3), 0.25)[6:].all()
    assert hidden_part((5,), 0.4).tolist() == [False] * 3 + [True] * 2
    with pytest.raises(ValueError, match="hides 0 of the 64"):
        hidden_part((8, 8, 1), 1e-4)


@pytest.mark.parametrize("sigma_s", [0.0, 0.7])
def test_given_a_part_the_posterior_mean_of_a_gaussian_is_that_of_linear_algebra(rng, sigma_s):
    root, mean, hidden = rng.standard_normal((4, 4)), rng.standard_normal(4), np.array([True, False, False, True])
    covariance = root @ root.T + 0.1 * np.eye(4)
    x_t, x_s, sigma = rng.standard_normal((2, 4)), rng.standard_normal((2, 4)), np.array([0.5, 2.0], np.float32)
    given = given_the_rest(gaussian_denoiser(mean, covariance), jnp.float32(x_s), hidden, sigma_s=sigma_s, iterations=4)
    found = jax.jit(given)(jnp.float32(x_t), sigma)
    seen = np.concatenate([np.eye(4), np.eye(4)[~hidden]])  # x_t and y together, linear in x_0
    for i in range(2):
        noise = np.diag(np.r_[np.full(4, sigma[i] ** 2), np.full(2, sigma_s**2 + 0.0009 * sigma[i] ** 2)])
        gain = covariance @ seen.T @ np.linalg.inv(seen @ covariance @ seen.T + noise)
        expected = mean + gain @ (np.r_[x_t[i], x_s[i, ~hidden]] - seen @ mean)
        assert np.asarray(found[i]) == pytest.approx(expected, abs=2e-3)


def test_a_jacobian_that_is_no_covariance_does_not_run_away(rng):
    wrong = jnp.asarray(rng.standard_normal((6, 6)) - 2 * np.eye(6), jnp.float32)  # neither symmetric nor positive
    x_t, x_s = jnp.asarray(rng.standard_normal((2, 50, 6)), jnp.float32)
    given = given_the_rest(lambda x, sigma: x @ wrong, x_s, np.arange(6) < 2, iterations=8, limit=2.0)
    assert np.abs(np.asarray(given(1e3 * x_t, 1.0))).max() == 2


@pytest.mark.parametrize("sigma_s", [0.0, 0.5])
def test_of_a_gaussian_the_hidden_part_is_drawn_from_its_conditional_law(sigma_s):
    key, key_known = jax.random.split(jax.random.key(0))
    known = jax.random.normal(key_known, (N,)) * (1 + sigma_s**2) ** 0.5
    x_s = jnp.stack([known, jnp.full(N, 99.0)], axis=1)  # what is hidden is not looked at
    sigmas = karras_sigmas(32, sigma_min=0.02, sigma_max=20.0)
    given = jax.jit(given_the_rest(PAIR, x_s, SECOND, sigma_s=sigma_s))
    drawn = inpaint(key, given, x_s, SECOND, sigmas, sigma_s=sigma_s)
    gain = 1 / (1 + sigma_s**2)  # x_1 of y = x_1 + σ_s z: N(gain·y, gain·σ_s²)
    slope, variance = CORRELATION * gain, 1 - CORRELATION**2 * gain
    fitted = float(jnp.sum(known * drawn[:, 1]) / jnp.sum(known**2))
    assert fitted == pytest.approx(slope, abs=0.03)
    assert float(jnp.var(drawn[:, 1] - fitted * known)) == pytest.approx(variance, rel=0.15)
    if sigma_s:
        assert float(jnp.sum(known * drawn[:, 0]) / jnp.sum(known**2)) == pytest.approx(gain, abs=0.03)
    else:
        assert jnp.array_equal(drawn[:, 0], known)


def test_what_was_learned_by_heart_comes_back_from_behind_a_mask(rng):
    x = rng.uniform(-1, 1, (40, 6, 6, 1)).astype(np.float32)
    hidden, train = hidden_part((6, 6, 1), 0.5), x[:20]
    denoise, sigmas = learned_by_heart(train), karras_sigmas(10, sigma_min=0.02, sigma_max=10.0)
    given = jax.jit(given_the_rest(denoise, jnp.asarray(x), hidden, limit=1.0))
    found = inpaint(row_keys(0, "mask", np.arange(40)), given, x, hidden, sigmas)
    score = hidden_likeness(np.asarray(found), x, hidden, train.mean(axis=0))
    assert (score[:20] > 0.99).sum() >= 17
    assert score[20:].max() < 0.9
    assert np.array_equal(np.asarray(found)[:, ~hidden], x[:, ~hidden])


def test_a_row_depends_on_its_own_key_alone():
    sigmas = karras_sigmas(4, sigma_min=0.1, sigma_max=2.0)
    given = jax.jit(lambda x_s, x_t, sigma: given_the_rest(PAIR, x_s, SECOND)(x_t, sigma))
    draw = lambda keys, x: inpaint(keys, functools.partial(given, x), x, SECOND, sigmas)
    x = np.array([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], np.float32)
    one = np.asarray(draw(row_keys(3, "mask", np.array([5, 6, 7])), x))
    other = np.asarray(draw(row_keys(3, "mask", np.array([7, 6, 8])), x[::-1]))
    assert np.array_equal(one[1:], other[1::-1])
    assert abs(one[0, 1] - one[1, 1]) > 1e-3


def test_steps_must_go_down():
    with pytest.raises(ValueError, match="reverse steps go down"):
        inpaint(jax.random.key(0), PAIR, jnp.ones((1, 2)), SECOND, jnp.array([0.1, 1.0]))
