import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tweedie_diffusion.data.flat_patches import sample_windows
from tweedie_diffusion.data.noise_checks import (
    are_repeats,
    autocorrelation,
    clipped_fractions,
    neighbour_correlation,
    quantisation_step,
)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_the_correlation_of_separable_noise_is_found(rng, weight):
    """Each pixel is one draw and `weight` of the next, along both axes: ρ = w/(1 + w²); flat surroundings take some."""
    noise = rng.standard_normal((300, 25, 25, 1))
    rows = noise[:, 1:] + weight * noise[:, :-1]
    x = (rows[:, :, 1:] + weight * rows[:, :, :-1]) / (1 + weight**2)
    assert neighbour_correlation(sample_windows(x)) == pytest.approx(weight / (1 + weight**2), abs=0.06)


def test_smooth_signal_is_not_taken_for_correlation(rng):
    grid = np.arange(24) / 24
    x_0 = np.cos(3 * grid[:, None] + 2 * grid + rng.uniform(0, 6, (300, 1, 1)))[..., None]
    assert abs(neighbour_correlation(sample_windows(x_0 + 0.1 * rng.standard_normal(x_0.shape)))) < 0.1


def test_blurred_noise_is_correlated(rng):
    x = gaussian_filter(rng.standard_normal((100, 24, 24, 1)), (0, 1, 1, 0))
    assert neighbour_correlation(sample_windows(x)) > 0.5


@pytest.mark.parametrize("axis", [1, 2])
def test_an_offset_of_every_line_is_correlation(rng, axis):
    shape = [300, 24, 24, 1]
    noise = rng.standard_normal(shape)
    shape[axis] = 1
    found = neighbour_correlation(sample_windows(noise + 0.5 * rng.standard_normal(shape)))
    assert found == pytest.approx(0.25 / 1.25, abs=0.08)  # the line's part of the variance; flat surroundings take some


def test_the_autocorrelation_is_that_of_the_noise_whatever_the_signal(rng):
    grid = np.arange(24) / 24
    x_0 = np.cos(3 * grid[:, None] + 2 * grid + rng.uniform(0, 6, (300, 1, 1)))[..., None]
    noise = rng.standard_normal((300, 24, 25, 1))
    white, pairs = noise[:, :, 1:], (noise[:, :, 1:] + noise[:, :, :-1]) / 2**0.5
    expected = np.zeros((7, 7))
    expected[3, 3] = 1
    np.testing.assert_allclose(autocorrelation(sample_windows(x_0 + 0.3 * white)), expected, atol=0.1)
    expected[3, 2:5] = 0.5, 1, 0.5
    np.testing.assert_allclose(autocorrelation(sample_windows(x_0 + 0.3 * pairs)), expected, atol=0.15)


def test_a_known_level_shows_correlation_beside_texture(rng):
    noise = gaussian_filter(rng.standard_normal((300, 24, 24, 1)), (0, 1, 1, 0))
    windows = sample_windows(noise / noise.std())
    assert neighbour_correlation(windows, 1.0) >= neighbour_correlation(windows) - 0.01


def test_clipping_leaves_values_at_the_ends():
    assert clipped_fractions(np.array([0, 0, 3, 7, 7, 7, 5, 2])) == (0.25, 0.375)


@pytest.mark.parametrize(("values", "step"), [([0, 4, 12], 4.0), ([0.5, 0.75], 0.25), ([3, 3], 0.0)])
def test_the_step_of_the_values(values, step):
    assert quantisation_step(np.array(values)) == step


@pytest.mark.parametrize("moved", [False, True])
def test_two_images_of_one_scene_are_told_from_others(rng, moved):
    grid = np.arange(24) / 24
    x_0 = np.cos(3 * grid[:, None] + 2 * grid + rng.uniform(0, 6, (100, 1, 1)))[..., None]
    noisy = lambda x: x + 0.3 * rng.standard_normal(x.shape)
    assert are_repeats(noisy(x_0), noisy(np.roll(x_0, 1, axis=0) if moved else x_0)) is not moved
