"""What the programs of a training are made of, for those that time them one by one."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.denoiser import (
    MakeDenoise,
    Params,
    build_network,
    denoiser_maker,
    init_params,
    sigma_data_of,
)
from tweedie_diffusion.training.facts import DataFacts, facts_of
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.patch_prior import mixture_of
from tweedie_diffusion.training.processes import place
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import TrainState, first_buffer, init_state, make_optimizer, make_train_step


class Made(NamedTuple):
    """What the programs of a training are made of."""

    config: Config
    facts: DataFacts
    params: Params
    make_denoise: MakeDenoise
    mesh: Mesh
    seconds: float  # that the mixture took

    def state(self, config: Config) -> TrainState:
        """Of step 0, on all devices."""
        params = jax.tree.map(jnp.copy, self.params)  # of its own: a step takes it
        buffer = first_buffer(config.refresh, self.facts.shape)
        state = init_state(params, make_optimizer(config.training), buffer)
        return place(state, NamedSharding(self.mesh, PartitionSpec()))

    def step(self, config: Config, terms: tuple[str, ...]) -> Callable[..., Any]:
        """(state, batch) -> (state, scalars) with the terms of a config."""
        on = {f"with_{term}": term in terms for term in ("consistency", "refresh")}
        sigma_data = sigma_data_of(config.model, self.facts)
        objective = make_objective(config, self.make_denoise, sigma_data, mesh=self.mesh, **on)
        optimizer, decay = make_optimizer(config.training), config.training.ema_decay
        return make_train_step(objective, optimizer, ema_decay=decay, seed=0, mesh=self.mesh)


def made(config: Config, dataset: Dataset) -> Made:
    """With the mixture, if the config has one, fitted to the data."""
    facts = facts_of(dataset)
    network, start = build_network(config.model, facts), time.perf_counter()
    mixture = mixture_of(dataset.train, config.model, config.seed) if config.model.patch_components else None
    seconds = time.perf_counter() - start
    params = init_params(jax.random.key(0), network, config.model, facts)
    return Made(config, facts, params, denoiser_maker(network, config.model, facts, mixture), make_mesh(), seconds)


def placed(rows: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """What a step takes of a batch, on all devices."""
    taken = {name: array for name, array in rows.items() if name != "index"}
    return place(taken, NamedSharding(mesh, PartitionSpec("data")))
