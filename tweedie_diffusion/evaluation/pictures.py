"""Pictures of images, and of points in the plane."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tweedie_diffusion.evaluation.figures import BLUE, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_TILE = 48  # small images are enlarged by whole pixels to at least this height
GAP = 2
CELL = 0.85  # inches a tile of a figure takes
POSTERIOR_ROWS, POSTERIOR_SAMPLES = 8, 3


def to_display(x: np.ndarray) -> np.ndarray:
    """[N, H, W, C] in [-1, 1] to uint8 [N, H, W] (grey) or [N, H, W, 3]; other channel counts show their first.

    What is no number is shown in the middle between black and white.
    """
    grey = x.shape[-1] != 3
    finite = np.nan_to_num(np.clip(np.asarray(x, np.float32), -1, 1), nan=0.0)
    shown = np.rint((finite + 1) * 127.5).astype(np.uint8)
    return shown[..., 0] if grey else shown


def image_grid(x: np.ndarray, *, columns: int) -> Image.Image:
    """Images [N, H, W, C] in [-1, 1], row by row, with a thin gap."""
    return Image.fromarray(tiled_canvas(to_display(x), columns=columns, gap=255))


def tiled_canvas(tiles: np.ndarray, *, columns: int, gap: float) -> np.ndarray:
    """Tiles [N, H, W] or [N, H, W, 3] on one canvas, row by row, enlarged by whole pixels, with `gap` between them."""
    zoom = max(1, -(-MIN_TILE // tiles.shape[1]))
    tiles = tiles.repeat(zoom, axis=1).repeat(zoom, axis=2)
    count, height, width = tiles.shape[:3]
    rows = -(-count // columns)
    size = rows * (height + GAP) + GAP, columns * (width + GAP) + GAP
    canvas = np.full((*size, *tiles.shape[3:]), gap, tiles.dtype)
    for i, tile in enumerate(tiles):
        top, left = GAP + (i // columns) * (height + GAP), GAP + (i % columns) * (width + GAP)
        canvas[top : top + height, left : left + width] = tile
    return canvas


def samples_picture(x: np.ndarray, *, columns: int = 8) -> Image.Image | Figure:
    """What a file of examples shows: images [N, H, W, C] as a grid of whole pixels, vectors [N, D] as points."""
    return image_grid(x, columns=columns) if x.ndim == 4 else scatter_figure({"": x})


def samples_figure(x: np.ndarray, columns: int = 8) -> Figure:
    """Examples: images [N, H, W, C] in rows of `columns`, or vectors [N, D] as points."""
    if x.ndim != 4:
        return scatter_figure({"": x})
    columns = min(columns, len(x))
    tall = x.shape[1] / x.shape[2]
    size = {"width": CELL * columns, "height": CELL * tall * -(-len(x) // columns)}
    figure, (axis,) = new_figure(1, 1, **size, layout="compressed")
    _show(axis, np.asarray(image_grid(x, columns=columns)))
    return figure


def scatter_figure(groups: dict[str, np.ndarray]) -> Figure:
    """One panel a group of points [N, D], all to one scale: the first two features."""
    figure, axes = new_figure(1, len(groups), width=4 * len(groups), height=4)
    most = plane_limit(groups.values())
    for axis, (title, points) in zip(axes, groups.items(), strict=True):
        _scatter(axis, points, title, most, color=BLUE)
    return figure


def strip_figure(rows: dict[str, np.ndarray]) -> Figure:
    """One titled row of examples for each entry: images [N, H, W, C] side by side, or panels of points."""
    first = next(iter(rows.values()))
    if first.ndim != 4:
        return scatter_figure(rows)
    count = len(first)
    tall = first.shape[1] / first.shape[2]
    size = {"width": 0.62 * count + 1.1, "height": (0.62 * tall + 0.08) * len(rows)}
    figure, axes = new_figure(len(rows), 1, **size, layout="compressed")
    for axis, (title, x) in zip(axes, rows.items(), strict=True):
        _show(axis, np.asarray(image_grid(x, columns=count)))
        axis.set_ylabel(title, rotation=0, ha="right", va="center", fontsize=10)
    return figure


def posterior_figure(
    noisy: np.ndarray, mean: np.ndarray, samples: np.ndarray, std: np.ndarray, clean: np.ndarray | None = None
) -> Figure:
    """What is known of x_0 given one noisy image: a row each of noisy, mean, three samples, spread, and truth.

    Images are all shown from black at −1 to white at 1. The spread is √E[Var] over channels, with its own scale.

    Args:
        noisy, mean, std: [N, H, W, C] in [-1, 1] units, or vectors [N, D], which are shown as points; the first eight
            images are.
        samples: [S, N, ...] draws of the posterior, S >= 1.
        clean: [N, ...], where it is known.
    """
    if noisy.ndim != 4:
        return _posterior_points(noisy, mean, samples, std, clean)
    noisy, mean, std = (x[:POSTERIOR_ROWS] for x in (noisy, mean, std))
    columns = {"noisy": noisy, "mean": mean}
    columns |= {f"sample {i + 1}": draw[:POSTERIOR_ROWS] for i, draw in enumerate(samples[:POSTERIOR_SAMPLES])}
    truth = {} if clean is None else {"clean": clean[:POSTERIOR_ROWS]}
    count, tall = len(columns) + len(truth) + 1, noisy.shape[1] / noisy.shape[2]
    size = {"width": CELL * count + 1.0, "height": CELL * tall * len(noisy) + 0.35}
    figure, axes = new_figure(1, count, **size, layout="compressed")
    for axis, (title, x) in zip(axes, [*columns.items(), ("", None), *truth.items()], strict=True):
        if x is not None:
            _show(axis, np.asarray(image_grid(x, columns=1)), title)
    _show_spread(figure, axes[len(columns)], np.sqrt(np.mean(np.square(std), axis=-1)))
    return figure


def _show_spread(figure, axis, std):
    """[N, H, W] standard deviations from dark, none, to bright, with a bar of their scale at the right end."""
    canvas = tiled_canvas(np.asarray(std, np.float32), columns=1, gap=np.nan)
    shown = axis.imshow(np.ma.masked_invalid(canvas), cmap="viridis", vmin=0, vmax=_top(std), interpolation="nearest")
    _bare(axis, "std")
    bar = figure.colorbar(shown, ax=figure.axes, fraction=0.03, pad=0.02, aspect=40)
    bar.set_label("standard deviation, images in [−1, 1]", fontsize=9)
    bar.ax.tick_params(labelsize=9)


def _posterior_points(noisy, mean, samples, std, clean):
    """The same of vectors: panels of points, the spread as the colour of the means."""
    draws = np.concatenate(list(samples[:POSTERIOR_SAMPLES]))
    groups = {"noisy": noisy, "mean": mean, "samples": draws} | ({} if clean is None else {"clean": clean})
    figure, axes = new_figure(1, len(groups), width=3 * len(groups) + 1, height=3.2)
    most = plane_limit(groups.values())
    for axis, (title, points) in zip(axes, groups.items(), strict=True):
        if title != "mean":
            _scatter(axis, points, title, most, color=BLUE)
    spread = np.sqrt(np.mean(np.square(std), axis=-1))
    shown = _scatter(axes[1], mean, "mean", most, c=spread, cmap="viridis", vmin=0, vmax=_top(spread))
    shown.set_alpha(1)
    bar = figure.colorbar(shown, ax=axes, fraction=0.03, pad=0.02)
    bar.set_label("standard deviation", fontsize=9)
    bar.ax.tick_params(labelsize=9)
    return figure


def plane_limit(groups) -> float:
    """How far the axes of points reach both ways: all but the outermost 0.2 % of every group, and 1 at least."""
    reach = [np.quantile(np.abs(np.nan_to_num(points[:, :2])), 0.998) for points in groups if len(points)]
    return 1.1 * float(max([1.0, *reach]))


def _scatter(axis, points, title, most, **look):
    shown = axis.scatter(points[:, 0], points[:, min(1, points.shape[1] - 1)], s=5, alpha=0.5, linewidths=0, **look)
    axis.set_title(title, fontsize=10)
    axis.set(aspect="equal", xlim=(-most, most), ylim=(-most, most))
    tidy(axis)
    return shown


def _show(axis, pixels, title=""):
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    _bare(axis, title)


def _bare(axis, title):
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _top(std):
    """The end of a scale from 0 that a few outliers do not stretch."""
    return max(float(np.quantile(np.nan_to_num(std), 0.995)), 1e-6)
