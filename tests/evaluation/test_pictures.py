import numpy as np
import pytest

from tweedie_diffusion.evaluation.figures import png_of
from tweedie_diffusion.evaluation.pictures import (
    image_grid,
    posterior_figure,
    samples_figure,
    samples_picture,
    scatter_figure,
    strip_figure,
    to_display,
)


def unit(grey):
    """The value in [-1, 1] that displays as `grey`."""
    return np.asarray(grey, np.float32) * 2 / 255 - 1


def test_the_unit_range_is_shown_from_black_to_white():
    x = np.array([-1.0, 0.0, 1.0, -7.0, 7.0]).reshape(1, 1, 5, 1)
    np.testing.assert_array_equal(to_display(x), [[[0, 128, 255, 0, 255]]])


def test_every_grey_level_is_shown_exactly():
    np.testing.assert_array_equal(to_display(unit(np.arange(256)).reshape(1, 16, 16, 1)).ravel(), np.arange(256))


@pytest.mark.parametrize(("channels", "shape"), [(1, (2, 3, 4)), (2, (2, 3, 4)), (3, (2, 3, 4, 3)), (5, (2, 3, 4))])
def test_three_channels_are_colour_and_others_show_their_first(rng, channels, shape):
    x = rng.uniform(-1, 1, (2, 3, 4, channels))
    shown = to_display(x)
    assert (shown.shape, shown.dtype) == (shape, np.uint8)
    np.testing.assert_array_equal(to_display(x[..., :1]), shown[..., 0] if channels == 3 else shown)


def test_a_grid_places_images_row_by_row_with_a_white_gap():
    x = unit([10, 20, 30])[:, None, None, None] * np.ones((3, 48, 50, 1), np.float32)
    expected = np.full((2 + 48 + 2 + 48 + 2, 2 + 50 + 2 + 50 + 2), 255)
    expected[2:50, 2:52] = 10
    expected[2:50, 54:104] = 20
    expected[52:100, 2:52] = 30
    np.testing.assert_array_equal(np.asarray(image_grid(x, columns=2)), expected)


def test_small_images_are_enlarged_by_whole_pixels():
    x = unit([[0, 100, 200]]).reshape(1, 1, 3, 1)
    expected = np.full((52, 4 + 3 * 48), 255)
    expected[2:50, 2:-2] = np.repeat([0, 100, 200], 48)
    np.testing.assert_array_equal(np.asarray(image_grid(x, columns=1)), expected)


@pytest.mark.parametrize(("height", "zoom"), [(1, 48), (8, 6), (32, 2), (47, 2), (48, 1), (64, 1)])
def test_tiles_are_at_least_48_pixels_high(height, zoom):
    grid = image_grid(np.zeros((1, height, 2, 1)), columns=1)
    assert grid.size == (4 + 2 * zoom, 4 + height * zoom)


def test_colours_stay_in_their_places(rng):
    colours = rng.integers(0, 256, (1, 48, 5, 3))
    np.testing.assert_array_equal(np.asarray(image_grid(unit(colours), columns=1))[2:-2, 2:-2], colours[0])


def test_what_is_no_number_is_grey():
    np.testing.assert_array_equal(to_display(np.array([np.nan, np.inf]).reshape(1, 1, 2, 1)), [[[128, 255]]])


def test_a_picture_of_images_is_their_grid(rng):
    x = rng.uniform(-1, 1, (5, 8, 8, 1))
    np.testing.assert_array_equal(np.asarray(samples_picture(x, columns=3)), np.asarray(image_grid(x, columns=3)))


def pixels_of(axis):
    """What an axis shows as an image."""
    (image,) = axis.images
    return np.asarray(image.get_array())


def points_of(axis):
    (cloud,) = axis.collections
    return np.asarray(cloud.get_offsets())


def test_a_figure_of_samples_shows_their_grid(rng):
    x = rng.uniform(-1, 1, (5, 8, 8, 1))
    (axis,) = samples_figure(x, columns=3).axes
    np.testing.assert_array_equal(pixels_of(axis), np.asarray(image_grid(x, columns=3)))
    assert axis.images[0].get_clim() == (0, 255)


def test_vectors_are_shown_as_points(rng):
    x = rng.normal(size=(20, 2))
    for figure in (samples_figure(x), samples_picture(x)):
        np.testing.assert_array_equal(points_of(figure.axes[0]), x)


