"""What was found of memorisation as a table, a picture, a page, and JSON."""

import base64
import html
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from tweedie_diffusion.evaluation.memorisation_pictures import memorisation_figure

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Memorisation</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fafafa; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem; }}
h1 {{ font-size: 1.4rem; overflow-wrap: anywhere; }} img {{ max-width: 100%; background: #fff; }}
table {{ border-collapse: collapse; background: #fff; }} td, th {{ border: 1px solid #ddd; padding: .3rem .6rem;
  text-align: left; }} .wide {{ overflow-x: auto; }}
</style></head><body>
<h1>What was learned by heart</h1>
<p>{words}</p>
<div class="wide"><table>{rows}</table></div>
<p><img alt="Closest pairs of samples and training images, similarities, and attacks" src="{picture}"></p>
</body></html>
"""


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


def figure_of(found: dict[str, Any]) -> Any:
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
    picture = io.BytesIO()
    figure_of(found).savefig(picture, format="png", dpi=150)
    if path.suffix.lower() == ".png":
        path.write_bytes(picture.getvalue())
        return
    head, *rows = [[html.escape(cell) for cell in row] for row in table_of(found)]
    cells = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    embedded = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode()
    heads = "<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"
    path.write_text(
        _PAGE.format(words=html.escape(in_words(found)), rows=heads + cells, picture=embedded), encoding="utf-8"
    )


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
