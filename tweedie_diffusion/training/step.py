"""The train state, and the one jit-compiled step that advances it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tweedie_diffusion.diffusion.refresh import (
    ReplayBuffer,
    empty_buffer,
    posterior_draws,
    replace_oldest,
    reweigh,
)
from tweedie_diffusion.diffusion.reverse_steps import STOCHASTIC_STEPS
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.sharding import laid, part, split, whole


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Arrays only: all that changes from step to step.

    Attributes:
        step: [] int32, steps done.
        params, ema_params: weights and their exponential moving average.
        opt_state: of the optimiser.
        buffer: of posterior refresh, None without it.
        skipped, skipped_in_a_row: [] int32, steps whose loss or gradient was not finite: nothing but counters changed.
    """

    step: jax.Array
    params: Any
    ema_params: Any
    opt_state: Any
    buffer: ReplayBuffer | None
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def make_optimizer(training: Config) -> optax.GradientTransformationExtraArgs:
    """Adam with clipped gradients; the learning rate warms up linearly, then falls as a cosine to 0. Its update needs
    the norm of the gradient as `grad_norm`.
    """
    warmup = min(training.warmup_steps, training.steps - 1)
    schedule = optax.warmup_cosine_decay_schedule(0.0, training.learning_rate, warmup, training.steps)
    return optax.chain(_clip_by_grad_norm(training.max_grad_norm), optax.adam(schedule))


def _clip_by_grad_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """`optax.clip_by_global_norm`, given the norm of the gradients that reach it. Within the branch around an update
    XLA would sum them again, and write them clipped.
    """

    def clip(updates, state, params=None, *, grad_norm, **_):
        del params
        factor = jnp.minimum(1, max_norm / grad_norm)
        return jax.tree.map(lambda grad: (factor * grad).astype(grad.dtype), updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, clip)  # pyright: ignore


def init_state(params, optimizer: optax.GradientTransformation, buffer: ReplayBuffer | None = None) -> TrainState:
    """Step 0 from given weights, and from an empty buffer if there is posterior refresh."""
    counters = {name: jnp.int32(0) for name in ("step", "skipped", "skipped_in_a_row")}  # donated: each its own
    return TrainState(
        params=params,
        ema_params=jax.tree.map(jnp.copy, params),
        opt_state=optimizer.init(params),
        buffer=buffer,
        **counters,
    )


def first_buffer(refresh: Config, shape: tuple[int, ...]) -> ReplayBuffer | None:
    """The empty buffer of config.refresh for examples of `shape`; None without refresh."""
    return empty_buffer(refresh.capacity, shape) if refresh.weight else None


def layout_of(state: TrainState, mesh: Mesh) -> TrainState:
    """Where each array of a state, or of its shapes, lies: in parts over the groups of `mesh`, the buffer whole."""
    layout = jax.tree.map(lambda x: part(x.shape, mesh), state)
    return dataclasses.replace(layout, buffer=jax.tree.map(lambda _: whole(mesh), state.buffer))


def make_train_step(
    objective,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float,
    seed: int,
    mesh: Mesh,
    layout: TrainState | None = None,
    micro_batches: int = 1,
):
    """The step (state, batch) -> (state, metrics): jitted; state donated, batch split over all devices of `mesh`.

    All randomness comes from (seed, state.step). The average starts quickly: its decay is
    min(ema_decay, (1 + step)/(10 + step)). A step whose loss or gradient is not finite is skipped: it is counted, and
    all else stays as it was. The metrics have `grad_norm` and `skipped_in_a_row` beside what the objective has; an
    optimizer whose update takes extra arguments is given `grad_norm` too.

    With a `layout` (of `layout_of`) weights in parts are gathered for the computation, and their update and average
    happen on the parts (ZeRO, arXiv:1910.02054); without one the state is whole on each device. Gradient and metrics
    are means over the micro-batches.
    """
    held = whole(mesh) if layout is None else layout
    in_parts = lambda grads: laid(grads, whole(mesh) if layout is None else layout.params)
    settle = in_parts if mesh.shape["shard"] > 1 else _in_memory_order
    # Summed before it is cut: else the compiler divides the backward pass by channels too, and moves images for it.
    gradient = _mean_gradient(objective, micro_batches, lambda grads: settle(laid(grads, whole(mesh))))
    optimizer = optax.with_extra_args_support(optimizer)

    def update(learned, grads, grad_norm, step):
        params, ema_params, opt_state = learned
        updates, opt_state = optimizer.update(grads, opt_state, params, grad_norm=grad_norm)
        params = optax.apply_updates(params, updates)
        decay = jnp.minimum(ema_decay, (1 + step) / (10 + step))
        return params, optax.incremental_update(params, ema_params, 1 - decay), opt_state

    def train_step(state: TrainState, batch):
        key = jax.random.fold_in(purpose_key(seed, "training"), state.step)
        params, ema_params = laid((state.params, state.ema_params), whole(mesh))
        metrics, grads = gradient(params, ema_params, key, batch, state.step, state.buffer)
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(grad_norm)
        learned = state.params, state.ema_params, state.opt_state
        learned = _update_if(finite, update, learned, grads, grad_norm, state.step)
        skipped_in_a_row = jnp.where(finite, 0, state.skipped_in_a_row + 1)
        metrics = metrics | {"grad_norm": grad_norm, "skipped_in_a_row": skipped_in_a_row}
        counters = state.skipped + ~finite, skipped_in_a_row
        return TrainState(state.step + 1, *learned, state.buffer, *counters), metrics  # pyright: ignore

    begin, end = (held, split(mesh)), (held, whole(mesh))
    return jax.jit(train_step, in_shardings=begin, out_shardings=end, donate_argnums=0)


