import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.diffusion.corruption import add_noise, corrupt_example


@pytest.mark.parametrize(("sigma_s", "sigma_t"), [(0.0, 0.5), (0.3, 0.5), (0.5, 20.0)])
def test_add_noise_brings_the_variance_up_to_the_level(sigma_s, sigma_t):
    x_s = jnp.zeros((10, 10_000))
    x_t = np.asarray(add_noise(jax.random.key(0), x_s, sigma_s=sigma_s, sigma_t=sigma_t), np.float64)
    expected = sigma_t**2 - sigma_s**2
    assert abs(x_t.mean()) < 5 * np.sqrt(expected / x_t.size)
    assert abs(x_t.var() / expected - 1) < 5 * np.sqrt(2 / x_t.size)


def test_add_noise_adds_to_the_image(rng):
    x_s = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    noise = add_noise(jax.random.key(1), jnp.zeros((3, 4)), sigma_s=0.1, sigma_t=0.4)
    x_t = add_noise(jax.random.key(1), x_s, sigma_s=0.1, sigma_t=0.4)
    np.testing.assert_allclose(x_t - x_s, noise, atol=1e-6)


def test_add_noise_to_the_same_level_changes_nothing(rng):
    x_s = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    np.testing.assert_array_equal(add_noise(jax.random.key(0), x_s, sigma_s=0.3, sigma_t=0.3), x_s)


def test_add_noise_keeps_its_digits_just_above_the_level():
    sigma_s, sigma_t = np.float32(0.2), np.float32(0.2 * (1 + 1e-6))
    exact = np.sqrt(np.float64(sigma_t) ** 2 - np.float64(sigma_s) ** 2)
    close = add_noise(jax.random.key(0), jnp.zeros((1, 8)), sigma_s=sigma_s, sigma_t=sigma_t)
    unit = add_noise(jax.random.key(0), jnp.zeros((1, 8)), sigma_s=0.0, sigma_t=1.0)
    np.testing.assert_allclose(close / unit, np.full((1, 8), exact), rtol=1e-6)


def test_add_noise_refuses_to_take_noise_away():
    with pytest.raises(ValueError, match=r"sigma_t must be at least sigma_s >= 0.*got 0.2 < 0.3"):
        add_noise(jax.random.key(0), jnp.zeros((2, 3)), sigma_s=0.3, sigma_t=jnp.array([0.5, 0.2]))


def test_fixed_noise_is_the_normal_of_the_folded_key(rng):
    x_0 = rng.normal(size=(4, 4, 3)).astype(np.float32)
    z = jax.random.normal(jax.random.fold_in(jax.random.key(3), 17), (4, 4, 3))
    np.testing.assert_array_equal(corrupt_example(jax.random.key(3), 17, x_0, sigma_tn=0.4), x_0 + jnp.float32(0.4) * z)


def test_fixed_noise_has_not_changed_since_it_was_first_used():
    # Literal values: data sets corrupted by an earlier version must stay what they are.
    got = corrupt_example(jax.random.key(0), 5, np.zeros(4), sigma_tn=1.0)
    np.testing.assert_allclose(
        got, [0.637377142906189, 0.31959155201911926, 1.2687643766403198, 1.3879265785217285], rtol=1e-6
    )


def test_fixed_noise_does_not_depend_on_the_order_of_calls():
    key, x_0 = jax.random.key(0), np.zeros((5, 5))
    forward = {i: np.asarray(corrupt_example(key, i, x_0, sigma_tn=0.5)) for i in (0, 1, 2)}
    backward = {i: np.asarray(corrupt_example(key, i, x_0, sigma_tn=0.5)) for i in (2, 1, 0)}
    for i in (0, 1, 2):
        np.testing.assert_array_equal(forward[i], backward[i])


def test_fixed_noise_is_standard_normal_over_examples():
    z = np.stack([corrupt_example(jax.random.key(0), i, np.zeros(500), sigma_tn=2.0) for i in range(200)]) / 2
    n = z.size
    assert abs(z.mean()) < 5 / np.sqrt(n)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / n)
    assert abs((z[1:] * z[:-1]).mean()) < 5 / np.sqrt(n)  # neighbours in the data set are uncorrelated


def test_fixed_noise_differs_from_key_to_key():
    a, b = (corrupt_example(jax.random.key(k), 0, np.zeros(8), sigma_tn=1.0) for k in (0, 1))
    assert not np.any(np.asarray(a) == np.asarray(b))


def test_fixed_noise_reaches_the_last_index():
    a, b = (corrupt_example(jax.random.key(0), i, np.zeros(8), sigma_tn=1.0) for i in (2**32 - 1, 2**31))
    assert not np.any(np.asarray(a) == np.asarray(b))


@pytest.mark.parametrize("index", [-1, 2**32])
def test_an_index_outside_32_bits_is_refused(index):
    with pytest.raises(ValueError, match=rf"index must lie in \[0, 2\*\*32\).*got {index}"):
        corrupt_example(jax.random.key(0), index, np.zeros(8), sigma_tn=1.0)


def test_a_clean_example_stays_as_it_is(rng):
    x_0 = rng.normal(size=(3, 3)).astype(np.float32)
    np.testing.assert_array_equal(corrupt_example(jax.random.key(0), 0, x_0, sigma_tn=0.0), x_0)


def test_corrupt_example_refuses_a_negative_level():
    with pytest.raises(ValueError, match=r"sigma_tn must be >= 0 \(got -0.1 < 0\)"):
        corrupt_example(jax.random.key(0), 0, np.zeros(3), sigma_tn=-0.1)
