import json

import numpy as np
import pytest

from tweedie_diffusion.evaluation.figures import png_of
from tweedie_diffusion.evaluation.training_plot import read_metrics, series_of, training_figure


def row(step, **values):
    return {"step": step, "loss": 1.0 / step, "ambient_loss": 1.0 / step, "grad_norm": 0.5} | values


def panels(figure):
    return {axis.get_title(): axis for axis in figure.axes if axis.get_title()}


def drawn(axis):
    return {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in axis.lines}


def test_steps_done_twice_count_once_and_the_later_time():
    rows = [row(step, loss=step) for step in (10, 20, 30)] + [row(step, loss=-step) for step in (20, 30, 40)]
    steps, losses = series_of(rows, "loss")
    np.testing.assert_array_equal(steps, [10, 20, 30, 40])
    np.testing.assert_array_equal(losses, [10, -20, -30, -40])


def test_lines_of_one_step_add_up():
    """The log and the score of a step are two lines."""
    figure = training_figure([row(10), {"step": 10, "score": 0.4}])
    assert drawn(panels(figure)["loss"])["all"] == [(10, 0.1)]
    assert drawn(panels(figure)["held-out images"])["score"] == [(10, 0.4)]


def test_only_what_was_logged_has_a_panel():
    assert list(panels(training_figure([row(1), row(2)]))) == ["loss", "norm of the gradient"]
    more = row(3, learning_rate=1e-3, sample_variance=0.9, **{"held_out_mse/0.1": 0.5})
    expected = ["loss", "norm of the gradient", "learning rate", "variance over what is right", "held-out MSE/σ²"]
    assert list(panels(training_figure([row(1), more]))) == expected


def test_a_term_has_its_own_line_where_there_are_several():
    one, two = training_figure([row(1)]), training_figure([row(1), row(2, consistency_loss=0.1)])
    assert list(drawn(panels(one)["loss"])) == ["all"]
    assert list(drawn(panels(two)["loss"])) == ["all", "ambient", "consistency"]


def test_skipped_steps_are_marked():
    axis = panels(training_figure([row(1), row(2, skipped_in_a_row=1.0), row(3, skipped_in_a_row=0.0)]))["loss"]
    assert [x for x, _ in drawn(axis)["skipped"]] == [2]


def test_held_out_errors_are_named_by_their_level_and_at_most_six():
    levels = {f"held_out_mse/{sigma:g}": sigma for sigma in (0.02, 0.1, 0.5, 1, 2, 5, 10, 20)}
    axis = panels(training_figure([row(1, **levels)]))["held-out MSE/σ²"]
    names = list(drawn(axis))
    assert len(names) == 6
    assert (names[0], names[-1]) == ("σ = 0.02", "σ = 20")


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([np.nan, 1.0], "linear"),
        ([np.inf, np.nan], "linear"),
        ([-1.0, 2.0], "linear"),
        ([0.0, 1e6], "linear"),
        ([1.0, 1e6], "log"),
    ],
)
def test_an_axis_is_logarithmic_only_where_all_values_fit_it(values, scale):
    rows = [{"step": i + 1, "loss": value} for i, value in enumerate(values)]
    figure = training_figure(rows)
    assert panels(figure)["loss"].get_yscale() == scale
    assert len(png_of(figure, dpi=40)) > 1000


def test_a_file_with_half_a_line_is_read(tmp_path):
    lines = [json.dumps(row(1)), json.dumps(row(2, loss=float("nan"))), '{"step": 3, "lo', "[1]", "", '{"loss": 1}']
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b"\n\x00\xff\n")
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    assert "loss" in panels(training_figure(tmp_path / "metrics.jsonl"))


def test_nothing_logged_is_said():
    (axis,) = training_figure([]).axes
    assert [text.get_text() for text in axis.texts] == ["nothing was logged"]
