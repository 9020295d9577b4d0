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
    assert noise_ceiling(x_tn) == pytest.approx(sigma, rel=0.05)


def test_the_ceiling_of_vectors_is_their_least_standard_deviation(rng):
    x = rng.standard_normal((20_000, 2)) * [1.0, 0.4]
    assert noise_ceiling(x) == pytest.approx(0.4, rel=0.03)


@pytest.mark.parametrize(
    ("stated", "words"),
    [(0.3 * 1.25, "more than the noisy images can hold"), (0.3 * 1.1, "more than"), (0.3, ""), (0.2, "understated")],
)
def test_a_wrong_level_is_told_from_noisy_images_alone(rng, stated, words):
    x_0 = smooth_images(rng)
    warning = noise_warning(x_0 + 0.3 * rng.standard_normal(x_0.shape), stated)
    assert words in warning
    assert bool(warning) == bool(words)


def test_too_few_samples_tell_nothing(rng):
    assert noise_warning(rng.standard_normal((20, 10)), 5.0) == ""
