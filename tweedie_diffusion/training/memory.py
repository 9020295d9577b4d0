"""What a step of training needs of a device's memory, told before anything is compiled, and what to do about it."""

import dataclasses
import math
import os
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Var

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.models.patch_mixture import PatchMixture
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.denoiser import denoiser_maker, sigma_data_of
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.sharding import own_shapes
from tweedie_diffusion.training.step import TrainState

LEAST = (
    0.15  # of gradients and `kept` that XLA needs at once: on a CPU .59 to 1.6, .16 if all it can is computed again;
    # compiled for an H100 (experiments.benchmarks.ahead, 123M-64) .22
)


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes of one device.

    Attributes:
        state: weights, their average, the optimiser's moments and the replay buffer.
        gradients: of all weights, whole, also where the state is in parts.
        kept: of its rows of a batch, between the forward and the backward pass of ambient score matching.
    """

    state: int
    gradients: int
    kept: int

    @property
    def least(self) -> float:
        """What it takes even where XLA computes again whatever it can."""
        return self.state + LEAST * (self.gradients + self.kept)


def need_of(
    config: Config, network, facts: DataFacts, state: TrainState, layout: TrainState | None = None, *, rows: int
) -> Need:
    """What a step needs. Nothing is computed: the backward pass is traced, in a second or two.

    Args:
        config: of the run.
        network: of `build_network`.
        facts: of its data.
        state: the shapes of the state.
        layout: of `layout_of`; None holds all of the state on each device.
        rows: of a batch, that a device takes at once.
    """
    own = state if layout is None else own_shapes(state, layout)
    array = jax.ShapeDtypeStruct
    batch = {"x_tn": array((rows, *facts.shape), jnp.float32), "sigma_tn": array((rows,), jnp.float32)}
    batch["label"] = array((rows,), jnp.int32)

    def loss(params, batch):
        mixture = _any_mixture(config.model, facts) if config.model.patch_components else None
        make_denoise = denoiser_maker(network, config.model, facts, mixture)
        objective = make_objective(config, make_denoise, sigma_data_of(config.model, facts))
        return objective(params, None, purpose_key(config.seed, "training"), batch, 0)[0]

    return Need(bytes_of(own), bytes_of(state.params), kept_bytes(loss, state.params, batch))


def kept_bytes(loss, params, *arguments) -> int:
    """Bytes that the backward pass of loss(params, *arguments) keeps of the forward pass, beside all that is given."""
    backward = lambda params, *arguments: jax.vjp(lambda params: loss(params, *arguments), params)[1]
    traced = jax.make_jaxpr(backward)(params, *arguments).jaxpr  # the backward pass is a tree of what it keeps
    return bytes_of([v.aval for v in {v for v in traced.outvars if isinstance(v, Var)} - {*traced.invars}])


def bytes_of(tree: Any) -> int:
    """Bytes of all arrays, or of those of such shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def device_memory() -> int | None:
    """Bytes that a device of this process has: a CPU its part of what the machine has free; None if nobody knows."""
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    known = Path("/proc/meminfo")
    lines = known.read_text().splitlines() if known.is_file() else []
    free = [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return (free or [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")])[0] // jax.local_device_count()


def check_memory(
    config: Config, network, facts: DataFacts, state: TrainState, layout: TrainState | None = None, *, rows: int
) -> None:
    """Refuse a step that surely does not fit, before it is compiled. Arguments as of `need_of`.

    Raises:
        InputError: with what it needs, what there is, and the settings that need less.
    """
    need, there = need_of(config, network, facts, state, layout, rows=rows), device_memory()
    if there is not None and need.least > there:
        raise InputError(
            f"a step needs at least {_size(need.least)} of memory on each device, which has {_size(there)}: "
            f"{_size(need.state)} of weights and all that goes with them, and {LEAST:.0%} or more of "
            f"{_size(need.gradients)} of gradients and {_size(need.kept)} kept of {rows} images for the backward pass. "
            f"Use {mends(config)}"
        )


def smaller_step(config: Config) -> str:
    """What to do about steps that do not fit after all."""
    may = "A run that has begun may change training.shards and model.remat; the others need a new --workdir"
    return f"use {mends(config)}. {may}"


def mends(config: Config) -> str:
    """The settings of a run that need less memory than its own."""
    ways = ["a smaller training.batch_size", "training.accumulate"]
    if jax.device_count() > max(config.training.shards, 1):
        ways.append("training.shards")
    if config.model.network != "mlp" and not config.model.remat and jax.default_backend() != "cpu":
        ways.append("model.remat=True")  # XLA undoes it on a CPU
    if config.model.dtype != "bfloat16":
        ways.append("model.dtype=bfloat16")
    if config.refresh.weight:
        ways.append("a smaller refresh.capacity")
    return f"{', '.join(ways[:-1])} or {ways[-1]}"


@contextmanager
def noticing_full_memory(mend: Callable[[], str]):
    """Around what runs on the devices.

    Raises:
        InputError: where that fails for want of memory, with the mend.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        raise InputError(f"the memory of a device is full ({str(error).strip().splitlines()[0]}): {mend()}") from error


def _any_mixture(model: Config, facts: DataFacts) -> PatchMixture:
    """One of the shape that config.model asks for, as it is before there is one."""
    count, dim = model.patch_components, facts.shape[-1] * model.patch_side ** (2 * (len(facts.shape) == 3))
    shapes = (count,), (count, dim), (count, dim, dim), (count, dim), (2,)
    return PatchMixture(*(jnp.ones(shape) for shape in shapes))


def _size(count: float) -> str:
    size = count / 2**30
    return f"{size:.3g} GiB" if size < 1000 else f"{size:.0f} GiB"
