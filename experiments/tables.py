"""The tables of the studies, from their rows."""

import numpy as np

from experiments.roads import ADSM, ADSM_NOISE_UNITS, CLEAN, ROADS


def by_road(rows: list[dict]) -> dict[str, list[dict]]:
    """The rows of each road, over seeds, in the order of ROADS."""
    grouped = {road: [row for row in rows if row["road"] == road] for road in ROADS}
    return {road: group for road, group in grouped.items() if group}


def gaps_closed(rows: list[dict], start: str = ADSM) -> dict[tuple[str, int], float]:
    """(road, seed) -> 1 − Σ(MSE − MSE_clean)/σ² ÷ Σ(MSE_start − MSE_clean)/σ², for the seeds that have all three."""
    ends = {(row["road"], row["seed"]): np.sum(row["curve"]["relative_mse"]) for row in rows if row["status"] == "done"}
    return {
        (road, s): float(1 - (end - ends[CLEAN, s]) / (ends[start, s] - ends[CLEAN, s]))
        for (road, s), end in ends.items()
        if (CLEAN, s) in ends and (start, s) in ends
    }


def excess_table(study, rows: list[dict]) -> tuple[str, float | None]:
    """Excess by road and level; and the worst of the default road over levels and seeds, infinite if one failed."""
    levels = study.levels(rows[0]["sigma_tn"])
    header = ["road", "seeds", *[f"σ = {s:g}" for s in levels], "worst", "target", "seconds a step, of ADSM's"]
    lines, value = [], None
    for road, group in by_road(rows).items():
        done = _done(group)
        if road == "default":
            value = max(max(row["curve"]["excess"]) for row in done) if len(done) == len(group) else np.inf
        cells = []
        if done:
            excess = np.array([row["curve"]["excess"] for row in done])
            cells = [*[_mean(e) for e in excess.T], _mean(excess.max(axis=1)), f"{study.target:g}", _cost(done, rows)]
        lines.append([_name(road, group), str(len(group)), *cells])
    return _markdown(header, lines), value


def gap_table(rows: list[dict]) -> tuple[str, float | None]:
    """MSE/σ² by road and level, the gap closed, the sample distance; and the least gap that the default road closes
    over seeds, −∞ if one failed.
    """
    levels = next(row["curve"]["sigma"] for row in rows if row["status"] == "done")
    header = ["road", "seeds", *[f"σ = {s:.3g}" for s in levels], "gap closed", "of ADSM's with noise units"]
    header += ["distance", "of clean's", "seconds a step, of ADSM's", "warned of σ_tn"]
    gaps, inner_gaps = gaps_closed(rows), gaps_closed(rows, ADSM_NOISE_UNITS)
    clean = {row["seed"]: row["distance"] for row in _done(rows) if row["road"] == CLEAN}
    lines, value = [], None
    for road, group in by_road(rows).items():
        done = _done(group)
        of_seeds = lambda found, road=road, done=done: [
            found[road, row["seed"]] for row in done if (road, row["seed"]) in found
        ]
        if road == "default":
            value = min(of_seeds(gaps), default=None) if len(done) == len(group) else -np.inf
        cells = []
        if done:
            cells = [_mean(c) for c in np.transpose([row["curve"]["relative_mse"] for row in done])]
            cells += [_mean(of_seeds(gaps), 2), _mean(of_seeds(inner_gaps), 2)]
            cells += [_mean([row["distance"] for row in done], 2)]
            cells += [_mean([row["distance"] / clean[row["seed"]] for row in done if row["seed"] in clean], 2)]
            cells += [_cost(done, rows), "yes" if any(row.get("warned") for row in done) else ""]
        lines.append([_name(road, group), str(len(group)), *cells])
    floor = np.mean([row["floor"] for row in _done(rows)])
    return _markdown(header, lines) + f"\n\nDistance of held-out clean images, the floor: {floor:.2f}", value


def _done(group):
    return [row for row in group if row["status"] == "done"]


def _cost(done, rows):
    """Seconds a step over those of ADSM alone with the same seed on the same hardware, the median over seeds."""
    per_step = lambda row: row["seconds"] / row["steps"]
    base = {(row["seed"], row.get("hardware")): per_step(row) for row in _done(rows) if row["road"] == ADSM}
    pairs = [(row, (row["seed"], row.get("hardware"))) for row in done]
    ratios = [per_step(row) / base[key] for row, key in pairs if key in base]
    return f"{np.median(ratios):.2f}" if ratios else ""


def _mean(values, digits=3):
    """Mean over seeds, with the largest distance from it where there are several; nothing where there is none."""
    values = np.asarray(values)
    if not len(values):
        return ""
    spread = f" ± {np.abs(values - values.mean()).max():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def _name(road, group):
    failed = "; ".join(f"seed {row['seed']}: {row['status']}" for row in group if row["status"] != "done")
    return f"{road} ({failed})" if failed else road


def _markdown(header, lines):
    full = [line + [""] * (len(header) - len(line)) for line in [header, ["---"] * len(header), *lines]]
    return "\n".join("| " + " | ".join(line) + " |" for line in full)
