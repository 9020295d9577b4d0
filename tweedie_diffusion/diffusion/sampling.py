"""The reverse process: one loop that drives every step."""

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.reverse_steps import heun_step
from tweedie_diffusion.diffusion.rows import fold_in, is_known
from tweedie_diffusion.diffusion.types import DenoiseFn, ReverseStep


def reverse_process(
    key: jax.Array, denoise: DenoiseFn, x_init: jax.Array, sigmas: jax.Array, *, step: ReverseStep = heun_step
) -> jax.Array:
    """Carry x_init from sigmas[0] down to sigmas[-1] with `step`, then return denoise there.

    Truncated sampling is a grid, not another sampler: end the grid exactly at σ_tn and the last call returns
    E[x_0 | x_tn]. For unconditional samples start from x_init = sigmas[0]·z. Step i draws its noise from
    fold_in(key, i); with [B] keys, row i depends on key i alone.

    Args:
        key: one key, or [B] keys. Steps without noise ignore it.
        denoise: the denoiser.
        x_init: [B, ...] at level sigmas[0].
        sigmas: [N] or [N, B], N >= 1, never increasing, all > 0 (a repeated level is a step that does nothing).
        step: a ReverseStep.

    Returns:
        x_0: [B, ...].

    Raises:
        ValueError: if sigmas has another shape, increases, or ends at 0.
    """
    sigmas = _grid_rows(sigmas, x_init)
    _check_end(sigmas)
    return denoise(carry_down(key, denoise, x_init, sigmas, step=step), sigmas[-1])


def carry_down(key: jax.Array, denoise: DenoiseFn, x_init: jax.Array, sigmas: jax.Array, *, step: ReverseStep):
    """`reverse_process` without its last call: x at level sigmas[-1], which may be 0 unless `step` forbids it.

    Arguments and errors as `reverse_process`.
    """
    return _descend(key, denoise, x_init, _grid_rows(sigmas, x_init), step, lambda x, sigma: None)[0]


def reverse_trajectory(
    key: jax.Array, denoise: DenoiseFn, x_init: jax.Array, sigmas: jax.Array, step: ReverseStep = heun_step
) -> tuple[jax.Array, jax.Array]:
    """All that `reverse_process` passes through: x_t at every level of the grid, and x0_hat = denoise(x_t, σ_t) there.

    One call of the denoiser a level more than `reverse_process`, unless it is compiled with a step that makes that call
    itself. The last x0_hat is what `reverse_process` returns. Arguments and errors as there.

    Returns:
        x_t [N, B, ...], the first of which is x_init, and x0_hat [N, B, ...].
    """
    sigmas = _grid_rows(sigmas, x_init)
    _check_end(sigmas)
    seen = lambda x, sigma: (x, denoise(x, sigma))
    last, before = _descend(key, denoise, x_init, sigmas, step, seen)
    x_t, x0_hat = (jnp.concatenate([a, b[None]]) for a, b in zip(before, seen(last, sigmas[-1]), strict=True))
    return x_t, x0_hat


def _descend(key, denoise, x_init, sigmas, step, seen):
    """The loop: x at sigmas[-1], and seen(x, σ) at every level before it."""

    def body(x, inputs):
        i, sigma, sigma_next = inputs
        return step(fold_in(key, i), denoise, x, sigma, sigma_next), seen(x, sigma)

    steps = sigmas.shape[0] - 1
    # A convolution in a loop takes longer on a CPU; the few steps of a roll are in every training step.
    unroll = steps <= 4 and jax.default_backend() == "cpu"
    return jax.lax.scan(body, x_init, (jnp.arange(steps), sigmas[:-1], sigmas[1:]), unroll=unroll)


def _check_end(sigmas):
    if is_known(sigmas) and not (np.asarray(sigmas[-1]) > 0).all():
        raise ValueError("sigmas must end above 0: the last call is denoise at sigmas[-1]")


def _grid_rows(sigmas, x):
    """[N] or [N, B] levels as float32 [N, B], never increasing."""
    batch = x.shape[0]
    sigmas = jnp.asarray(sigmas, jnp.float32)
    if sigmas.ndim == 1:
        sigmas = jnp.broadcast_to(sigmas[:, None], (sigmas.shape[0], batch))
    if sigmas.ndim != 2 or sigmas.shape[1] != batch or sigmas.shape[0] == 0:
        raise ValueError(f"sigmas must be [N] or [N, {batch}] with N >= 1 (got shape {sigmas.shape})")
    if is_known(sigmas) and (np.diff(np.asarray(sigmas), axis=0) > 0).any():
        raise ValueError("sigmas must never increase: the reverse process goes down")
    return sigmas
