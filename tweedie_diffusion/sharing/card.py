"""The model card of an exported model: what it is, what it learned from, what was measured, and how to use it."""

import dataclasses
import hashlib
import math
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.trained import TrainedModel

CURVE = "`relative_mse` is the mean squared error over σ², on images that training has not seen."
MOST_NUMBERS = 60  # of evaluation.json
_MARK = "<!-- As it was written, what is above has the SHA-256 {}; a card that was edited is not overwritten. -->\n"


@dataclasses.dataclass(frozen=True)
class About:
    """What a card says beside what the model knows.

    Attributes:
        name: what is given to td.load: that of the folder, or hub:USER/NAME.
        licence: an identifier of the Hub, as cc-by-4.0; empty for none stated.
        imported: what the weights were imported from; empty for a model trained here.
        measured: what denoising_curve.json and evaluation.json hold, by file name.
    """

    name: str
    licence: str = ""
    imported: str = ""
    measured: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def model_card(model: TrainedModel, about: About) -> str:
    """The card, as Markdown with the front matter that the Hub reads: the same text for the same model.

    Raises:
        InputError: if the licence is no identifier.
    """
    check_licence(about.licence)
    parts = [_front(model, about), f"# {_cell(about.name.split('/')[-1])}\n\n{_kind(model, about)}", _data(model)]
    parts += [*_measured(about), _usage(model, about), _licence(about)]
    text = "\n\n".join(parts) + "\n\n"
    return text + _MARK.format(hashlib.sha256(text.encode()).hexdigest())


def check_licence(licence: str) -> None:
    """Raise InputError if a licence is stated and no identifier."""
    if licence and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", licence):
        raise InputError(f"the licence {licence!r} is no identifier: write it as cc-by-4.0 or apache-2.0")


def was_edited(card: str) -> bool:
    """Whether a card is not as `model_card` wrote it."""
    text, mark = card[: card.rfind("<!--")], card[card.rfind("<!--") :]
    return mark != _MARK.format(hashlib.sha256(text.encode()).hexdigest())


def _front(model, about):
    images = len(model.facts.shape) == 3
    lines = ["---", "library_name: tweedie_diffusion", *([f"license: {about.licence}"] if about.licence else [])]
    lines += ["pipeline_tag: unconditional-image-generation"] if images else []
    return "\n".join([*lines, "tags:", "- diffusion", "- denoising", "- jax", "---"])


def _kind(model, about):
    if about.imported:
        return (
            f"The DDPM++ network of EDM (Karras et al. 2022, arXiv:2206.00364), imported from the tensors of "
            f"`{_cell(about.imported)}`. `denoise(x_t, sigma)` is its estimate of E[x_0 | x_t], images in [−1, 1]."
        )
    facts, noise = model.facts, _noise(model.facts)
    if noise is None:
        learned, below = "clean images", ""
    else:
        seen = "noisy images alone, seen only through" if facts.sigma_tn_min else "clean images and others with"
        learned = f"{seen} noise of σ = {noise}"
        below = " Above that noise training is exact; what lies below is inferred from it."
    roads = "".join(f" and {road}" for road in ("consistency", "refresh") if model.config[road].weight and noise)
    return (
        f"A diffusion model of clean images, learned from {learned} (images in [−1, 1]), by ambient score matching"
        f"{roads} (arXiv:2404.10177). `denoise(x_t, sigma)` is its estimate of E[x_0 | x_t].{below}"
    )


def _noise(facts) -> str | None:
    """Of the training images; None for clean ones."""
    low, high = f"{facts.sigma_tn_min:.4g}", f"{facts.sigma_tn_max:.4g}"
    return None if not facts.sigma_tn_max else low if low == high else f"{low} to {high}"


def _data(model):
    facts, scaling = model.facts, model.facts.scaling
    ends = lambda v: ", ".join(f"{n:g}" for n in np.atleast_1d(v))
    rows = [("data", model.config.data.source), ("shape", "×".join(map(str, facts.shape)))]
    if facts.num_train:
        rows += [("training, held-out examples", f"{facts.num_train}, {facts.num_held_out}")]
    rows += [("noise σ of the examples, in [−1, 1]", _noise(facts) or "none")]
    rows += [("stored values that are −1 and 1", f"{ends(scaling.low)} and {ends(scaling.high)} ({scaling.dtype})")]
    if scaling.photons:
        rows += [("photon noise, stabilised first", str(scaling.photons))]
    rows += [("standard deviation of clean data", f"{model.config.model.sigma_data or facts.sigma_data:.4g}")]
    rows += [("classes", str(facts.num_classes) if model.config.model.class_conditional else "none")]
    rows += [("fingerprint of the data", facts.fingerprint)] if facts.fingerprint else []
    return "## Data\n\n" + _table(("", ""), rows)


def _measured(about) -> Iterator[str]:
    if isinstance(curve := about.measured.get("denoising_curve.json"), dict) and curve:
        columns = [name for name, values in curve.items() if isinstance(values, list)]
        rows = zip(*(map(_number, curve[name]) for name in columns), strict=False)
        yield "## Denoising of held-out images\n\n" + CURVE + "\n\n" + _table(columns, rows)
    if isinstance(evaluated := about.measured.get("evaluation.json"), dict) and evaluated:
        rows = [(name, _number(value)) for name, value in _leaves(evaluated) if not name.startswith("about.")]
        yield "## Evaluation\n\n" + _table(("", ""), rows[:MOST_NUMBERS])


def _leaves(found, prefix="") -> Iterator[tuple[str, object]]:
    """(a.b.c, value) of nested dicts; lists are left out."""
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        elif isinstance(value, int | float | str) and value != "":
            yield prefix + name, value


def _number(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) and math.isfinite(value) else str(value)


def _usage(model, about):
    load, quoted = about.name, shlex.quote(about.name)
    lines = ["```python", "import tweedie_diffusion as td", "", f"denoise = td.load({load!r})"]
    labels = ", labels" if model.config.model.class_conditional else ""
    lines += [f"x0_hat = denoise(x_t, sigma{labels})  # x_t {['B', *model.facts.shape]} in [−1, 1]".replace("'", "")]
    lines += ["```", "", "```bash"]
    lines += [f"python -m tweedie_diffusion.sample --workdir={quoted} --num=64 --out=samples.png"]
    lines += [f"python -m tweedie_diffusion.denoise --workdir={quoted} noisy.npz denoised.npz", "```"]
    return "## Use\n\n" + "\n".join(lines)


def _licence(about):
    stated = f"`{about.licence}`." if about.licence else "None is stated: whoever shares this model states it."
    if about.imported:
        stated += " The licence of the weights that were imported holds for these too."
    return f"## Licence\n\n{stated}"


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(str(cell)) for cell in line) + " |" for line in lines)


def _cell(text):
    """On one line, with no sign that Markdown or HTML would read."""
    return re.sub(r"([\\|`*<>\[\]])", r"\\\1", " ".join(text.split()))
