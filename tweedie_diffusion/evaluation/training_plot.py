"""The course of a training, from metrics.jsonl."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tweedie_diffusion.evaluation.figures import INK, VERMILLION, legend, looks_of, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RIGHT_IS_1 = "variance over what is right"
# title -> the series it shows, by their names in metrics.jsonl, and whether its axis is logarithmic.
PANELS = {
    "loss": (
        {"loss": "all", "ambient_loss": "ambient", "consistency_loss": "consistency", "refresh_loss": "refresh"},
        True,
    ),
    "norm of the gradient": ({"grad_norm": ""}, True),
    "learning rate": ({"learning_rate": ""}, False),
    "held-out images": (
        {"score": "score", "held_out_ambient": "error", "proximal_distance": "distance of samples"},
        False,
    ),
    RIGHT_IS_1: ({"sample_variance": "of samples", "posterior_variance": "of the posterior"}, True),
}
SKIPPED, HELD_OUT = "skipped_in_a_row", "held_out_mse/"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl; those that are not whole, as a crash can leave one, are passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
    return rows


def series_of(rows: Iterable[Mapping[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one name, in the order of steps; of a step done twice, as after a crash, the later one."""
    found = {int(row["step"]): row[name] for row in rows if isinstance(row.get(name), int | float)}
    steps = np.asarray(sorted(found), np.int64)
    return steps, np.asarray([found[int(step)] for step in steps], np.float64)


def training_figure(metrics: Path | str | Iterable[Mapping[str, float]]) -> Figure:
    """Loss and its terms, gradient, learning rate, skipped steps and held-out scores over the steps.

    Only what was logged is shown; a panel without any of it is left out.

    Args:
        metrics: metrics.jsonl of a run, or its lines as dictionaries. Steps that a run did twice count once.
    """
    rows = read_metrics(Path(metrics)) if isinstance(metrics, Path | str) else list(metrics)
    panels = _panels(rows)
    columns = min(2, max(1, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure, axes = new_figure(lines, columns, width=5.6 * columns, height=2.9 * lines)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    if not panels:
        axes[0].text(0.5, 0.5, "nothing was logged", ha="center", transform=axes[0].transAxes)
    skipped = _skipped(rows)
    for axis, (title, logarithmic, lines_of) in zip(axes, panels, strict=False):
        _draw(axis, title, logarithmic, lines_of)
        if len(skipped) and title in ("loss", "norm of the gradient"):
            _mark_skipped(axis, skipped)
        legend(axis, loc="upper left", bbox_to_anchor=(1.0, 1.03))
    return figure


def _panels(rows):
    """[(title, logarithmic, {label: (steps, values)})] of what there is."""
    named = {title: (names, logarithmic) for title, (names, logarithmic) in PANELS.items()}
    levels = sorted({name for row in rows for name in row if name.startswith(HELD_OUT)}, key=_level)
    chosen = levels if len(levels) <= 6 else [levels[i] for i in np.linspace(0, len(levels) - 1, 6).round().astype(int)]
    named["held-out MSE/σ²"] = ({name: f"σ = {name.removeprefix(HELD_OUT)}" for name in chosen}, True)
    panels = []
    for title, (names, logarithmic) in named.items():
        lines = {label: series_of(rows, name) for name, label in names.items()}
        lines = {label: line for label, line in lines.items() if len(line[0])}
        if title == "loss" and {"all", "ambient"} <= lines.keys() and len(lines) == 2:
            lines.pop("ambient")  # the loss is that term alone
        if lines:
            panels.append((title, logarithmic, lines))
    return panels


def _level(name):
    try:
        return float(name.removeprefix(HELD_OUT))
    except ValueError:
        return np.inf


def _draw(axis, title, logarithmic, lines):
    looks = looks_of(lines)
    for label, (steps, values) in lines.items():
        color, linestyle, marker = looks[label]
        marker = marker if len(steps) <= 12 else ""
        axis.plot(
            steps,
            np.where(np.isfinite(values), values, np.nan),
            color=color,
            ls=linestyle,
            marker=marker,
            ms=4,
            lw=1.5,
            label=label,
        )
    drawn = np.concatenate([values for _, values in lines.values()])
    drawn = drawn[np.isfinite(drawn)]
    if logarithmic and len(drawn) and (drawn > 0).all() and drawn.max() > 10 * drawn.min():
        axis.set_yscale("log")
    if title == RIGHT_IS_1:
        axis.axhline(1, color=INK, lw=1)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step", fontsize=9)
    axis.locator_params(axis="x", nbins=6)
    tidy(axis)


def _skipped(rows):
    """Steps that were logged while steps were skipped."""
    steps, in_a_row = series_of(rows, SKIPPED)
    return steps[in_a_row > 0]


def _mark_skipped(axis, steps):
    axis.plot(
        steps, np.full(len(steps), 0.02), "x", color=VERMILLION, transform=axis.get_xaxis_transform(), label="skipped"
    )
