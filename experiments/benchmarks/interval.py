"""What guard, metrics and checkpoints together cost, from one save to the next, beside the steps alone.

    python -m experiments.benchmarks.interval --config=configs/digits_noisy.py

As many steps as the config takes between saves, by ambient score matching alone, the shortest there are: without a
guard, a bar, a number read or a line written; and with all of them, logged as often as the config says, while the state
they began from is saved. Scores, which training takes at each save, are left out. In TMPDIR, whose disk is part of it.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import config_flags

from experiments.benchmarks.built import Made, made, placed
from experiments.benchmarks.turns import in_turns, ratio, spread
from experiments.benchmarks.unguarded import unguarded_step
from experiments.report import provenance_lines
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.config import check_config
from tweedie_diffusion.training.datasets import open_data
from tweedie_diffusion.training.denoiser import sigma_data_of
from tweedie_diffusion.training.guard import Guard
from tweedie_diffusion.training.metrics import Metrics
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.step import make_optimizer

AIM = 1.03

_CONFIG = config_flags.DEFINE_config_file("config", "configs/digits_noisy.py", "Settings.")
_TURNS = flags.DEFINE_integer("turns", 5, "Of both; the median counts.", lower_bound=1)


def alone(built: Made, rows: Iterator[dict[str, np.ndarray]]):
    """() -> seconds of an interval of steps and nothing else."""
    config = built.config
    objective = make_objective(config, built.make_denoise, sigma_data_of(config.model, built.facts), mesh=built.mesh)
    decay, optimizer = config.training.ema_decay, make_optimizer(config.training)
    step = unguarded_step(objective, optimizer, ema_decay=decay, seed=0, mesh=built.mesh)
    state = built.state(config)

    def run() -> float:
        nonlocal state
        begun = time.perf_counter()
        for _ in range(config.training.save_every):
            state, _ = step(state, placed(next(rows), built.mesh))
        jax.block_until_ready(state.params)
        return time.perf_counter() - begun

    return run


def with_all(built: Made, rows: Iterator[dict[str, np.ndarray]], guard: Guard, metrics: Metrics, saves: Checkpoints):
    """() -> seconds of the same with guard, metrics and a save of the state it begins from."""
    config = built.config
    step, state, done = built.step(config, ()), built.state(config), 0

    def run() -> float:
        nonlocal state, done
        begun = time.perf_counter()
        guard.settle()
        saves.save(state)
        for _ in range(config.training.save_every):
            with metrics.waiting():
                batch = next(rows)
            state, scalars = step(state, placed(batch, built.mesh))
            guard.watch(done, batch, scalars)
            metrics.advance()
            done += 1
            if done % config.training.log_every == 0:
                metrics.log(done, {name: float(value) for name, value in scalars.items()})
        jax.block_until_ready(state.params)
        saves.wait()
        return time.perf_counter() - begun

    return run


def compare(built: Made, dataset: Dataset, scratch: Path) -> dict[str, list[float]]:
    """Seconds of an interval of each."""
    training = built.config.training
    of = lambda: batches(dataset.train, batch_size=training.batch_size, seed=0)
    total = training.save_every * (_TURNS.value + 1)
    with (
        Metrics(scratch, start=0, total=total, batch_size=training.batch_size) as metrics,
        Checkpoints(scratch, keep=training.keep_checkpoints) as saves,
    ):
        both = {"steps alone": alone(built, of())}
        both |= {"guard, metrics, a save": with_all(built, of(), Guard(scratch, metrics, None), metrics, saves)}
        return in_turns(both, turns=_TURNS.value)


def main(arguments: list[str]) -> None:
    """Print a line for each."""
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are --config, --turns")
    config = _CONFIG.value
    check_config(config)
    dataset = open_data(config.data)
    built = made(config, dataset)
    with tempfile.TemporaryDirectory() as scratch:
        found = compare(built, dataset, Path(scratch))
    count = sum(x.size for x in jax.tree.leaves(built.params))
    print(f"{provenance_lines()}\n* steps: {config.training.save_every}, logged every {config.training.log_every}")
    print(f"* parameters: {count:,}\n\n| an interval | median, s | from, to | ratio |\n|---|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {spread(seconds)} | {ratio(seconds, found['steps alone']):.3f} |")
    whole = ratio(found["guard, metrics, a save"], found["steps alone"])
    print(f"ratio: {whole:.3f} (aim {AIM})")


if __name__ == "__main__":
    program.run(main)
