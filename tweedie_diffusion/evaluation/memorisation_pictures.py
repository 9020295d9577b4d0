"""One picture of what runs have learned by heart: closest pairs, similarities, attacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tweedie_diffusion.evaluation.figures import looks_of, new_figure, tidy
from tweedie_diffusion.evaluation.pictures import MIN_TILE, to_display

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FLOOR = {"color": "#aaaaaa", "ls": "-", "lw": 3, "zorder": 1}  # broader than any run, and behind them
WIDTH, BELOW = 11.0, 3.4  # inches, the latter of the height of the plots
PAIR = 0.95  # inches of height of a row of pairs


def memorisation_figure(
    pairs: dict[str, dict[str, np.ndarray]],
    similarities: dict[str, np.ndarray],
    attacks: dict[str, Sequence[dict[str, Any]]],
    *,
    floor: np.ndarray,
) -> Figure:
    """The closest pairs of every run above, similarities and attacks of all below.

    Args:
        pairs: for each run image and train_image [P, H, W, C], and similarity [P], the closest first; vectors are
            not drawn.
        similarities: for each run [N], of its samples to the nearest training image.
        attacks: for each run the results of each attack and level: attack, sigma, auc, auc_error.
        floor: [M] similarities of held-out images.
    """
    shown = {name: found for name, found in pairs.items() if found["image"].ndim == 4}
    names = list(dict.fromkeys(result["attack"] for results in attacks.values() for result in results))
    high = 2 * PAIR * len(shown)
    figure, (whole,) = new_figure(1, 1, width=WIDTH, height=high + BELOW)
    whole.remove()
    above, below = figure.subfigures(2, 1, height_ratios=(max(high, 0.01), BELOW), squeeze=False).ravel()
    if shown:
        for axis, (name, found) in zip(above.subplots(len(shown), 1, squeeze=False)[:, 0], shown.items(), strict=True):
            _draw_pairs(axis, name, found)
    first, *others = below.subplots(1, 1 + len(names), squeeze=False)[0]
    _draw_similarities(first, similarities, floor)
    lows = [r["auc"] - 2 * r["auc_error"] for results in attacks.values() for r in results]
    for axis, attack in zip(others, names, strict=True):
        _draw_attack(axis, attack, attacks, lowest=min(0.4, *lows))
    handles = {
        label: h for axis in (first, *others) for h, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    below.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _draw_pairs(axis, name, found):
    """Samples, and under each the training image nearest to it."""
    tiles = [to_display(found[kind]) for kind in ("image", "train_image")]
    zoom = max(1, -(-MIN_TILE // tiles[0].shape[1]))
    rows = [np.concatenate(list(_framed(t.repeat(zoom, axis=1).repeat(zoom, axis=2), zoom)), axis=1) for t in tiles]
    strip = np.concatenate(rows, axis=0)
    axis.imshow(strip, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    height, width = rows[0].shape[0], rows[0].shape[1] / len(tiles[0])
    labels = [f"{similarity:.3f}" for similarity in found["similarity"]]
    axis.set_xticks([(i + 0.5) * width for i in range(len(labels))], labels, fontsize=9)
    axis.set_yticks([height / 2, 1.5 * height], ["sample", "nearest\nin training"], fontsize=9)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_title(f"{name}: its samples closest to training images, and their similarity", fontsize=10, loc="left")


def _framed(tiles, gap):
    """With a white gap all round."""
    gaps = [(0, 0), (gap, gap), (gap, gap), *[(0, 0)] * (tiles.ndim - 3)]
    return np.pad(tiles, gaps, constant_values=255)


def _draw_similarities(axis, similarities, floor):
    """The share of images that are more similar than each value."""
    looks = looks_of(similarities)
    for name, values in similarities.items():
        axis.step(*_exceeded(values), where="post", color=looks[name].color, ls=looks[name].linestyle, label=name)
    axis.step(*_exceeded(floor), where="post", label="held-out images; chance", **FLOOR)
    lowest = min(np.quantile(values, 0.02) for values in [floor, *similarities.values()])
    axis.set(xlim=(lowest, 1.005), ylim=(0, 1.02), xlabel="similarity to the nearest training image")
    axis.set_ylabel("share of images above it")
    _finish(axis, "samples")


def _exceeded(values):
    ordered = np.sort(values)
    return np.r_[-1.0, ordered], np.r_[1.0, 1 - np.arange(1, len(ordered) + 1) / len(ordered)]


def _draw_attack(axis, attack, attacks, *, lowest):
    """AUC over levels: ½ if training images cannot be told from others."""
    levels: set[float] = set()
    looks = looks_of(attacks)
    for name, results in attacks.items():
        results = [result for result in results if result["attack"] == attack]
        sigma, auc, error = (np.array([r[key] for r in results], float) for key in ("sigma", "auc", "auc_error"))
        levels |= set(sigma.tolist())
        axis.errorbar(sigma, auc, 2 * error, ms=4, capsize=2, label=name, **looks[name]._asdict())
    axis.axhline(0.5, **FLOOR)
    if levels and min(levels) > 0:
        axis.set_xscale("log")
    axis.set_xticks(sorted(levels), [f"{level:g}" for level in sorted(levels)])
    axis.set_xticks([], minor=True)
    axis.set(ylim=(lowest, 1.02), xlabel="noise level σ of what is given")
    axis.set_ylabel("AUC, training against held-out")
    _finish(axis, attack)


def _finish(axis, title):
    axis.set_title(title, fontsize=10, loc="left")
    axis.xaxis.label.set_size(9)
    axis.yaxis.label.set_size(9)
    tidy(axis)
