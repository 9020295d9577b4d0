import numpy as np
import pytest

from tweedie_diffusion.data.noise import empty_places_sigma, estimate_sigma, haar_sigma, noise_warning, sigma_of_repeats


def smooth_images(rng, count=400, side=16):
    """Plane waves of long period: no variance in the fine detail of a patch."""
    grid = np.arange(side) / side
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    slope = rng.uniform(-2, 2, (count, 2, 1, 1))
    return 0.5 * np.cos(slope[:, 0] * grid[:, None] + slope[:, 1] * grid + phase)[..., None]


def drawings(rng, count=300):
    """Random pixels, but for a row that is always empty."""
    x_0 = rng.uniform(-1, 1, (count, 8, 8, 1))
    x_0[:, 0] = -1
    return x_0


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_the_noise_of_smooth_images_is_found(rng, sigma):
    x_0 = smooth_images(rng)
    found = estimate_sigma(x_0 + sigma * rng.standard_normal(x_0.shape))
    assert found.sigma == pytest.approx(sigma, rel=0.02)
    assert found.low <= sigma <= found.high


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_drawings_show_their_noise_where_they_are_always_empty(rng, sigma):
    x_0 = drawings(rng)
    found = estimate_sigma(x_0 + sigma * rng.standard_normal(x_0.shape))
    assert found.source == "the 4 emptiest places"
    assert found.sigma == pytest.approx(sigma, rel=3 / np.sqrt(2 * 4 * 300))  # 4·300 values
    assert found.low <= sigma <= found.high


def test_the_noise_of_vectors_is_their_least_standard_deviation(rng):
    x = rng.standard_normal((20_000, 2)) * [1.0, 0.4]
    assert estimate_sigma(x).sigma == pytest.approx(0.4, rel=0.03)


def test_images_without_noise_have_none(rng):
    assert estimate_sigma(drawings(rng)).sigma == 0


@pytest.mark.parametrize("shape", [(1, 20, 20, 1), (40, 5, 5, 1), (20, 10)])
def test_too_little_tells_nothing(rng, shape):
    assert estimate_sigma(rng.standard_normal(shape)) is None
    assert noise_warning(rng.standard_normal(shape), 5.0) == ""


@pytest.mark.parametrize(
    ("stated", "words"),
    [(0.375, "more than the noisy images can hold"), (0.345, "more than"), (0.3, ""), (0.26, "is less than the noise")],
)
@pytest.mark.parametrize("images", [smooth_images, drawings])
def test_a_wrong_level_is_told_from_noisy_images_alone(rng, images, stated, words):
    x_0 = images(rng)
    warning = noise_warning(x_0 + 0.3 * rng.standard_normal(x_0.shape), stated)
    assert words in warning
    assert bool(warning) == bool(words)


def test_the_right_level_of_a_hundred_drawings_is_seldom_doubted(rng):
    sets = drawings(rng, 100 * 100).reshape(100, 100, 8, 8, 1)
    assert sum(noise_warning(x_0 + 0.3 * rng.standard_normal(x_0.shape), 0.3) != "" for x_0 in sets) <= 8


def test_noise_that_grows_with_the_signal_is_more_than_dark_places_hold(rng):
    x_0 = drawings(rng) + 1
    x_tn = x_0 + np.sqrt(0.25 * x_0) * rng.standard_normal(x_0.shape)
    assert "more than the noisy images can hold" in noise_warning(x_tn, np.sqrt(0.25 * x_0.mean()))


def test_empty_places_show_the_noise_of_single_pixels_even_if_it_is_correlated(rng):
    noise = rng.standard_normal((4000, 8, 9, 1))
    correlated = (noise[:, :, 1:] + noise[:, :, :-1]) * 0.3 / np.sqrt(2)
    found = empty_places_sigma(drawings(rng, 4000) + correlated)
    assert found.sigma == pytest.approx(0.3, rel=0.03)
    assert estimate_sigma(drawings(rng, 4000) + correlated).sigma < 0.2


def test_wavelets_find_the_noise_of_one_smooth_image(rng):
    grid = np.linspace(0, 1, 200)
    x_0 = np.sin(3 * grid[:, None] + 2 * grid)[..., None]
    median_error = 1.17 / np.sqrt(100**2)  # of a standard deviation by the median, 100² details
    assert haar_sigma(x_0 + 0.2 * rng.standard_normal(x_0.shape)) == pytest.approx(0.2, rel=4 * median_error)


def test_repeated_images_show_their_noise_however_detailed_they_are(rng):
    x_0 = rng.uniform(-1, 1, (100, 16, 16, 1))
    first, second = (x_0 + 0.2 * rng.standard_normal(x_0.shape) for _ in range(2))
    found = sigma_of_repeats(first, second)
    assert found.sigma == pytest.approx(0.2, rel=0.03)
    assert found.low <= 0.2 <= found.high
    assert found.source.startswith("differences of repeated images")
