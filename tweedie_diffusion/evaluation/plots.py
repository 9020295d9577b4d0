"""Plots of numbers: denoising curves, calibration, and measures beside those of real images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tweedie_diffusion.evaluation.figures import BLUE, INK, SKY, VERMILLION, legend, looks_of, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BELOW = "#ececec"  # what is shaded
TICKS_APART = 1.17  # ratio of two levels whose labels do not touch


def curves_figure(
    curves: Mapping[str, Mapping[str, np.ndarray]],
    *,
    sigma_tn: Sequence[float] = (),
    order: Sequence[str] = (),
) -> Figure:
    """MSE/σ² over σ for each named curve of `evaluation.curves`, with bars of two standard errors.

    Args:
        curves: name -> sigma [S], relative_mse [S], and standard_error [S] if it is known.
        sigma_tn: the noise of the data: a line at each, and the levels below the highest, where no clean image is ever
            seen through less noise, are shaded.
        order: a name in it looks the same whichever others are shown.
    """
    figure, (axis,) = new_figure(1, 1, width=6.4, height=4.2)
    looks = looks_of([*order, *curves])
    for name, curve in curves.items():
        error = 2 * np.asarray(curve["standard_error"]) if "standard_error" in curve else None
        axis.errorbar(
            curve["sigma"], curve["relative_mse"], error, label=name, ms=5, lw=1.7, capsize=3, **looks[name]._asdict()
        )
    levels = sorted({float(level) for curve in curves.values() for level in curve["sigma"]})
    errors = any("standard_error" in curve for curve in curves.values())
    axis.set(xscale="log", xlabel="noise level σ", ylabel="mean squared error / σ²" + ", ± 2 standard errors" * errors)
    axis.set_xticks(spaced := _apart(levels), [f"{level:.3g}" for level in spaced])
    axis.set_xticks([], minor=True)
    axis.margins(y=0.1)
    axis.set_ylim(bottom=0)
    if len(sigma_tn):
        _mark_noise(axis, sigma_tn)
    tidy(axis)
    legend(axis)
    return figure


def denoising_curve_figure(
    curve: Mapping[str, np.ndarray],
    *,
    sigma_tn: float = 0.0,
    clean: Mapping[str, np.ndarray] | None = None,
) -> Figure:
    """The denoising curve of a run, beside the exact denoiser and a run trained on clean images where they are known.

    Args:
        curve: of `evaluation.curves`, with `oracle_mse` if the exact denoiser is known.
        sigma_tn: the (largest) noise of the data; 0 for none.
        clean: the curve of a run of the same settings on clean images.
    """
    curves = {"this run": curve}
    if "oracle_mse" in curve:
        curves["exact"] = {"sigma": curve["sigma"], "relative_mse": curve["oracle_mse"]}
    if clean is not None:
        curves["trained on clean images"] = clean
    order = ("this run", "exact", "trained on clean images")
    return curves_figure(curves, sigma_tn=[sigma_tn] if sigma_tn > 0 else [], order=order)


def _apart(levels):
    """The levels that have room for their labels, from the highest down."""
    kept = []
    for level in reversed(levels):
        if not kept or level * TICKS_APART <= kept[-1]:
            kept.append(level)
    return kept[::-1]


def _mark_noise(axis, sigma_tn):
    """A line at each noise of the data, and a shade below the highest."""
    for level in sigma_tn:
        axis.axvline(level, color=INK, lw=1, ls=(0, (4, 3)), zorder=1)
    top = max(sigma_tn)
    left, right = axis.get_xlim()
    left, right = min(left, top / 1.3), max(right, top * 1.3)
    axis.axvspan(left, top, color=BELOW, lw=0, zorder=0, label=f"below the noise of the data, {top:.3g}")
    axis.set_xlim(left, right)


def bars_figure(values: Mapping[str, float], *, label: str) -> Figure:
    """One horizontal bar for each named value, the first on top, its number beside it."""
    figure, (axis,) = new_figure(1, 1, width=6.5, height=0.32 * len(values) + 0.9)
    bars = axis.barh(list(values), list(values.values()), height=0.6, color=BLUE)
    axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=9)
    axis.axvline(0, color=INK, lw=1)
    axis.invert_yaxis()
    axis.set(xlabel=label)
    axis.margins(x=0.12)
    tidy(axis)
    return figure


def floors_figure(
    measures: Mapping[str, Mapping[str, float]],
    floors: Mapping[str, float],
    *,
    errors: Mapping[str, Mapping[str, float]] | None = None,
    more_is_better: Collection[str] = (),
) -> Figure:
    """A panel for each measure: a bar for each thing measured, and a line at what real images score among themselves.

    Args:
        measures: measure -> {what was measured: value}.
        floors: measure -> what as many real images score beside others, which no model can be expected to better.
        errors: measure -> {what was measured: standard error}; drawn twice as long.
        more_is_better: the measures of which more is better (↑ in their titles); of all others less is (↓).
    """
    tallest = max(len(values) for values in measures.values())
    columns = min(3, len(measures))
    rows = -(-len(measures) // columns)
    figure, axes = new_figure(rows, columns, width=3.4 * columns + 0.6, height=(0.34 * tallest + 1.1) * rows)
    for axis in axes[len(measures) :]:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes, measures.items(), strict=False):
        spread = (errors or {}).get(name, {})
        error = [2 * spread.get(what, 0.0) for what in values] if spread else None
        bars = axis.barh(list(values), list(values.values()), xerr=error, capsize=3, height=0.6, color=SKY)
        axis.bar_label(bars, fmt="%.3g", padding=4, fontsize=9)
        if name in floors:
            axis.axvline(floors[name], color=VERMILLION, lw=2, ls="--")
            axis.set_xlabel(f"as real images among themselves: {floors[name]:.3g}", fontsize=9)
        axis.axvline(0, color=INK, lw=1)
        axis.invert_yaxis()
        axis.set_title(f"{name} {'↑' if name in more_is_better else '↓'}", fontsize=10)
        axis.margins(x=0.22)
        axis.locator_params(axis="x", nbins=4)
        tidy(axis)
    return figure


def calibration_figure(
    rank_counts: np.ndarray, coverage: Mapping[float, float], *, independent: int | None = None
) -> Figure:
    """Whether posterior samples spread as widely as the truth: its rank among them, and how often intervals hold it.

    Of an exact posterior all S + 1 ranks are equally likely (Talts et al. 2018, arXiv:1804.06788), and an interval of
    level q holds the truth a share q of the times. Bands are two standard deviations of shares of independent draws,
    √(p(1 − p)/n).

    Args:
        rank_counts: [S + 1] how many values have 0, 1, … S samples below them.
        coverage: level of an interval -> share of the values that lie in it, such as {0.5: 0.47, 0.9: 0.88}.
        independent: n, how many of the counted values are independent: of pixels of images, no more than the images.
            By default all.
    """
    counts = np.asarray(rank_counts, np.float64)
    expected, n = 1 / len(counts), independent or counts.sum()
    figure, (ranks, cover) = new_figure(1, 2, width=8.4, height=3.6)
    band = 2 * np.sqrt((1 - expected) / (expected * n))
    ranks.bar(np.arange(len(counts)), counts / counts.sum() / expected, width=0.9, color=SKY)
    ranks.axhspan(max(1 - band, 0), 1 + band, color=INK, alpha=0.18, lw=0, label="expected, ± 2 sd")
    ranks.axhline(1, color=INK, lw=1)
    ranks.set(xlabel=f"samples below the truth, of {len(counts) - 1}", ylabel="frequency / expected")
    ranks.set_title("a valley: too narrow;  a hill: too wide", fontsize=10)
    ranks.set_ylim(0, 1.35 * max(1 + band, float((counts / counts.sum() / expected).max())))
    ranks.locator_params(axis="x", integer=True)
    legend(ranks, loc="upper right")
    tidy(ranks)
    _coverage_bars(cover, coverage, n)
    return figure


def _coverage_bars(axis, coverage, n):
    """A bar for each level, and a mark with its band where an exact posterior would end."""
    levels = np.asarray(list(coverage), np.float64)
    places = np.arange(len(levels))
    axis.bar(places, list(coverage.values()), width=0.5, color=SKY)
    spread = 2 * np.sqrt(levels * (1 - levels) / n)
    within = [np.minimum(spread, levels), np.minimum(spread, 1 - levels)]
    axis.errorbar(places, levels, within, ls="", color=VERMILLION, capsize=8, lw=2, label="expected, ± 2 sd")
    axis.hlines(levels, places - 0.35, places + 0.35, color=VERMILLION, lw=2)
    axis.set_xticks(places, [f"of {level:.0%} intervals\n{seen:.0%}" for level, seen in coverage.items()])
    axis.set(ylim=(0, 1.25), xlim=(-0.6, len(levels) - 0.4), ylabel="share of true values inside")
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_title("coverage", fontsize=10)
    legend(axis, loc="upper left")
    tidy(axis)
