"""The findings of an inspection as one HTML page, pictures included."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tweedie_diffusion.data.flat_patches import WINDOW, sample_windows
from tweedie_diffusion.data.noise_checks import autocorrelation
from tweedie_diffusion.data.verdicts import AFTER_TRANSFORM, HOLDS, NO_NOISE, TOO_FEW, VERDICTS
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.evaluation.figures import BLUE, VERMILLION, legend, new_figure, tidy
from tweedie_diffusion.evaluation.inspection import Inspection, in_words
from tweedie_diffusion.evaluation.pages import figure, notice, page, preformatted, section, side_by_side
from tweedie_diffusion.evaluation.pictures import image_grid

SHOWN = 32
_KINDS = {HOLDS: "good", AFTER_TRANSFORM: "good", NO_NOISE: "doubtful", TOO_FEW: "doubtful"}


def save_page(path: Path, found: Inspection) -> None:
    """Write the page, one file that needs no other."""
    text = page(
        f"Noise of {found.source}",
        notice(VERDICTS[found.verdict], _KINDS.get(found.verdict, "bad")),
        section("Findings", preformatted(in_words(found))),
        section("Images", figure(_grid(found), "", "some of the images", pixels=True)),
        section("Noise", side_by_side(*_plots(found))),
    )
    with whole(path) as (unfinished,):
        unfinished.write_text(text, encoding="utf-8")


def _plots(found):
    """What can be drawn of the noise."""
    made = [
        (
            _noise_against_signal(found),
            "Variance of the noise where the signal is of one strength. Detail of the images only adds to it: what "
            "counts is the lower edge of the points.",
            "variance of the noise over the signal",
        ),
        (
            _autocorrelation(found),
            "Correlation of pixels in the flattest patches with the middle one: of white noise, one bright square.",
            "correlation of pixels with their neighbours",
        ),
        (
            _values(found),
            "Values as they are stored. Peaks at the very ends are what clipping leaves.",
            "histogram of the stored values",
        ),
        (
            _image_sigmas(found),
            "Noise of single images, by their finest wavelets: fine detail reads as noise, so the left edge counts.",
            "histogram of the noise of single images",
        ),
    ]
    return [figure(drawn, caption, alt) for drawn, caption, alt in made if drawn]


def _grid(found):
    x = found.scaling.to_unit(found.squares[:: max(1, len(found.squares) // SHOWN)][:SHOWN])
    return image_grid(x, columns=8)


def _noise_against_signal(found):
    curve = found.law.curve
    if not len(curve.signal):
        return None
    drawn, axis = _new()
    axis.plot(curve.signal, curve.variance, ".", color=BLUE, alpha=0.6, label="measured")
    signal = np.linspace(curve.signal.min(), curve.signal.max(), 100)
    if found.law.photons:
        axis.plot(
            signal, found.law.photons.variance(signal), color=VERMILLION, label=f"gain {found.law.photons.gain:.3g}"
        )
        top = found.law.photons.variance(signal[-1])
    else:
        top = found.law.noise.sigma**2 if found.law.noise else 0.0
        axis.axhline(top, color=VERMILLION, label="σ²")
    axis.set(xlabel="signal, stored values", ylabel="variance", ylim=(0, max(4 * top, curve.variance.min() * 4, 1e-12)))
    legend(axis)
    return drawn


def _autocorrelation(found):
    if min(found.squares.shape[1:3]) < WINDOW:
        return None
    values = found.squares if found.law.photons is None else found.law.photons.stabilise(found.squares)
    correlation = autocorrelation(sample_windows(values.astype(np.float32), most=100_000))
    drawn, axis = _new(square=True)
    first, last = -len(correlation) / 2, len(correlation) / 2
    shown = axis.imshow(correlation, vmin=-1, vmax=1, cmap="RdBu_r", extent=(first, last, last, first))
    axis.set(xlabel="pixels to the right", ylabel="pixels down")
    drawn.colorbar(shown, ax=axis)
    return drawn


def _values(found):
    drawn, axis = _new()
    few = found.squares.dtype.kind in "ui" and found.high - found.low < 1024
    bins = np.arange(found.low - 0.5, found.high + 1.5) if few else 200
    axis.hist(found.squares.ravel()[:: max(1, found.squares.size // 10**6)], bins=bins, color=BLUE, log=True)
    axis.set(xlabel="stored value", ylabel="pixels")
    return drawn


def _image_sigmas(found):
    drawn, axis = _new()
    axis.hist(found.law.image_sigmas, bins=40, color=BLUE)
    if found.law.noise:
        axis.axvline(found.law.noise.sigma, color=VERMILLION, label=f"σ = {found.law.noise.sigma:.4g}")
        legend(axis)
    axis.set(xlabel="σ" + (" after the transform" if found.law.photons else ", stored values"), ylabel="images")
    return drawn


def _new(*, square=False):
    drawn, (axis,) = new_figure(1, 1, width=4.2 if square else 6, height=3.6)
    if not square:
        tidy(axis)
    return drawn, axis
