import numpy as np
import pytest

from tweedie_diffusion.evaluation.noise_check import noise_ceiling, noise_warning


def smooth_images(rng, count=200, side=12):
    """Plane waves of long period: no variance in the fine detail of a patch."""
    grid = np.arange(side) / side
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    slope = rng.uniform(-2, 2, (count, 2, 1, 1))
    return 0.5 * np.cos(slope[:, 0] * grid[:, None] + slope[:, 1] * grid + phase)[..., None]


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_the_ceiling_of_smooth_images_is_their_noise(rng, sigma):
    x_0 = smooth_images(rng)
    x_tn = x_0 + sigma * rng.standard_normal(x_0.shape)
    assert noise_ceiling(x_tn, errors=0.0) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_drawings_show_their_noise_where_they_are_always_empty(rng, sigma):
    x_0 = rng.uniform(-1, 1, (300, 8, 8, 1))
    x_0[:, 0] = -1
    x_tn = x_0 + sigma * rng.standard_normal(x_0.shape)
    error = 1 / np.sqrt(2 * 4 * 300)  # of a standard deviation from 4·300 values
    estimate = noise_ceiling(x_tn, errors=0.0)
    assert abs(estimate / sigma - 1) < 3 * error
    assert noise_ceiling(x_tn) == pytest.approx((1 + 2 * error) * estimate)


def test_the_right_level_of_a_hundred_drawings_is_seldom_doubted(rng):
    x_0 = rng.uniform(-1, 1, (100, 100, 8, 8, 1))
    x_0[:, :, 0] = -1
    sets = x_0 + 0.3 * rng.standard_normal(x_0.shape)
    assert sum(noise_warning(x_tn, 0.3) != "" for x_tn in sets) <= 8


def test_noise_that_grows_with_the_signal_is_more_than_dark_places_hold(rng):
    x_0 = rng.uniform(0, 2, (300, 8, 8, 1))
    x_0[:, 0] = 0
    x_tn = x_0 + np.sqrt(0.25 * x_0) * rng.standard_normal(x_0.shape)
    assert "more than the noisy images can hold" in noise_warning(x_tn, np.sqrt(0.25 * x_0.mean()))


def test_the_ceiling_of_vectors_is_their_least_standard_deviation(rng):
    x = rng.standard_normal((20_000, 2)) * [1.0, 0.4]
    assert noise_ceiling(x) == pytest.approx(0.4, rel=0.03)


@pytest.mark.parametrize(
    ("stated", "words"),
    [(0.375, "more than the noisy images can hold"), (0.33, "more than"), (0.3, ""), (0.26, "understated")],
)
def test_a_wrong_level_is_told_from_noisy_images_alone(rng, stated, words):
    x_0 = smooth_images(rng)
    warning = noise_warning(x_0 + 0.3 * rng.standard_normal(x_0.shape), stated)
    assert words in warning
    assert bool(warning) == bool(words)


@pytest.mark.parametrize("shape", [(20, 10), (2, 5, 5, 1)])
def test_too_few_samples_tell_nothing(rng, shape):
    assert noise_warning(rng.standard_normal(shape), 5.0) == ""
