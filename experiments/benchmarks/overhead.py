"""What safety costs a training of some 50 million parameters, beside the same work without it.

    python -m experiments.benchmarks.overhead --network=mlp     # a CPU can run it
    python -m experiments.benchmarks.overhead --network=unet    # of configs/cifar10_noisy.py: an accelerator

Steps: the train step and its guard, the trace off, beside the same step that looks at nothing. Saves: a checkpoint with
its manifest, synced and put in place, beside what Orbax alone writes, from the call until all is on the disk; and how
long training waits for it. The kinds take turns, in TMPDIR: a folder in memory leaves out what the disk takes.
"""

import dataclasses
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec

from configs import cifar10_noisy
from experiments.benchmarks.turns import in_turns, ratio, spread
from experiments.benchmarks.unguarded import unguarded_step
from experiments.report import provenance_lines
from tweedie_diffusion import program
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.config import Config, default_config
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.guard import Guard
from tweedie_diffusion.training.metrics import Metrics
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.processes import place
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import TrainState, init_state, make_optimizer, make_train_step

_NETWORK = flags.DEFINE_enum("network", "mlp", ["mlp", "unet"], "Of the model.")
_STEPS = flags.DEFINE_integer("steps", 20, "In a turn.", lower_bound=2)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "Examples a step.", lower_bound=1)
_TURNS = flags.DEFINE_integer("turns", 7, "Of each kind; the median counts.", lower_bound=1)


def settings() -> tuple[Config, DataFacts]:
    """A training of ambient score matching with some 50 million parameters."""
    if _NETWORK.value == "unet":
        config, shape = cifar10_noisy.get_config(), (32, 32, 3)
        config.model.patch_components, config.consistency.weight = 0, 0.0
    else:
        config, shape = default_config(), (64,)
        config.model.network, config.model.width, config.model.depth = "mlp", 2048, 3
        config.consistency.weight = 0.0
    config.training.batch_size = _BATCH_SIZE.value
    return config, DataFacts(shape, 0.5, 0.2, 0.2, 0, Scaling(-1.0, 1.0, "float32"), 1000, 100)


def report(what: str, found: dict[str, list[float]]) -> None:
    """Medians and ranges, and the ratio of each kind to the first, turn by turn."""
    first = next(iter(found.values()))
    for name, seconds in found.items():
        print(f"| {what} | {name} | {spread(seconds)} | {ratio(seconds, first):.3f} |", flush=True)


def time_steps(scratch: Path, config: Config, facts: DataFacts) -> TrainState:
    """Print what a step costs, and return a state that has been trained a little."""
    mesh, optimizer = make_mesh(), make_optimizer(config.training)
    network = build_network(config.model, facts)
    objective = make_objective(
        config,
        denoiser_maker(network, config.model, facts),
        facts.sigma_data,
        with_consistency=False,
        with_refresh=False,
        mesh=mesh,
    )
    params = init_params(jax.random.key(0), network, config.model, facts)
    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    print(f"{provenance_lines()}\n* parameters: {sum(x.size for x in jax.tree.leaves(params)):,}\n")
    print("| what | how | median, s | from, to | ratio |\n|---|---|---|---|---|", flush=True)
    options = {"ema_decay": config.training.ema_decay, "seed": 0, "mesh": mesh}
    steps = {
        "without": unguarded_step(objective, optimizer, **options),
        "guarded": make_train_step(objective, optimizer, **options),
    }
    fresh = lambda: init_state(jax.tree.map(jnp.copy, params), optimizer)  # of its own: a step takes it
    states = {name: place(fresh(), whole) for name in steps}
    size = config.training.batch_size
    rows = {"x_tn": np.random.default_rng(0).normal(size=(size, *facts.shape)).astype(np.float32)}
    rows |= {"sigma_tn": np.full(size, 0.2, np.float32), "label": np.full(size, -1, np.int32)}
    index = {"index": np.arange(size)}

    def run(name, guard):
        begun = time.perf_counter()
        for step in range(_STEPS.value):
            states[name], scalars = steps[name](states[name], place(rows, split))
            if guard:
                guard.watch(step, rows | index, scalars)
        if guard:
            guard.settle()
        jax.block_until_ready(states[name].params)
        return (time.perf_counter() - begun) / _STEPS.value

    with Metrics(scratch, start=0, total=1, batch_size=size) as metrics:
        guard = Guard(scratch, metrics, None)
        kinds = {"without": lambda: run("without", None), "guarded": lambda: run("guarded", guard)}
        report("step", in_turns(kinds, turns=_TURNS.value))
    return states["guarded"]


def time_saves(scratch: Path, state: TrainState) -> None:
    """Print what a save costs, until it is on the disk and for training."""
    numbers = iter(range(10**6))
    waited: list[float] = []

    def orbax_alone(compressed):
        path = scratch / f"orbax {next(numbers)}"
        begun = time.perf_counter()
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_compression=compressed)) as orbax:
            orbax.save(path, args=ocp.args.PyTreeSave(state))
        seconds = time.perf_counter() - begun
        shutil.rmtree(path)
        return seconds

    def ours():
        saved = dataclasses.replace(state, step=jnp.int32(next(numbers)))
        begun = time.perf_counter()
        checkpoints.save(saved)
        waited.append(time.perf_counter() - begun)
        checkpoints.wait()
        seconds = time.perf_counter() - begun
        shutil.rmtree(scratch / "checkpoints" / str(int(saved.step)))
        return seconds

    with Checkpoints(scratch, keep=10**6) as checkpoints:
        kinds = {"Orbax as it comes": lambda: orbax_alone(True), "Orbax, not compressed": lambda: orbax_alone(False)}
        kinds |= {"ours: not compressed, with manifest": ours}
        report("save", in_turns(kinds, turns=_TURNS.value))
    print(f"training waits {statistics.median(waited):.4f} s of a save")


def main(arguments: list[str]) -> None:
    """Time both."""
    config, facts = settings()
    with tempfile.TemporaryDirectory() as scratch:
        time_saves(Path(scratch), time_steps(Path(scratch), config, facts))


if __name__ == "__main__":
    program.run(main)
