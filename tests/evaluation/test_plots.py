import itertools

import numpy as np
import pytest
from scipy.stats import binom

from tweedie_diffusion.evaluation.figures import png_of
from tweedie_diffusion.evaluation.plots import (
    bars_figure,
    calibration_figure,
    curves_figure,
    denoising_curve_figure,
    floors_figure,
)

SIGMA = np.array([0.1, 0.3, 1.0])


def curve(height, **extra):
    return {"sigma": SIGMA, "relative_mse": np.array([0.9, 0.5, 0.1]) * height} | extra


def lines(figure):
    """name -> its line, in the order of the legend."""
    axis = figure.axes[0]
    handles, names = axis.get_legend_handles_labels()
    return {name: handle[0] for handle, name in zip(handles, names, strict=True) if hasattr(handle, "has_yerr")}


def test_every_curve_is_drawn_through_its_points():
    drawn = lines(curves_figure({str(n): curve(n + 1) for n in range(6)}))
    assert list(drawn) == list("012345")
    for n, line in enumerate(drawn.values()):
        np.testing.assert_allclose(np.transpose(line.get_xydata()), [SIGMA, curve(n + 1)["relative_mse"]])


def test_error_bars_are_two_standard_errors_each_way():
    error = np.array([0.1, 0.05, 0.01])
    axis = curves_figure({"trained": curve(1.0, standard_error=error), "exact": curve(0.5)}).axes[0]
    (bars,) = [c for c in axis.collections if hasattr(c, "get_segments")]
    lengths = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 4 * error)
    assert "± 2 standard errors" in axis.get_ylabel()


def test_a_curve_in_the_order_looks_the_same_whichever_others_are_shown():
    look = lambda line: (line.get_color(), line.get_linestyle(), line.get_marker())
    looks = [
        look(line)
        for names in ("abc", "cd")
        for line in lines(curves_figure({name: curve(3) for name in names}, order="abc")).values()
    ]
    a, b, c, again, d = looks
    assert c == again
    assert len({a, b, c, d}) == 4


def shades(figure):
    axis = figure.axes[0]
    return {
        label: (patch.get_x(), patch.get_x() + patch.get_width())
        for patch, label in zip(*axis.get_legend_handles_labels(), strict=True)
        if hasattr(patch, "get_width")
    }


@pytest.mark.parametrize("levels", [[0.3], [0.2, 0.3], [0.05], [5.0]])
def test_levels_below_the_noise_of_the_data_are_shaded(levels):
    figure = curves_figure({"trained": curve(1)}, sigma_tn=levels)
    low, high = figure.axes[0].get_xlim()
    ((label, shaded),) = shades(figure).items()
    assert shaded == pytest.approx((low, max(levels)))
    assert low < min(0.1, max(levels) / 1.29)  # there is a shade to be seen, and all points
    assert high > max(1.0, 1.29 * max(levels))
    assert label == f"below the noise of the data, {max(levels):g}"
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines if len(set(line.get_xdata())) == 1]
    assert marks == levels


def test_clean_data_has_no_shade():
    assert shades(denoising_curve_figure(curve(1))) == {}


def test_what_is_known_beside_a_run_is_drawn_with_it():
    figure = denoising_curve_figure(curve(2, oracle_mse=curve(1)["relative_mse"]), sigma_tn=0.3, clean=curve(1.5))
    heights = {name: line.get_ydata()[0] for name, line in lines(figure).items()}
    assert heights == pytest.approx({"this run": 1.8, "exact": 0.9, "trained on clean images": 1.35})
    assert list(lines(denoising_curve_figure(curve(2)))) == ["this run"]


def test_a_curve_of_no_level_is_an_empty_plot():
    empty = {"sigma": np.zeros(0), "relative_mse": np.zeros(0), "standard_error": np.zeros(0)}
    assert len(png_of(denoising_curve_figure(empty, sigma_tn=0.5), dpi=40)) > 500


def test_labels_of_close_levels_do_not_touch():
    sigma = np.geomspace(0.1, 1.0, 40)
    axis = curves_figure({"trained": {"sigma": sigma, "relative_mse": sigma}}).axes[0]
    axis.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
    assert len(boxes) > 5
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_bars_are_as_long_as_their_values():
    axis = bars_figure({"one": 0.5, "other": -0.2}, label="gap closed").axes[0]
    assert [bar.get_width() for bar in axis.patches] == [0.5, -0.2]
    assert [text.get_text() for text in axis.texts] == ["0.50", "-0.20"]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["one", "other"]
    assert axis.yaxis_inverted()


def test_measures_stand_beside_those_of_real_images():
    measures = {"Fréchet": {"samples": 3.0, "truncated": 4.0}, "recall": {"samples": 0.5}}
    floors, errors = {"Fréchet": 1.5}, {"recall": {"samples": 0.1}}
    frechet, recall = floors_figure(measures, floors, errors=errors, more_is_better=["recall"]).axes
    assert [bar.get_width() for bar in frechet.patches] == [3.0, 4.0]
    assert [line.get_xdata()[0] for line in frechet.lines if line.get_linestyle() == "--"] == [1.5]
    assert frechet.get_xlabel() == "as real images among themselves: 1.5"
    assert [axis.get_title() for axis in (frechet, recall)] == ["Fréchet ↓", "recall ↑"]
    assert recall.get_xlabel() == ""
    np.testing.assert_allclose(recall.collections[0].get_segments()[0][:, 0], [0.3, 0.7])


def test_the_band_of_ranks_holds_what_chance_does():
    """An exact posterior: each of 10 ranks has a count of Binomial(n, 1/10), of which the band holds some 95 %."""
    axis = calibration_figure(np.full(10, 500), {0.5: 0.5}).axes[0]
    (band,) = [patch for patch in axis.patches if patch.get_label().startswith("expected")]
    low, high = (500 * y for y in (band.get_y(), band.get_y() + band.get_height()))
    assert binom(5000, 0.1).cdf(high) - binom(5000, 0.1).cdf(low) == pytest.approx(0.954, abs=0.01)


def test_ranks_are_shown_relative_to_what_is_expected():
    axis = calibration_figure(np.array([30, 10, 20, 20]), {0.5: 0.5}).axes[0]
    heights = [bar.get_height() for bar in axis.containers[0]]
    np.testing.assert_allclose(heights, [1.5, 0.5, 1.0, 1.0])
    assert axis.get_xlabel() == "samples below the truth, of 3"


def test_fewer_independent_values_widen_the_bands():
    ranks, cover = calibration_figure(np.full(4, 100), {0.5: 0.44, 0.9: 0.8}, independent=25).axes
    (band,) = [patch for patch in ranks.patches if patch.get_label().startswith("expected")]
    np.testing.assert_allclose(band.get_height(), 4 * np.sqrt(3 / 25))  # 4√((1 − p)/(pn)), p = 1/4
    assert [bar.get_height() for bar in cover.patches] == [0.44, 0.8]
    (errors,) = [c for c in cover.collections if len(c.get_segments()) == 2 and np.ptp(c.get_segments()[0][:, 0]) == 0]
    np.testing.assert_allclose(errors.get_segments()[1][:, 1], [0.9 - 2 * np.sqrt(0.09 / 25), 1.0])  # no more than all
    assert [label.get_text() for label in cover.get_xticklabels()] == ["of 50% intervals\n44%", "of 90% intervals\n80%"]
