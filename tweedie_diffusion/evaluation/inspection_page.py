"""The findings of an inspection as one HTML page, pictures included."""

import base64
import html
import io
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.flat_patches import WINDOW, sample_windows
from tweedie_diffusion.data.noise_checks import autocorrelation
from tweedie_diffusion.data.verdicts import AFTER_TRANSFORM, HOLDS, NO_NOISE, TOO_FEW, VERDICTS
from tweedie_diffusion.evaluation.inspection import Inspection, in_words
from tweedie_diffusion.evaluation.pictures import image_grid

SHOWN = 32
_BLUE, _RED, _GREEN, _AMBER = "#2f6690", "#d1495b", "#3b8b5d", "#e09f3e"
_COLOURS = {HOLDS: _GREEN, AFTER_TRANSFORM: _GREEN, NO_NOISE: _AMBER, TOO_FEW: _AMBER}
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fafafa; max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere; }} h2 {{ font-size: 1.1rem; margin: 2rem 0 .5rem; }}
.verdict {{ border-left: .5rem solid {colour}; background: #fff; padding: .8rem 1rem; font-size: 1.1rem; }}
pre {{ background: #fff; border: 1px solid #ddd; padding: .8rem; overflow-x: auto; font-size: .85rem; }}
figure {{ margin: 0; }} figcaption {{ color: #555; font-size: .9rem; }}
img {{ max-width: 100%; }} .images img {{ image-rendering: pixelated; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.5rem; }}
</style></head><body>
<h1>{title}</h1>
<p class="verdict">{verdict}</p>
<h2>Findings</h2><pre>{words}</pre>
<h2>Images</h2><figure class="images"><img alt="some of the images" src="{images}"></figure>
<h2>Noise</h2><div class="plots">{plots}</div>
</body></html>
"""


def save_page(path: Path, found: Inspection) -> None:
    """Write the page, one file that needs no other."""
    plots = {
        "Variance of the noise where the signal is of one strength. Detail of the images only adds to it: what counts "
        "is the lower edge of the points.": _noise_against_signal(found),
        "Correlation of pixels in the flattest patches with the middle one: of white noise, one bright square.": (
            _autocorrelation(found)
        ),
        "Values as they are stored. Peaks at the very ends are what clipping leaves.": _values(found),
        "Noise of single images, by their finest wavelets: fine detail reads as noise, so the left edge counts.": (
            _image_sigmas(found)
        ),
    }
    figures = "".join(
        f'<figure><img alt="" src="{src}"><figcaption>{html.escape(text)}</figcaption></figure>'
        for text, src in plots.items()
        if src
    )
    colour = _COLOURS.get(found.verdict, _RED)
    page = _PAGE.format(
        title=html.escape(f"Noise of {found.source}"),
        colour=colour,
        verdict=html.escape(VERDICTS[found.verdict]),
        words=html.escape(in_words(found)),
        images=_grid(found),
        plots=figures,
    )
    path.write_text(page, encoding="utf-8")


def _grid(found):
    x = found.scaling.to_unit(found.squares[:: max(1, len(found.squares) // SHOWN)][:SHOWN])
    file = io.BytesIO()
    image_grid(x, columns=8).save(file, "PNG")
    return _embedded(file)


def _noise_against_signal(found):
    curve = found.law.curve
    if not len(curve.signal):
        return ""
    figure, axis = _figure()
    axis.plot(curve.signal, curve.variance, ".", color=_BLUE, alpha=0.6, label="measured")
    signal = np.linspace(curve.signal.min(), curve.signal.max(), 100)
    if found.law.photons:
        axis.plot(signal, found.law.photons.variance(signal), color=_RED, label=f"gain {found.law.photons.gain:.3g}")
        top = found.law.photons.variance(signal[-1])
    else:
        top = found.law.noise.sigma**2 if found.law.noise else 0.0
        axis.axhline(top, color=_RED, label="σ²")
    axis.set(xlabel="signal, stored values", ylabel="variance", ylim=(0, max(4 * top, curve.variance.min() * 4, 1e-12)))
    axis.legend(frameon=False)
    return _png(figure)


def _autocorrelation(found):
    if min(found.squares.shape[1:3]) < WINDOW:
        return ""
    values = found.squares if found.law.photons is None else found.law.photons.stabilise(found.squares)
    correlation = autocorrelation(sample_windows(values.astype(np.float32), most=100_000))
    figure, axis = _figure(square=True)
    first, last = -len(correlation) / 2, len(correlation) / 2
    shown = axis.imshow(correlation, vmin=-1, vmax=1, cmap="RdBu_r", extent=(first, last, last, first))
    axis.set(xlabel="pixels to the right", ylabel="pixels down")
    figure.colorbar(shown, ax=axis)
    return _png(figure)


def _values(found):
    figure, axis = _figure()
    whole = found.squares.dtype.kind in "ui" and found.high - found.low < 1024
    bins = np.arange(found.low - 0.5, found.high + 1.5) if whole else 200
    axis.hist(found.squares.ravel()[:: max(1, found.squares.size // 10**6)], bins=bins, color=_BLUE, log=True)
    axis.set(xlabel="stored value", ylabel="pixels")
    return _png(figure)


def _image_sigmas(found):
    figure, axis = _figure()
    axis.hist(found.law.image_sigmas, bins=40, color=_BLUE)
    if found.law.noise:
        axis.axvline(found.law.noise.sigma, color=_RED, label=f"σ = {found.law.noise.sigma:.4g}")
        axis.legend(frameon=False)
    axis.set(xlabel="σ" + (" after the transform" if found.law.photons else ", stored values"), ylabel="images")
    return _png(figure)


def _figure(*, square=False):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 if square else 6, 3.6), layout="constrained")
    return figure, figure.subplots()


def _png(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return _embedded(file)


def _embedded(file):
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
