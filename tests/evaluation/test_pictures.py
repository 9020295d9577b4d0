import matplotlib.axes
import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.evaluation.pictures import (
    image_grid,
    save_bars,
    save_curves,
    save_examples,
    save_scatter,
    save_strip,
    to_display,
)


def pixels_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


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


def test_examples_of_images_are_saved_as_their_grid(tmp_path, rng):
    x = rng.uniform(-1, 1, (5, 8, 8, 1))
    save_examples(tmp_path / "a.png", x, columns=3)
    np.testing.assert_array_equal(pixels_of(tmp_path / "a.png")[..., 0], np.asarray(image_grid(x, columns=3)))


def check_picture(path, width, height):
    """A readable PNG of about that many pixels which is not blank."""
    pixels = pixels_of(path)
    np.testing.assert_allclose(pixels.shape[:2], (height, width), atol=2)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 10


def test_examples_of_vectors_are_a_scatter_plot(tmp_path, rng):
    save_examples(tmp_path / "a.png", rng.normal(size=(20, 2)))
    check_picture(tmp_path / "a.png", 640, 640)


@pytest.mark.parametrize("features", [1, 5])
def test_a_scatter_plot_has_a_panel_a_group(tmp_path, rng, features):
    save_scatter(tmp_path / "a.png", {"noisy": rng.normal(size=(20, features)), "clean": np.zeros((3, features))})
    check_picture(tmp_path / "a.png", 1280, 640)


def test_a_strip_has_a_row_an_entry(tmp_path, rng):
    rows = {name: rng.uniform(-1, 1, (10, 8, 8, 3)) for name in ("noisy", "denoised", "clean")}
    save_strip(tmp_path / "a.png", rows)
    check_picture(tmp_path / "a.png", 160 * (0.62 * 10 + 1.1), 160 * 0.66 * 3)


def test_a_strip_of_vectors_is_a_scatter_plot(tmp_path, rng):
    save_strip(tmp_path / "a.png", {"noisy": rng.normal(size=(9, 2)), "clean": rng.normal(size=(9, 2))})
    check_picture(tmp_path / "a.png", 1280, 640)


def curve(height, **extra):
    return {"sigma": np.array([0.1, 1.0]), "relative_mse": np.array([0.9, 0.1]) * height} | extra


def test_curves_are_drawn_with_and_without_errors(tmp_path):
    curves = {"trained": curve(1.0, standard_error=np.array([0.1, 0.01])), "exact": curve(0.5)}
    save_curves(tmp_path / "a.png", curves, sigma_tn=[0.3, 0.5])
    check_picture(tmp_path / "a.png", 880, 576)


def test_no_curve_is_left_out(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        matplotlib.axes.Axes, "legend", lambda axis, **kw: drawn.append(axis.get_legend_handles_labels()[1])
    )
    save_curves(tmp_path / "a.png", {str(n): curve(n + 1) for n in range(6)})
    assert drawn == [["0", "1", "2", "3", "4", "5"]]


def test_a_curve_in_the_order_looks_the_same_whichever_others_are_shown(tmp_path, monkeypatch):
    looks = []
    keep = lambda axis, **kw: looks.extend(
        (line.get_color(), line.get_linestyle()) for line, *_ in axis.get_legend_handles_labels()[0]
    )
    monkeypatch.setattr(matplotlib.axes.Axes, "legend", keep)
    for names in ("abc", "cd"):
        save_curves(tmp_path / "a.png", {name: curve(3) for name in names}, order="abc")
    a, b, c, again, d = looks
    assert c == again
    assert len({a, b, c, d}) == 4


def test_bars_are_as_long_as_their_values(tmp_path, monkeypatch):
    drawn = {}
    bar_label = matplotlib.axes.Axes.bar_label
    keep = lambda axis, bars, **kw: drawn.update(widths=list(bars.datavalues)) or bar_label(axis, bars, **kw)
    monkeypatch.setattr(matplotlib.axes.Axes, "bar_label", keep)
    save_bars(tmp_path / "a.png", {"one": 0.5, "other": -0.2}, label="gap closed")
    assert drawn["widths"] == [0.5, -0.2]
    check_picture(tmp_path / "a.png", 160 * 6.5, 160 * (0.28 * 2 + 0.8))
