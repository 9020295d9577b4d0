"""What a training costs beside ambient score matching alone, on an otherwise idle machine.

    python -m experiments.benchmarks.terms --config=configs/digits_noisy.py

Compiles and times every program that the config's training consists of, on the config's own data, and adds them up over
its budget; then the same for ambient score matching alone with the network of EDM.
"""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags

from experiments.roads import ADSM, ROADS
from tweedie_diffusion import program
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.training.config import Config, check_config
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.loop import open_data, terms_at
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.patch_prior import mixture_of
from tweedie_diffusion.training.step import (
    first_buffer,
    init_state,
    make_mesh,
    make_optimizer,
    make_refresh_step,
    make_train_step,
)

_CONFIG = config_flags.DEFINE_config_file("config", "configs/digits_noisy.py", "Settings.")
_REPEATS = flags.DEFINE_integer("repeats", 30, "Runs timed of each program; the median counts.", lower_bound=1)


def cost(config: Config, dataset: Dataset) -> tuple[float, float]:
    """Seconds of a training: its steps, and what comes before them (compilation, fit of the mixture). Prints both."""
    facts, mesh, optimizer = facts_of(dataset), make_mesh(), make_optimizer(config.training)
    network = build_network(config.model, facts)
    start = time.perf_counter()
    mixture = mixture_of(dataset.train, config.model, config.seed) if config.model.patch_components else None
    once = time.perf_counter() - start
    print(f"fit of the mixture: {once:.1f} s\n\n| program | runs | to compile, s | each, s | together, s |")
    print("|---|---|---|---|---|")
    make_denoise, total = denoiser_maker(network, config.model, facts, mixture), 0.0
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    data = batches(dataset.train, batch_size=config.training.batch_size, seed=0)
    for name, (runs, step) in _programs(config, make_denoise, facts.sigma_data, optimizer, mesh).items():
        params = init_params(jax.random.key(0), network, config.model, facts)
        state = jax.device_put(init_state(params, optimizer, first_buffer(config.refresh, facts.shape)), whole)
        seconds = []
        for _ in range(_REPEATS.value + 1):
            batch = jax.device_put(next(data), split)
            start = time.perf_counter()
            state = jax.block_until_ready(step(state, batch))
            seconds.append(time.perf_counter() - start)
        compiled, each = seconds[0], sorted(seconds[1:])[_REPEATS.value // 2]
        print(f"| {name} | {runs} | {compiled:.1f} | {each:.4f} | {runs * each:.1f} |")
        total, once = total + runs * each, once + compiled
    return total, once


def _programs(config, make_denoise, sigma_data, optimizer, mesh) -> dict[str, tuple[int, Callable[..., Any]]]:
    """{name: (how often it runs, (state, batch) -> state)} of all that a training consists of."""
    refresh, training, programs = config.refresh, config.training, {}
    for terms, runs in Counter(tuple(terms_at(config, step)) for step in range(training.steps)).items():
        on = {f"with_{term}": term in terms for term in ("consistency", "refresh")}
        objective = make_objective(config, make_denoise, sigma_data, **on)
        step = make_train_step(objective, optimizer, ema_decay=training.ema_decay, seed=0, mesh=mesh)
        programs[" + ".join(["step: ambient", *terms])] = (runs, lambda state, batch, step=step: step(state, batch)[0])
    refreshed = sum("refresh" in terms_at(config, step) for step in range(0, training.steps, refresh.every))
    if refreshed:
        fills = -(-refresh.capacity // training.batch_size)
        programs["filling the buffer"] = (fills, make_refresh_step(config, make_denoise, mesh, filling=True))
        programs["refresh"] = (refreshed, make_refresh_step(config, make_denoise, mesh))
    return programs


def main(arguments):
    """Print the cost of --config beside that of ambient score matching alone."""
    jax.config.update("jax_enable_compilation_cache", False)
    config = _CONFIG.value
    check_config(config)
    alone = config.copy_and_resolve_references()
    with alone.unlocked():
        alone.update_from_flattened_dict(ROADS[ADSM])
    dataset = open_data(config.data)
    print(f"{jax.devices()[0].device_kind} × {jax.device_count()}, batch {config.training.batch_size}\n")
    print("The config:", end=" ")
    steps, once = cost(config, dataset)
    print("\nAmbient score matching alone:", end=" ")
    alone_steps, alone_once = cost(alone, dataset)
    ratio, with_all = steps / alone_steps, (steps + once) / (alone_steps + alone_once)
    print(f"\n{config.training.steps} steps take {ratio:.2f} times as long as those of ADSM alone;")
    print(f"with compilation and the fit of the mixture, {with_all:.2f} times.")


if __name__ == "__main__":
    program.run(main)
