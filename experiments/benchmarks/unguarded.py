"""The train step without its guard, to tell what the guard costs."""

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.training.step import TrainState


def unguarded_step(objective, optimizer: optax.GradientTransformationExtraArgs, *, ema_decay: float, seed: int, mesh):
    """`make_train_step` as it would be without a guard."""

    def train_step(state: TrainState, batch):
        key = jax.random.fold_in(purpose_key(seed, "training"), state.step)
        grad_fn = jax.value_and_grad(objective, has_aux=True)
        (_, metrics), grads = grad_fn(state.params, state.ema_params, key, batch, state.step, state.buffer)
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params, grad_norm=grad_norm)
        params = optax.apply_updates(state.params, updates)
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        ema_params = optax.incremental_update(params, state.ema_params, 1 - decay)
        metrics = metrics | {"grad_norm": grad_norm}
        counters = state.skipped, state.skipped_in_a_row
        return TrainState(state.step + 1, params, ema_params, opt_state, state.buffer, *counters), metrics

    whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(train_step, in_shardings=(whole, split), out_shardings=(whole, whole), donate_argnums=0)
