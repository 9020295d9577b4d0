"""Posterior refresh: draws of clean data given the noisy data, weighed by how well they explain all of it.

The denoising loss on such draws carries a model below the noise of its data. Drawing anew from the model that learned
them is expectation-maximisation, slow in fine detail, like Richardson–Lucy; weights on the draws take the same steps
without the network in between.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tweedie_diffusion.diffusion.reverse_steps import corrected_step
from tweedie_diffusion.diffusion.rows import as_rows, expand
from tweedie_diffusion.diffusion.sampling import reverse_process
from tweedie_diffusion.diffusion.types import DenoiseFn, ReverseStep

BLOCK = 64  # noisy points explained at once


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ReplayBuffer:
    """Clean draws, the oldest replaced first.

    Attributes:
        x_0: [M, ...].
        label: [M] int32, −1 without classes.
        log_weight: [M], of a law on the draws; the weights sum to 1.
        next_row: [] int32, the oldest.
    """

    x_0: jax.Array
    label: jax.Array
    log_weight: jax.Array
    next_row: jax.Array


def empty_buffer(capacity: int, shape: tuple[int, ...]) -> ReplayBuffer:
    """Zeros of equal weight, to be replaced before use.

    Args:
        capacity: M.
        shape: of one example.
    """
    log_weight = jnp.full(capacity, -jnp.log(jnp.float32(capacity)))
    return ReplayBuffer(
        jnp.zeros((capacity, *shape)), jnp.full(capacity, -1, jnp.int32), log_weight, jnp.zeros((), jnp.int32)
    )


def posterior_draws(
    key: jax.Array,
    denoise: DenoiseFn,
    x_tn: jax.Array,
    *,
    sigma_tn,
    sigma_min: float,
    num_steps: int,
    step: ReverseStep = corrected_step,
) -> jax.Array:
    """x_0 ~ p(x_0 | x_tn) by the reverse process from σ_tn down to sigma_min, on a geometric grid.

    Keep σ_next/σ >= .8 for `corrected_step`. A sampler that loses variance makes refresh collapse, so the steps of
    first order are for comparison.

    Args:
        key: one key, or [B] keys.
        denoise: the denoiser.
        x_tn: [B, ...] at level sigma_tn.
        sigma_tn: float or [B], >= 0; rows at or below sigma_min are returned as they are.
        sigma_min: the level of the last call, > 0.
        num_steps: >= 1.
        step: a ReverseStep, stochastic.

    Returns:
        [B, ...].
    """
    sigma_tn = as_rows(sigma_tn, x_tn)
    noisy = sigma_tn > sigma_min
    top = jnp.where(noisy, sigma_tn, 2 * sigma_min)
    grid = top[None] * (sigma_min / top)[None] ** (jnp.arange(num_steps + 1)[:, None] / num_steps)
    return jnp.where(expand(noisy, x_tn), reverse_process(key, denoise, x_tn, grid, step=step), x_tn)


def replace_oldest(buffer: ReplayBuffer, x_0: jax.Array, label: jax.Array) -> ReplayBuffer:
    """The buffer with its oldest rows replaced by x_0 [R, ...], R <= M, each of weight 1/M."""
    capacity = buffer.x_0.shape[0]
    rows = (buffer.next_row + jnp.arange(x_0.shape[0])) % capacity
    log_weight = buffer.log_weight.at[rows].set(-jnp.log(jnp.float32(capacity)))
    return ReplayBuffer(
        buffer.x_0.at[rows].set(x_0),
        buffer.label.at[rows].set(label),
        log_weight - jax.nn.logsumexp(log_weight),
        (buffer.next_row + x_0.shape[0]) % capacity,
    )


def draw_rows(key: jax.Array, buffer: ReplayBuffer, count: int) -> tuple[jax.Array, jax.Array]:
    """`count` rows (x_0, label) drawn with replacement by their weights."""
    cumulated = jnp.cumsum(jnp.exp(buffer.log_weight))
    rows = jnp.searchsorted(cumulated, cumulated[-1] * jax.random.uniform(key, (count,)))
    rows = jnp.minimum(rows, buffer.x_0.shape[0] - 1)
    return buffer.x_0[rows], buffer.label[rows]


def reweigh(buffer: ReplayBuffer, x_tn: jax.Array, *, sigma_tn, relaxation: float = 1.0) -> ReplayBuffer:
    """One step of expectation-maximisation for the likelihood of x_tn under the weighted draws plus noise.

    w_j ∝ w_j · (r_j/w_j)^ω,  r_j = mean_i w_j N(x_i; x_0j, σ_tn² I) / Σ_k w_k N(x_i; x_0k, σ_tn² I).
    Its fixed point is the law on the draws that explains the noisy data best (the non-parametric maximum-likelihood
    estimate of Kiefer and Wolfowitz, restricted to the draws). It needs draws within about σ_tn√D of each noisy point,
    so it is for data of few dimensions: among images every x_tn is explained by the draws of itself alone.

    Args:
        buffer: the draws.
        x_tn: [B, ...] noisy data.
        sigma_tn: float or [B]; rows at 0 take no part.
        relaxation: ω in (0, 2): 1 is the plain step, more is faster.

    Returns:
        The buffer with new weights.
    """
    sigma_tn, centres = as_rows(sigma_tn, x_tn), buffer.x_0.reshape(buffer.x_0.shape[0], -1)
    x = x_tn.reshape(x_tn.shape[0], -1)
    lengths = jnp.sum(centres * centres, axis=1)
    # Blocks of rows, whose kernel stays in a processor's cache; the last is filled up with rows that take no part.
    blocks = -(-x.shape[0] // BLOCK)
    missing = blocks * BLOCK - x.shape[0]
    x = jnp.pad(x, ((0, missing), (0, 0))).reshape(blocks, BLOCK, -1)
    sigma = jnp.pad(sigma_tn, (0, missing)).reshape(blocks, BLOCK)

    def add_block(total, rows):
        x, sigma = rows
        noisy = sigma > 0
        scale = jnp.where(noisy, 1 / jnp.where(noisy, sigma, 1.0) ** 2, 0.0)
        log_kernel = buffer.log_weight[None] + scale[:, None] * (x @ centres.T - lengths[None] / 2)
        kernel = jnp.exp(log_kernel - jnp.max(log_kernel, axis=1, keepdims=True))
        return total + jnp.where(noisy, 1 / jnp.sum(kernel, axis=1), 0.0) @ kernel, None

    total, _ = jax.lax.scan(add_block, jnp.zeros_like(lengths), (x, sigma))
    count = jnp.sum(sigma_tn > 0)
    # A draw that explains nothing in one batch may explain something in the next: its weight stays above 0.
    log_share = jnp.where(count > 0, jnp.log(total / jnp.maximum(count, 1) + 1e-30), buffer.log_weight)
    log_weight = (1 - relaxation) * buffer.log_weight + relaxation * log_share
    return dataclasses.replace(buffer, log_weight=log_weight - jax.nn.logsumexp(log_weight))
