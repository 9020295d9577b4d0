"""What was found of memorisation as a table, a picture, a page, and JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tweedie_diffusion.evaluation.figures import save_figure
from tweedie_diffusion.evaluation.memorisation_pictures import memorisation_figure
from tweedie_diffusion.evaluation.pages import figure, page, section, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table_of(found: dict[str, Any]) -> list[list[str]]:
    """The rows of the table, the first its head: a column for the floor, and one for each run.

    Args:
        found: of `measure`: about, floor, and runs.
    """
    runs = found["runs"]
    columns = {"held-out images": found["floor"], **{name: run["samples"] for name, run in runs.items()}}
    rows = [["", *columns], ["trained on", "", *(run["trained_on"] for run in runs.values())]]
    rows += [["images compared", *(str(column["table"]["n"]) for column in columns.values())]]
    rows += [
        ["similarity to the nearest training image, mean", *(f"{c['table']['mean']:.3f}" for c in columns.values())]
    ]
    for i, threshold in enumerate(found["floor"]["table"]["threshold"]):
        rows += [[f"more similar than {threshold:g}", *(_share(c["table"], i) for c in columns.values())]]
    rows += [["copies (nearest at less than ⅓ of the second)", *(f"{c['copies']:.1%}" for c in columns.values())]]
    first = next(iter(runs.values()))["attacks"]
    for i, result in enumerate(first):
        cells = [_attack(run["attacks"][i]) for run in runs.values()]
        rows += [[f"AUC: {result['attack']}, σ = {result['sigma']:g}", "0.5 by chance", *cells]]
    return rows


def in_markdown(rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| " + " | ".join(["---"] * len(rows[0])) + " |", *lines[1:]])


def in_words(found: dict[str, Any]) -> str:
    """What the numbers are of, in a paragraph."""
    about = found["about"]
    against = (
        "posterior means of the noisy training images, for no clean ones are known"
        if about["denoised"]
        else "clean training images"
    )
    if about["squares"]:
        against += ", of which only the central squares are compared"
    return (
        f"Similarity is the cosine of {about['features']}, to the nearest of {about['num_train']} {against}; that of "
        "held-out images is the floor. Attacked are "
        f"{about['attacked']} of them, and {about['attacked_held_out']} held-out images: AUC (± its standard error) "
        "says how well the likeness of what is found tells the two apart; behind it are the mean likenesses and their "
        "difference."
    )


def figure_of(found: dict[str, Any]) -> Figure:
    """The picture."""
    runs = found["runs"]
    return memorisation_figure(
        {name: run["samples"]["pairs"] for name, run in runs.items()},
        {name: run["samples"]["similarities"] for name, run in runs.items()},
        {name: run["attacks"] for name, run in runs.items()},
        floor=found["floor"]["similarities"],
    )


def write_found(path: Path, found: dict[str, Any]) -> None:
    """Write a page (.html), the picture (.png), or all numbers (.json, without images)."""
    if path.suffix.lower() == ".json":
        path.write_text(json.dumps(_plain(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        return
    picture = figure_of(found)
    if path.suffix.lower() == ".png":
        save_figure(path, picture)
        return
    head, *rows = table_of(found)
    numbers = table(head, rows, "Samples beside held-out images, and attacks on training images.")
    caption = (
        "Samples that come closest to training images, with those below them; how similar all are to the nearest; and "
        "how well each attack tells training images from held-out ones (bars of two standard errors)."
    )
    alt = "closest pairs of samples and training images, similarities, and attacks"
    sections = section("Numbers", numbers), section("Pictures", figure(picture, caption, alt))
    path.write_text(page("What was learned by heart", in_words(found), *sections), encoding="utf-8")


def _share(table, i):
    share, error, n = table["share"][i], table["standard_error"][i], table["n"]
    return f"{share:.1%} ± {error:.1%}" if 0 < share < 1 else f"{round(share * n)} of {n}"


def _attack(result):
    return (
        f"{result['auc']:.3f} ± {result['auc_error']:.3f} ({result['train']:.3f} − {result['held_out']:.3f} = "
        f"{result['difference']:.3f} ± {result['standard_error']:.3f})"
    )


def _plain(value):
    """For JSON: arrays as lists, images left out."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items() if key not in ("image", "train_image")}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value
