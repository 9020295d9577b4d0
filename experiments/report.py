"""Tables and curves of the studies, written between markers of experiments/README.md."""

import json
import re
from pathlib import Path

import numpy as np

from experiments.roads import ADSM, CLEAN, ROADS
from tweedie_diffusion.evaluation.pictures import save_bars, save_curves


def write_report(docs: Path, name: str, study, rows: list[dict], about: dict) -> str:
    """Write results/NAME.json, a picture a data noise, and the section of the study in docs/README.md.

    Rows that are in results/NAME.json already, from an earlier run or another machine, stay unless they are among
    `rows`.

    Returns:
        The tables as text, ending with the line that says how far the target is.
    """
    results = docs / "results"
    results.mkdir(parents=True, exist_ok=True)
    rows = _with_earlier(results / f"{name}.json", rows)
    (results / f"{name}.json").write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
    parts, reached = [], []
    for sigma_tn in sorted({row["sigma_tn"] for row in rows}):
        here = [row for row in rows if row["sigma_tn"] == sigma_tn]
        table, value = _excess_table(study, here) if study.oracle else _gap_table(here)
        picture = f"{name}_{sigma_tn:g}.png"
        if name == "robustness":
            _draw_gaps(results / picture, here)
        else:
            _draw(results / picture, here, sigma_tn)
        parts.append(f"σ_tn = {sigma_tn:g}\n\n{table}\n\n![results](results/{picture})")
        if sigma_tn in study.target_sigma_tn:
            reached.append(value)
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    lines = "\n".join(f"* {key}: {value}" for key, value in (about | {"commits of the rows": commits}).items())
    text = "\n\n".join([lines, *parts])
    readme = docs / "README.md"
    if readme.is_file():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        section = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
        readme.write_text(section.sub(lambda _: f"{begin}\n{text}\n{end}", readme.read_text()))
    found = [value for value in reached if value is not None]
    if study.oracle:
        last = f"worst excess: {max(found):.3f} (target {study.target:g})" if found else "worst excess: not measured"
    else:
        last = f"gap closed: {min(found):.3f} (target {study.target:g})" if found else "gap closed: not measured"
    return f"{text}\n\n{last}"


def _with_earlier(path, rows):
    """`rows`, and those of the file at `path` that are not among them."""
    earlier = json.loads(path.read_text())["rows"] if path.is_file() else []
    identity = lambda row: (row["sigma_tn"], row["seed"], row["road"])
    merged = {identity(row): row for row in [*earlier, *rows]}
    return [merged[key] for key in sorted(merged)]


def _by_road(rows):
    """The rows of each road, over seeds, in the order of ROADS."""
    grouped = {road: [row for row in rows if row["road"] == road] for road in ROADS}
    return {road: group for road, group in grouped.items() if group}


def _done(group):
    return [row for row in group if row["status"] == "done"]


def _cost(group, rows):
    """Seconds a step relative to ADSM alone of the same seed, the median over seeds."""
    base = {row["seed"]: row["seconds"] / row["steps"] for row in rows if row["road"] == ADSM and "seconds" in row}
    ratios = [row["seconds"] / row["steps"] / base[row["seed"]] for row in _done(group) if row["seed"] in base]
    return f"{np.median(ratios):.2f}" if ratios else ""


def _mean(values, digits=3):
    """Mean over seeds, with the largest distance from it where there are several."""
    values = np.asarray(values)
    spread = f" ± {np.abs(values - values.mean()).max():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _markdown(header, lines):
    return "\n".join(["| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines]])


def _failed(group):
    return "; ".join(f"seed {row['seed']}: {row['status']}" for row in group if row["status"] != "done")


def _name(road, group):
    return f"{road} ({failed})" if (failed := _failed(group)) else road


def _excess_table(study, rows):
    """Excess by road and level, worst last beside the target; and the worst of the default road, over seeds."""
    levels = study.levels(rows[0]["sigma_tn"])
    header = ["road", "seeds", *[f"σ = {s:g}" for s in levels], "worst", "target", "seconds a step, of ADSM's"]
    lines, value = [], None
    for road, group in _by_road(rows).items():
        done = _done(group)
        if not done:
            lines.append([road, str(len(group)), *[""] * len(levels), _failed(group), "", ""])
            continue
        excess = np.array([row["curve"]["excess"] for row in done])
        worst = excess.max(axis=1)
        if road == "default":
            value = worst.max()
        lines.append(
            [
                _name(road, group),
                str(len(group)),
                *[_mean(e) for e in excess.T],
                _mean(worst),
                f"{study.target:g}",
                _cost(group, rows),
            ]
        )
    return _markdown(header, lines), value


def _gap_table(rows):
    """MSE/σ² by road and level, the gap closed, the sample distance; and the least gap closed by the default road."""
    levels = next(row["curve"]["sigma"] for row in rows if row["status"] == "done")
    gap_of = _gaps(rows)
    distances = {(row["road"], row["seed"]): row["distance"] for row in rows if row["status"] == "done"}
    header = ["road", "seeds", *[f"σ = {s:.3g}" for s in levels], "gap closed", "distance", "of clean's"]
    lines, value = [], None
    for road, group in _by_road(rows).items():
        done = _done(group)
        if not done:
            lines.append([road, str(len(group)), *[""] * len(levels), _failed(group), "", "", ""])
            continue
        seeds = [row["seed"] for row in done if (road, row["seed"]) in gap_of]
        gaps = [gap_of[road, s] for s in seeds]
        if road == "default" and gaps:
            value = min(gaps)
        ratios = [distances[road, s] / distances[CLEAN, s] for s in seeds]
        curves = np.array([row["curve"]["relative_mse"] for row in done])
        lines.append(
            [
                _name(road, group),
                str(len(group)),
                *[_mean(c) for c in curves.T],
                _mean(gaps, 2) if gaps else "",
                _mean([row["distance"] for row in done], 2),
                _mean(ratios, 2) if ratios else "",
                _cost(group, rows),
                "yes" if any(row.get("warned") for row in done) else "",
            ]
        )
    floor = np.mean([row["floor"] for row in rows if row["status"] == "done"])
    header += ["seconds a step, of ADSM's", "warned of σ_tn"]
    return _markdown(header, lines) + f"\n\nDistance of held-out clean images, the floor: {floor:.2f}", value


def _gaps(rows):
    """(road, seed) -> the gap closed, where clean training and ADSM alone of the seed are there to tell."""
    ends = {(row["road"], row["seed"]): np.sum(row["curve"]["relative_mse"]) for row in rows if row["status"] == "done"}
    return {
        (road, s): 1 - (end - ends[CLEAN, s]) / (ends[ADSM, s] - ends[CLEAN, s])
        for (road, s), end in ends.items()
        if (CLEAN, s) in ends and (ADSM, s) in ends
    }


def _draw_gaps(path, rows):
    gap_of = _gaps(rows)
    gaps = {road: np.mean([gap for (r, _), gap in gap_of.items() if r == road]) for road in _by_road(rows)}
    save_bars(path, {road: gap for road, gap in gaps.items() if np.isfinite(gap)}, label="gap closed")


def _draw(path, rows, sigma_tn):
    shown = [CLEAN, ADSM, "paper's code", "default"]
    curves = {}
    for road in shown:
        row = next((r for r in rows if r["road"] == road and r["status"] == "done"), None)
        if row:
            curves[road] = {name: np.asarray(values) for name, values in row["curve"].items()}
    if curves:
        save_curves(path, curves, sigma_tn=[sigma_tn])
