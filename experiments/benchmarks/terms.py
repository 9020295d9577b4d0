"""What the terms below the data's noise cost beside ambient score matching alone, on an otherwise idle machine.

    python -m experiments.benchmarks.terms --config=configs/digits_noisy.py

A step with each term, on the config's own data and with its network and mixture, in turns. Then, unless --steps_only,
every program that the config's training consists of, added up over its budget, beside the same for ambient score
matching alone with the network of EDM.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import flags
from ml_collections import config_flags

from experiments.benchmarks.built import Made, made, placed
from experiments.benchmarks.turns import in_turns, ratio, spread
from experiments.report import provenance_lines
from experiments.roads import ADSM, ROADS
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.training.config import check_config
from tweedie_diffusion.training.datasets import open_data
from tweedie_diffusion.training.objective import renews_at, terms_at
from tweedie_diffusion.training.step import make_refresh_step

AIM = 1.3

_CONFIG = config_flags.DEFINE_config_file("config", "configs/digits_noisy.py", "Settings.")
_REPEATS = flags.DEFINE_integer("repeats", 30, "Runs timed of each program; the median counts.", lower_bound=1)
_TURNS = flags.DEFINE_integer("turns", 7, "Of the steps with each term; the median counts.", lower_bound=1)
_STEPS_ONLY = flags.DEFINE_bool("steps_only", False, "Leave out the cost of the whole training.")


def batches_of(made: Made, dataset: Dataset) -> Iterator[dict[str, jax.Array]]:
    """Of the data, on all devices."""
    for rows in batches(dataset.train, batch_size=made.config.training.batch_size, seed=0):
        yield placed(rows, made.mesh)


def kinds_of_steps(made: Made, data: Iterator[dict[str, jax.Array]]) -> dict[str, Callable[[], float]]:
    """{terms: () -> seconds a step}, of as many steps as lie between two renewals of draws; one is among them."""
    config = made.config.copy_and_resolve_references()
    config.consistency.weight = config.consistency.weight or 4.0
    alone = config.copy_and_resolve_references()
    config.refresh.weight, every = 1.0, config.refresh.every
    renew = make_refresh_step(config, made.make_denoise, made.mesh)

    def kind(config, terms):
        step, state = made.step(config, terms), made.state(config)

        def run():
            nonlocal state
            rows = [next(data) for _ in range(every)]
            start = time.perf_counter()
            if "refresh" in terms:
                state = renew(state, rows[0])
            for batch in rows:
                state, _ = step(state, batch)
            jax.block_until_ready(state)
            return (time.perf_counter() - start) / every

        return run

    return {
        "ADSM alone": kind(alone, ()),
        "ADSM + consistency": kind(alone, ("consistency",)),
        "ADSM + refresh": kind(config, ("refresh",)),
        "ADSM + consistency + refresh": kind(config, ("consistency", "refresh")),
    }


def report_steps(made: Made, dataset: Dataset) -> None:
    """Print what a step costs with each term, the network the same."""
    refresh, consistency = made.config.refresh, made.config.consistency
    found = in_turns(kinds_of_steps(made, batches_of(made, dataset)), turns=_TURNS.value)
    print(f"{provenance_lines()}\n* batch: {made.config.training.batch_size}")
    print(f"* consistency: {consistency.batch_fraction:g} of the batch")
    print(f"* refresh: {refresh.batch_fraction:g} of the batch, {refresh.rows} draws every {refresh.every} steps,")
    print(f"  each of {refresh.num_steps} steps of the reverse process\n")
    print("| a step | median, s | from, to | ratio |\n|---|---|---|---|")
    for name, seconds in found.items():
        print(f"| {name} | {spread(seconds)} | {ratio(seconds, found['ADSM alone']):.2f} |", flush=True)
    print(f"ratio: {ratio(found['ADSM + consistency'], found['ADSM alone']):.2f} (of consistency; aim {AIM})")


def cost(made: Made, dataset: Dataset) -> tuple[float, float]:
    """Seconds of a training: its steps, and what comes before them (compilation, fit of the mixture). Prints both."""
    total, once = 0.0, made.seconds
    print(f"fit of the mixture: {once:.1f} s\n\n| program | runs | to compile, s | each, s | together, s |")
    print("|---|---|---|---|---|")
    data = batches_of(made, dataset)
    for name, (runs, step) in _programs(made).items():
        state, seconds = made.state(made.config), []
        for _ in range(_REPEATS.value + 1):
            batch = next(data)
            start = time.perf_counter()
            state = jax.block_until_ready(step(state, batch))
            seconds.append(time.perf_counter() - start)
        compiled, each = seconds[0], sorted(seconds[1:])[_REPEATS.value // 2]
        print(f"| {name} | {runs} | {compiled:.1f} | {each:.4f} | {runs * each:.1f} |", flush=True)
        total, once = total + runs * each, once + compiled
    return total, once


def _programs(made: Made) -> dict[str, tuple[int, Callable[..., Any]]]:
    """{name: (how often it runs, (state, batch) -> state)} of all that a training consists of."""
    config, programs = made.config, {}
    refresh, training = config.refresh, config.training
    for terms, runs in Counter(tuple(terms_at(config, step)) for step in range(training.steps)).items():
        step = made.step(config, terms)
        programs[" + ".join(["step: ambient", *terms])] = (runs, lambda state, batch, step=step: step(state, batch)[0])
    refreshes = lambda step: "refresh" in terms_at(config, step) and renews_at(refresh, step)
    refreshed = sum(map(refreshes, range(training.steps)))
    if refreshed:
        fills = -(-refresh.capacity // training.batch_size)
        filling = make_refresh_step(config, made.make_denoise, made.mesh, filling=True)
        programs["filling the buffer"] = (fills, filling)
        programs["refresh"] = (refreshed, make_refresh_step(config, made.make_denoise, made.mesh))
    return programs


def main(arguments: list[str]) -> None:
    """Print the cost of each term, and that of --config beside ambient score matching alone."""
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are --config, --turns, --repeats, --steps_only")
    if not _STEPS_ONLY.value:  # what compilation takes is part of a training
        jax.config.update("jax_enable_compilation_cache", False)
    config = _CONFIG.value
    check_config(config)
    dataset = open_data(config.data)
    ours = made(config, dataset)
    report_steps(ours, dataset)
    if _STEPS_ONLY.value:
        return
    alone = config.copy_and_resolve_references()
    with alone.unlocked():
        alone.update_from_flattened_dict(ROADS[ADSM])
    print("\nThe config:", end=" ")
    steps, once = cost(ours, dataset)
    print("\nAmbient score matching alone, network of EDM:", end=" ")
    alone_steps, alone_once = cost(made(alone, dataset), dataset)
    whole = (steps + once) / (alone_steps + alone_once)
    print(f"\n{config.training.steps} steps take {steps / alone_steps:.2f} times as long as those of ADSM alone;")
    print(f"with compilation and the fit of the mixture, {whole:.2f} times.")


if __name__ == "__main__":
    program.run(main)