def _mean_gradient(objective, micro_batches: int, settle):
    """The arguments of the objective -> (metrics, gradient), both means over micro-batches; `settle` puts gradients in
    their place. Micro-batch i draws from fold_in(key, i) and has rows i, i + n, i + 2n, …: none leaves its device.
    """
    grad_fn = jax.value_and_grad(objective, has_aux=True)

    def at_once(*arguments):
        (_, metrics), grads = grad_fn(*arguments)
        return metrics, settle(grads)

    def one_by_one(params, teacher_params, key, batch, step, buffer):
        def add(total, numbered):
            i, rows = numbered
            metrics, grads = at_once(params, teacher_params, jax.random.fold_in(key, i), rows, step, buffer)
            return jax.tree.map(jnp.add, total, grads), metrics

        parts = jax.tree.map(lambda x: x.reshape(-1, micro_batches, *x.shape[1:]).swapaxes(0, 1), batch)
        none = settle(jax.tree.map(jnp.zeros_like, params))
        total, metrics = jax.lax.scan(add, none, (jnp.arange(micro_batches), parts))
        return jax.tree.map(jnp.mean, metrics), jax.tree.map(lambda grad: grad / micro_batches, total)

    return one_by_one if micro_batches > 1 else at_once


def _in_memory_order(grads):
    """The gradients, as their weights lie in memory. cuDNN writes those of its kernels, which have more than two axes,
    in another order. XLA would turn them within the update of each, at a quarter of the bandwidth, and copy moments
    of Adam, which it then cannot replace in place. Of weights in parts each device has too few to matter.
    """
    settled = lambda grad: jax.lax.optimization_barrier(grad.reshape(-1)).reshape(grad.shape)  # a row has one order
    of_kernels = lambda grads: jax.tree.map(lambda grad: settled(grad) if grad.ndim > 2 else grad, grads)
    return jax.lax.platform_dependent(grads, cuda=of_kernels, default=lambda grads: grads)


def _update_if(finite, update, learned, *arguments):
    """update(learned, *arguments) if finite, else `learned`. A branch costs a CPU nothing, where selection is one more
    pass over memory; on accelerators a branch would wait for the host.
    """

    def branch(finite, learned, *arguments):
        return jax.lax.cond(finite, update, lambda learned, *_: learned, learned, *arguments)

    def selection(finite, learned, *arguments):
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), update(learned, *arguments), learned)

    return jax.lax.platform_dependent(finite, learned, *arguments, cpu=branch, default=selection)


def make_refresh_step(
    config: Config, make_denoise, mesh: Mesh, *, layout: TrainState | None = None, filling: bool = False
):
    """The refresh (state, batch) -> state: jitted; state donated, and laid as in the train step.

    Replaces `refresh.rows` draws by ones for the first images of the batch (`filling`: for all of them), made by the
    EMA weights, then takes one step of `reweigh` with all of the batch. All randomness comes from (seed, state.step,
    next row). Draws that are not finite are not taken.
    """
    refresh = config.refresh

    def refresh_step(state: TrainState, batch) -> TrainState:
        assert state.buffer is not None  # first_buffer makes one for refresh.weight > 0
        buffer, rows = state.buffer, len(batch["x_tn"]) if filling else refresh.rows
        key = jax.random.fold_in(purpose_key(config.seed, "refresh"), state.step)
        if rows:
            label = batch["label"][:rows]
            x_0 = posterior_draws(
                jax.random.fold_in(key, buffer.next_row),
                make_denoise(laid(state.ema_params, whole(mesh)), labels=label),
                batch["x_tn"][:rows],
                sigma_tn=batch["sigma_tn"][:rows],
                sigma_min=refresh.sigma_min,
                num_steps=refresh.num_steps,
                step=STOCHASTIC_STEPS[refresh.step],
            )
            buffer = replace_oldest(buffer, x_0, label)
        if refresh.relaxation and not filling:
            buffer = reweigh(buffer, batch["x_tn"], sigma_tn=batch["sigma_tn"], relaxation=refresh.relaxation)
        finite = jnp.all(jnp.isfinite(buffer.x_0)) & jnp.all(jnp.isfinite(buffer.log_weight))
        buffer = jax.tree.map(lambda new, old: jnp.where(finite, new, old), buffer, state.buffer)
        return dataclasses.replace(state, buffer=buffer)

    held = whole(mesh) if layout is None else layout
    return jax.jit(refresh_step, in_shardings=(held, split(mesh)), out_shardings=held, donate_argnums=0)
