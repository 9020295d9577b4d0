"""How long training waits for its batches.

    python -m experiments.benchmarks.data

Trains on the digits, and on a folder of PNGs that is read anew in every epoch, as one is that does not fit in memory;
both by their configs, which on a CPU are smaller, and by ambient score matching alone, whose steps are the shortest.
"""

import contextlib
import statistics
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from absl import flags
from PIL import Image

from configs import digits_noisy, folder_noisy
from experiments.benchmarks.logged import intervals, stop_after
from experiments.report import provenance_lines
from tweedie_diffusion import program
from tweedie_diffusion.data import noisy
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.stopping import Stopped

SIDE, SIGMA_TN = 96, 0.2
AIM = 0.05
HEAD = "| data | batch | steps/s | images/s | of the time waiting | from, to |"

_FILES = flags.DEFINE_integer("files", 2000, "PNGs in the folder.", lower_bound=100)
_STEPS = flags.DEFINE_integer("steps", 120, "Of each training.", lower_bound=20)
_LOG_EVERY = flags.DEFINE_integer("log_every", 20, "Steps of which the time is one number.", lower_bound=1)


def write_pngs(folder: Path, count: int) -> None:
    """Waves through noise of SIGMA_TN, as PNGs of SIDE × SIDE colour pixels."""
    rng, line = np.random.default_rng(0), np.linspace(0, 1, SIDE)
    for i in range(count):
        x, y = rng.uniform(1, 6, 2)
        wave = 0.6 * np.sin(x * line[:, None, None] + y * line[None, :, None] + np.arange(3))
        values = wave + SIGMA_TN * rng.standard_normal(wave.shape)
        Image.fromarray(np.clip(np.rint((values + 1) * 127.5), 0, 255).astype(np.uint8)).save(folder / f"{i:05}.png")


def of_folder(folder: Path, variant: str) -> Config:
    """configs/folder_noisy.py for what `write_pngs` writes, with nothing left to estimate."""
    config = folder_noisy.get_config(variant)
    config.data.source, config.data.sigma_from, config.data.sigma_tn = str(folder), "", SIGMA_TN
    config.data.range, config.data.range_percentiles = (0, 255), ()
    return config


def waits(name: str, config: Config) -> tuple[str, float]:
    """Train for --steps; a line of the table, and the part of the time that the training waited."""
    config.consistency.weight = 0.0
    config.training.steps = config.training.save_every = 2 * _STEPS.value  # it is stopped before
    config.training.warmup_steps, config.training.log_every = 0, _LOG_EVERY.value
    with tempfile.TemporaryDirectory() as workdir, contextlib.redirect_stdout(sys.stderr):  # stdout is for the table
        metrics = Path(workdir) / "metrics.jsonl"
        stop_after(metrics, _STEPS.value // _LOG_EVERY.value)
        with contextlib.suppress(Stopped):
            train(config, Path(workdir))
        found = intervals(metrics)
    steps, images, waiting = (sorted(values) for values in zip(*found, strict=True))
    waited = statistics.median(waiting)
    cells = [f"{config.training.batch_size}", f"{statistics.median(steps):.2f}", f"{statistics.median(images):.0f}"]
    cells += [f"{waited:.2%}", f"{waiting[0]:.2%} to {waiting[-1]:.2%}"]
    return f"| {name} | {' | '.join(cells)} |", waited


def main(arguments: list[str]) -> None:
    """Print a line a source, and the longest wait."""
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are --files, --steps, --log_every")
    if _STEPS.value < 3 * _LOG_EVERY.value:
        raise InputError(f"--steps={_STEPS.value} is too few: take at least three times --log_every")
    variant = "quick" if jax.default_backend() == "cpu" else ""
    found = [waits("digits", digits_noisy.get_config())]
    noisy.CACHE_BYTES = 0
    with tempfile.TemporaryDirectory() as folder:
        write_pngs(Path(folder), _FILES.value)
        name = f"{_FILES.value} PNGs of {SIDE}×{SIDE}, folder_noisy.py{variant and ':' + variant}"
        found.append(waits(name, of_folder(Path(folder), variant)))
    print(f"\n{provenance_lines()}\n\n{HEAD}\n|{'---|' * HEAD.count(' | ')}---|")
    print("\n".join(line for line, _ in found))
    print(f"longest wait: {max(waited for _, waited in found):.2%} (aim: less than {AIM:.0%})")


if __name__ == "__main__":
    program.run(main)
