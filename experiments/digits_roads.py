"""Three roads to one network on the digits: clean training, ADSM alone, ADSM with consistency.

    python -m experiments.digits_roads --workdir=runs/digits_roads

Trains configs/digits_noisy.py on each road (about 10 minutes a seed on 2 CPU cores; the same command goes on where it
stopped) and prints the tables of the README; writes docs/digits_curve.png and docs/digits_roads.json. The settings were
chosen by the digits that seed 0 holds out; the other seeds hold out others, under other noise.
"""

import json
import os
import platform
import subprocess
from datetime import date
from pathlib import Path

import numpy as np
from absl import flags

from configs.digits_noisy import get_config
from tweedie_diffusion import program
from tweedie_diffusion.evaluation.pictures import save_curves
from tweedie_diffusion.training.loop import Stopped, train

_WORKDIR = flags.DEFINE_string("workdir", "runs/digits_roads", "Where the runs live.")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1"], "Each of the weights, the data's noise, the split and the training.")
_DOCS = flags.DEFINE_string("docs", "docs", "Where the picture and the numbers go.")
_STEPS = flags.DEFINE_integer("steps", 0, "Training steps of each; 0 takes those of the config.")

COMPARED = (0.1, 0.2, 0.35)


def configs(seed: int) -> dict:
    """The three roads; all else is equal, the held-out images included."""
    roads = {name: get_config() for name in ("clean images", "ADSM alone", "ADSM + consistency")}
    roads["clean images"].data.sigma_tn = 0.0
    roads["clean images"].consistency.weight = 0.0
    roads["ADSM alone"].consistency.weight = 0.0
    for config in roads.values():
        config.seed = config.data.noise_seed = config.data.split_seed = seed
        config.training.steps = _STEPS.value or config.training.steps
    return roads


def train_all(seed: int) -> dict:
    """The denoising curve of each road."""
    curves = {}
    for name, config in configs(seed).items():
        workdir = Path(_WORKDIR.value) / f"seed_{seed}" / name.replace(" ", "_")
        train(config, workdir)
        curves[name] = json.loads((workdir / "denoising_curve.json").read_text())
    return curves


def table(curves: dict) -> str:
    """MSE/σ² by road, and how much of the gap between ADSM alone and clean training consistency closes."""
    sigmas = curves["ADSM alone"]["sigma"]
    shown = [i for i, sigma in enumerate(sigmas) if sigma <= 0.8]
    lines = [
        "| trained on, by | " + " | ".join(f"{sigmas[i]:g}" for i in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for name, curve in curves.items():
        lines.append(f"| {name} | " + " | ".join(f"{curve['relative_mse'][i]:.3f}" for i in shown) + " |")
    clean, alone, ours = (np.asarray(curves[n]["relative_mse"]) for n in curves)
    closed = (alone - ours) / (alone - clean)
    below = [i for i in shown if sigmas[i] in COMPARED]
    lines.append("| gap closed | " + " | ".join(f"{closed[i]:.0%}" if i in below else "" for i in shown) + " |")
    lines.append(f"\nmean gap closed at {COMPARED}: {np.mean(closed[below]):.0%}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int | None:
    """Train, compare, draw."""
    try:
        return _compare()
    except Stopped as stop:
        print(f"{stop}. The same command goes on from there.")
        return program.INTERRUPTED


def _compare() -> None:
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=True).stdout
    about = f"commit {commit.strip()}, {os.cpu_count()} cores of {platform.machine()}, {date.today()}"
    results = {}
    for seed in _SEEDS.value:
        results[seed] = train_all(int(seed))
        print(f"\nseed {seed}, {about}\n\n{table(results[seed])}", flush=True)
    docs = Path(_DOCS.value)
    (docs / "digits_roads.json").write_text(json.dumps({"about": about, "seeds": results}, indent=1) + "\n")
    first = results[_SEEDS.value[0]]
    arrays = {name: {k: np.asarray(v) for k, v in curve.items()} for name, curve in first.items()}
    save_curves(docs / "digits_curve.png", arrays, sigma_tn=[0.5])


if __name__ == "__main__":
    program.run(main)
