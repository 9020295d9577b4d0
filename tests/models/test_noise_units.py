import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from tweedie_diffusion.models.noise_units import noise_units

IMAGES = np.random.default_rng(0).standard_normal((3, 8, 6, 2)).astype(np.float32)
LEVELS = jnp.array([0.2, 0.5, 1.0])


@pytest.mark.parametrize("scale", [0.1, 7.0])
def test_detail_is_measured_in_units_of_the_noise(scale):
    got = noise_units(scale * IMAGES, scale * LEVELS)[..., :6]
    np.testing.assert_allclose(got, noise_units(jnp.asarray(IMAGES), LEVELS)[..., :6], atol=1e-5)


def test_white_noise_at_an_end_of_the_range_looks_the_same_at_every_level():
    noise = np.random.default_rng(1).standard_normal((1, 64, 64, 1)).astype(np.float32)
    low, high = (noise_units(-1 + s * noise, s)[..., :4] for s in (0.05, 20.0))
    np.testing.assert_allclose(low, high, atol=1e-4)
    expected = quad(lambda z: (3 * np.tanh(z / 3)) ** 2 * norm.pdf(z), -8, 8)[0]
    np.testing.assert_allclose(np.square(low[:, :-1, :-1]).mean(axis=(0, 1, 2)), expected, rtol=0.07)


def test_the_ends_of_the_range_are_as_far_as_they_are():
    got = noise_units(jnp.full((1, 2, 2, 1), 0.4), 0.5)[0, 0, 0, 3:]
    np.testing.assert_allclose(got, 3 * np.tanh(np.array([1.4, 0.6]) / 1.5), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 3), (2, 8, 8)])
def test_only_images_are_taken(shape):
    with pytest.raises(ValueError, match="noise_units is for images"):
        noise_units(jnp.zeros(shape), 0.5)


def test_detail_is_that_of_the_patch_to_the_right_and_below():
    got = np.asarray(noise_units(jnp.asarray(IMAGES), LEVELS))[1, 2, 3]
    (a, b), (c, d) = IMAGES[1, 2:4, 3:5, 1]
    values = np.array([a - b + c - d, a + b - c - d, a - b - c + d]) / 2
    np.testing.assert_allclose(got[1:6:2], 3 * np.tanh(values / (3 * 0.5)), atol=1e-5)


def test_a_flat_image_has_no_detail_and_a_large_step_is_bounded():
    flat, step = np.full((1, 4, 4, 1), 0.7, np.float32), np.zeros((1, 4, 4, 1), np.float32)
    step[:, :, 2:] = 1e6
    assert np.abs(noise_units(jnp.asarray(flat), jnp.ones(1))[..., :3]).max() < 1e-5
    assert np.abs(noise_units(jnp.asarray(step), jnp.ones(1))).max() == pytest.approx(3.0)


def test_channels_do_not_mix():
    other = IMAGES.copy()
    other[..., 1] = 0.5
    both, alone = (np.asarray(noise_units(jnp.asarray(x), LEVELS)) for x in (IMAGES, other))
    np.testing.assert_array_equal(both[..., ::2], alone[..., ::2])
