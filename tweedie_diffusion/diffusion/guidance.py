"""Classifier-free guidance: what a class adds to a denoiser, more or less of it."""

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.rows import as_rows, expand, is_known
from tweedie_diffusion.diffusion.types import DenoiseFn

NO_CLASS = -1


class LabelledDenoiseFn(Protocol):
    """E[x_0 | x_t, c]: (x_t [B, ...], sigma [B], labels [B]) -> [B, ...]; label −1 is no class, E[x_0 | x_t]."""

    def __call__(self, x_t: jax.Array, sigma: jax.Array, labels: jax.Array, /) -> jax.Array: ...


def guided(
    denoise_with_labels: LabelledDenoiseFn, labels: jax.Array, *, weight, interval: tuple = (0.0, np.inf)
) -> DenoiseFn:
    """h(x_t, σ) = h(x_t, σ, ∅) + w (h(x_t, σ, c) − h(x_t, σ, ∅)) for low < σ <= high, and h(x_t, σ, c) elsewhere.

    w = 1 is the conditional model, 0 the unconditional one; above 1 samples are more typical of their class and vary
    less. (Ho and Salimans 2022, arXiv:2207.12598, equation 6, whose weight is w − 1; the interval: Kynkäänniemi et al.
    2024, arXiv:2404.07724.) Its score is that of p(x_t)^{1−w} p(x_t | c)^w at each σ, which for w other than 0 and 1
    is no diffused law: samples follow none that has a name. One call of the network, with each row twice.

    Args:
        denoise_with_labels: the denoiser of a class-conditional model.
        labels: [B] classes.
        weight: w, float or [B].
        interval: (low, high) noise levels between which the weight acts.

    Returns:
        A denoiser of batches of B.

    Raises:
        ValueError: if the interval is empty.
    """
    low, high = interval
    if is_known(low, high) and not 0 <= np.asarray(low) < np.asarray(high):
        raise ValueError(f"the interval of guidance must be 0 <= low < high (got {low}, {high})")

    def denoise(x_t, sigma):
        sigma, chosen = as_rows(sigma, x_t), jnp.asarray(labels)
        # Rows beside their copies, so that a batch split over devices stays where it is.
        pairs = jnp.stack([chosen, jnp.full_like(chosen, NO_CLASS)], axis=1).reshape(-1)
        both = denoise_with_labels(jnp.repeat(x_t, 2, axis=0), jnp.repeat(sigma, 2), pairs)
        conditional, unconditional = jnp.moveaxis(both.reshape(-1, 2, *x_t.shape[1:]), 1, 0)
        acts = (sigma > low) & (sigma <= high)
        mixed = unconditional + expand(as_rows(weight, x_t), x_t) * (conditional - unconditional)
        return jnp.where(expand(acts, x_t), mixed, conditional)

    return denoise
