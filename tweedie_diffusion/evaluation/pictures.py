"""Pictures of images, of points in the plane, and of denoising curves."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

MIN_TILE = 48  # small images are enlarged by whole pixels to at least this height
_LOOKS = (("#d1495b", "-"), ("#2f6690", "-"), ("#e09f3e", "--"), ("#3b8b5d", "-"))  # of curves


def to_display(x: np.ndarray) -> np.ndarray:
    """[N, H, W, C] in [-1, 1] to uint8 [N, H, W] (grey) or [N, H, W, 3]; other channel counts show their first."""
    grey = x.shape[-1] != 3
    shown = np.rint((np.clip(np.asarray(x, np.float32), -1, 1) + 1) * 127.5).astype(np.uint8)
    return shown[..., 0] if grey else shown


def image_grid(x: np.ndarray, *, columns: int) -> Image.Image:
    """Images [N, H, W, C] in [-1, 1], row by row, with a thin gap."""
    tiles = to_display(x)
    zoom = max(1, -(-MIN_TILE // tiles.shape[1]))
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width = tiles.shape[:3]
    rows, gap = -(-count // columns), 2
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, *tiles.shape[3:]), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + (i // columns) * (height + gap), gap + (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return Image.fromarray(canvas)


def save_examples(path: Path, x: np.ndarray, *, columns: int = 8) -> None:
    """A PNG of examples: a grid of images [N, H, W, C], or a scatter plot of vectors [N, D] (first two features)."""
    if x.ndim == 4:
        image_grid(x, columns=columns).save(path)
    else:
        save_scatter(path, {"": x})


def save_scatter(path: Path, groups: dict[str, np.ndarray]) -> None:
    """A PNG with one panel a group of points [N, D]: the first two features."""
    figure, axes = _figure(1, len(groups), width=4 * len(groups), height=4)
    for axis, (title, points) in zip(axes, groups.items(), strict=True):
        axis.scatter(
            points[:, 0], points[:, min(1, points.shape[1] - 1)], s=4, alpha=0.5, linewidths=0, color="#2f6690"
        )
        axis.set(title=title, aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
        axis.tick_params(labelsize=8)
    _save(figure, path)


def save_strip(path: Path, rows: dict[str, np.ndarray]) -> None:
    """A PNG with one titled row of examples for each entry: images side by side, or panels of points."""
    first = next(iter(rows.values()))
    if first.ndim != 4:
        save_scatter(path, rows)
        return
    count = len(first)
    figure, axes = _figure(len(rows), 1, width=0.62 * count + 1.1, height=0.66 * len(rows))
    for axis, (title, x) in zip(axes, rows.items(), strict=True):
        strip = image_grid(x, columns=count)
        axis.imshow(np.asarray(strip), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=9)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    _save(figure, path)


def save_curves(
    path: Path,
    curves: dict[str, dict[str, np.ndarray]],
    *,
    sigma_tn: Sequence[float] = (),
    order: Sequence[str] = (),
) -> None:
    """A PNG of MSE/σ² over σ for each named curve of `evaluation.curves`, with a line at the data's noise.

    A name in `order` looks the same whichever others are shown. The third is dashed: it shows on one it coincides with.
    """
    figure, (axis,) = _figure(1, 1, width=5.5, height=3.6)
    looks = dict(zip(dict.fromkeys([*order, *curves]), itertools.cycle(_LOOKS), strict=False))
    for name, curve in curves.items():
        error = 2 * curve["standard_error"] if "standard_error" in curve else None
        color, line = looks[name]
        axis.errorbar(
            curve["sigma"], curve["relative_mse"], error, label=name, color=color, ls=line, marker="o", ms=3.5, lw=1.5
        )
    for level in sigma_tn:
        axis.axvline(level, color="0.6", lw=1, ls="--")
        axis.text(level, 1.02, " noise of the data", color="0.45", fontsize=8, transform=axis.get_xaxis_transform())
    axis.set(xscale="log", xlabel="noise level σ", ylabel="mean squared error / σ²")
    levels = next((curve["sigma"] for curve in curves.values()), ())
    axis.set_xticks(levels, [f"{level:.3g}" for level in levels])
    axis.set_xticks([], minor=True)
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)
    _save(figure, path)


def save_bars(path: Path, values: dict[str, float], *, label: str) -> None:
    """A PNG with one horizontal bar for each named value, the first on top, its number beside it."""
    figure, (axis,) = _figure(1, 1, width=6.5, height=0.28 * len(values) + 0.8)
    bars = axis.barh(list(values), list(values.values()), height=0.6, color="#2f6690")
    axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axis.axvline(0, color="0.3", lw=1)
    axis.invert_yaxis()
    axis.set(xlabel=label)
    axis.margins(x=0.12)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _figure(rows, columns, *, width, height):
    """A figure without pyplot, so that nothing global is touched; and its axes as a flat list."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).ravel())


def _save(figure, path):
    figure.savefig(path, dpi=160)
