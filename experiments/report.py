"""What a study writes: its rows, its pictures, and its section of experiments/README.md."""

import json
import os
import platform
import re
import subprocess
from datetime import date
from pathlib import Path

import jax
import numpy as np

from experiments.roads import ADSM, CLEAN
from experiments.tables import by_road, excess_table, gap_table, gaps_closed
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation.figures import save_figure
from tweedie_diffusion.evaluation.plots import bars_figure, curves_figure


def write_report(docs: Path, name: str, study, rows: list[dict], about: dict) -> str:
    """Write results/NAME.json, a picture a data noise, and the section of the study in docs/README.md.

    Args:
        docs: the folder of README.md.
        name: of the study.
        study: the study.
        rows: of `train_row`.
        about: what made them, printed above the tables.

    Returns:
        The tables as text, ending with the line that says how far the target is.

    Raises:
        InputError: if README.md has no place for the study.
    """
    results = docs / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    made = {
        "commits of the rows": ", ".join(sorted({row["commit"] for row in rows})),
        "minutes of training": round(sum(row.get("seconds", 0) for row in rows) / 60, 1),
    }
    parts = ["\n".join(f"* {key}: {value}" for key, value in (about | made).items())]
    reached = dict.fromkeys(study.target_sigma_tn)
    for sigma_tn in sorted({row["sigma_tn"] for row in rows}):
        here = [row for row in rows if row["sigma_tn"] == sigma_tn]
        table, value = excess_table(study, here) if study.oracle else gap_table(here)
        picture = f"{name}_{sigma_tn:g}.png"
        _draw(results / picture, study, here, sigma_tn)
        parts.append(f"σ_tn = {sigma_tn:g}\n\n{table}\n\n![results](results/{picture})")
        if sigma_tn in reached:
            reached[sigma_tn] = value
    text = "\n\n".join(parts)
    if (docs / "README.md").is_file():
        replace_section(docs / "README.md", name, text)
    return f"{text}\n\n{_last_line(study, reached)}"


def provenance() -> dict[str, str]:
    """What made a number: commit, hardware, date."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    hardware = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    if jax.default_backend() != "cpu":
        hardware = f"{jax.device_count()} × {jax.devices()[0].device_kind}"
    return {"commit": commit, "hardware": hardware, "date": str(date.today())}


def provenance_lines() -> str:
    """The same as a list, to stand above a table."""
    return "\n".join(f"* {what}: {value}" for what, value in provenance().items())


def replace_section(readme, name, text):
    """Put `text` between the markers of the study."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    new, count = section.subn(lambda _: f"{begin}\n{text}\n{end}", readme.read_text())
    if count != 1:
        raise InputError(f"{readme} has no place for the study: add the lines {begin} and {end}")
    readme.write_text(new)


def _last_line(study, reached):
    """The worst value over the data noises of the target, and those for which there is none."""
    name, worst = ("worst excess", max) if study.oracle else ("gap closed", min)
    found = [value for value in reached.values() if value is not None]
    missing = ", ".join(f"{sigma_tn:g}" for sigma_tn, value in reached.items() if value is None)
    value = f"{worst(found):.3f}" if found else "not measured"
    return f"{name}: {value} (target {study.target:g}{f'; not measured at σ_tn = {missing}' if missing else ''})"


def _draw(path, study, rows, sigma_tn):
    """The curves of a few roads, or the gap that each road closes."""
    done = [row for row in rows if row["status"] == "done"]
    if study.bars:
        found = gaps_closed(done)
        gaps = {
            road: [found[road, r["seed"]] for r in group if (road, r["seed"]) in found]
            for road, group in by_road(done).items()
        }
        means = {road: float(np.mean(values)) for road, values in gaps.items() if values}
        save_figure(path, bars_figure(means, label="gap closed"))
        return
    first = {road: group[0]["curve"] for road, group in by_road(done).items()}
    order = (CLEAN, ADSM, "paper's code", "default")
    shown = [road for road in order if road in first]
    curves = {road: {name: np.asarray(values) for name, values in first[road].items()} for road in shown}
    save_figure(path, curves_figure(curves, sigma_tn=[sigma_tn], order=order))