@pytest.mark.parametrize(("features", "second"), [(1, 0), (5, 1)])
def test_points_are_the_first_two_features(rng, features, second):
    groups = {"noisy": rng.normal(size=(20, features)), "clean": np.zeros((3, features))}
    axes = scatter_figure(groups).axes
    assert [axis.get_title() for axis in axes] == ["noisy", "clean"]
    for axis, x in zip(axes, groups.values(), strict=True):
        np.testing.assert_array_equal(points_of(axis), x[:, [0, second]])


def test_panels_of_points_share_a_scale_that_holds_nearly_all(rng):
    wide = 3 * rng.normal(size=(5000, 2))
    axes = scatter_figure({"noisy": wide, "clean": np.zeros((3, 2))}).axes
    low, high = axes[0].get_xlim()
    assert {axis.get_xlim() for axis in axes} == {axis.get_ylim() for axis in axes} == {(low, high)}
    assert 0.99 < np.mean(abs(wide) < high) < 1
    assert scatter_figure({"": np.zeros((3, 2))}).axes[0].get_xlim()[1] >= 1


def test_a_strip_has_a_titled_row_an_entry(rng):
    rows = {name: rng.uniform(-1, 1, (10, 8, 8, 3)) for name in ("noisy", "denoised", "clean")}
    axes = strip_figure(rows).axes
    assert [axis.get_ylabel() for axis in axes] == list(rows)
    for axis, x in zip(axes, rows.values(), strict=True):
        np.testing.assert_array_equal(pixels_of(axis), np.asarray(image_grid(x, columns=10)))


def test_a_strip_of_vectors_is_panels_of_points(rng):
    assert len(strip_figure({"noisy": rng.normal(size=(9, 2)), "clean": rng.normal(size=(9, 2))}).axes) == 2


def posterior(rng, shape, draws=4):
    """noisy, mean, samples, std, clean."""
    noisy, mean, clean = (rng.uniform(-1, 1, shape) for _ in range(3))
    return noisy, mean, rng.uniform(-1, 1, (draws, *shape)), rng.uniform(0.1, 0.3, shape), clean


@pytest.mark.parametrize("channels", [1, 3])
def test_a_posterior_is_a_row_an_image(rng, channels):
    noisy, mean, samples, std, clean = posterior(rng, (10, 8, 6, channels))
    *axes, bar = posterior_figure(noisy, mean, samples, std, clean).axes
    titles = ["noisy", "mean", "sample 1", "sample 2", "sample 3", "std", "clean"]
    assert [axis.get_title() for axis in axes] == titles
    for axis, x in zip(axes, (noisy, mean, *samples[:3], None, clean), strict=True):
        if x is not None:
            np.testing.assert_array_equal(pixels_of(axis), np.asarray(image_grid(x[:8], columns=1)))
            assert axis.images[0].get_clim() == (0, 255)
    spread = np.sqrt(np.mean(std[:8] ** 2, axis=-1))
    shown = np.ma.filled(pixels_of(axes[5]), np.nan)
    np.testing.assert_allclose(shown[2:50:6, 2:38:6], spread[0], rtol=1e-6)  # 8 pixels of 6 each
    assert np.isnan(shown[:2]).all()
    assert axes[5].images[0].get_clim() == (0, pytest.approx(np.quantile(spread, 0.995)))
    assert bar.get_ylabel() == "standard deviation, images in [−1, 1]"


def test_a_posterior_without_the_truth_has_no_such_column(rng):
    noisy, mean, samples, std, _ = posterior(rng, (3, 8, 8, 1), draws=1)
    titles = [axis.get_title() for axis in posterior_figure(noisy, mean, samples, std).axes[:-1]]
    assert titles == ["noisy", "mean", "sample 1", "std"]


def test_a_posterior_of_vectors_is_panels_of_points(rng):
    noisy, mean, samples, std, clean = posterior(rng, (50, 2))
    *axes, _ = posterior_figure(noisy, mean, samples, std, clean).axes
    assert [axis.get_title() for axis in axes] == ["noisy", "mean", "samples", "clean"]
    for axis, x in zip(axes, (noisy, mean, np.concatenate(samples[:3]), clean), strict=True):
        np.testing.assert_array_equal(points_of(axis), x)
    np.testing.assert_allclose(axes[1].collections[0].get_array(), np.sqrt(np.mean(std**2, axis=1)))


def test_no_spread_at_all_can_be_shown(rng):
    noisy, mean, samples, std, _ = posterior(rng, (3, 8, 8, 1))
    assert len(png_of(posterior_figure(noisy, mean, samples, 0 * std), dpi=40)) > 1000
