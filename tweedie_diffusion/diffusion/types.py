"""The contracts everything in the package is written against."""

from collections.abc import Callable
from typing import Any, Protocol

import jax


class DenoiseFn(Protocol):
    """x0_hat = E[x_0 | x_t]: (x_t [B, ...], sigma [B]) -> [B, ...]."""

    def __call__(self, x_t: jax.Array, sigma: jax.Array, /) -> jax.Array: ...


class ReverseStep(Protocol):
    """One step of the reverse process from level sigma down to sigma_next; it owns its network calls.

    `sign=-1` negates all noise the step draws from `key`, which gives antithetic pairs.
    """

    def __call__(
        self, key: jax.Array, denoise: DenoiseFn, x: jax.Array, sigma, sigma_next, *, sign: float = 1.0
    ) -> jax.Array: ...


MapDraws = Callable[
    [Callable[..., Any]], Callable[..., Any]
]  # as jax.vmap: f -> f over the first axis of its arguments
