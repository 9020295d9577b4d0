"""One convention for levels and keys: a noise level is a float, a 0-d array or [B]; a key is one key or [B] keys.

With [B] keys row i is drawn from key i alone, so a row does not depend on the batch it is computed in.
"""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def as_rows(sigma, x: jax.Array) -> jax.Array:
    """A noise level (float, 0-d or [B]) as float32 [B], for x [B, ...].

    Raises:
        ValueError: if sigma is neither a scalar nor one level per row of x.
    """
    sigma = jnp.asarray(sigma, jnp.float32)
    if sigma.shape not in ((), (x.shape[0],)):
        raise ValueError(f"sigma must be a scalar or [{x.shape[0]}], one level per example (got shape {sigma.shape})")
    return jnp.broadcast_to(sigma, (x.shape[0],))


def expand(per_example: jax.Array, x: jax.Array) -> jax.Array:
    """[B] -> [B, 1, ...], of the rank of x."""
    return per_example.reshape(per_example.shape + (1,) * (x.ndim - per_example.ndim))


def mean_features(x: jax.Array) -> jax.Array:
    """[B, ...] -> [B], the mean over everything but the batch."""
    return jnp.mean(x.reshape(x.shape[0], -1), axis=1)


def is_known(*values) -> bool:
    """True if every value can be looked at now, that is, none is being traced."""
    return not any(isinstance(v, Tracer) for v in values)


def check_levels(low, high, message: str, *, strict: bool = False) -> None:
    """Raise ValueError(message with the first offending pair) unless 0 <= low <= high (low < high if strict).

    Levels under a jit trace are not known and pass unchecked.
    """
    if not is_known(low, high):
        return
    low, high = np.broadcast_arrays(np.asarray(low, np.float32), np.asarray(high, np.float32))
    good = (low >= 0) & ((low < high) if strict else (low <= high))
    if not good.all():
        first = np.flatnonzero(~good.ravel())[0]
        relation = "<=" if strict else "<"
        pair = f"{high.ravel()[first]:g} {relation} {low.ravel()[first]:g}"
        raise ValueError(f"{message} (got {pair if low.ravel()[first] >= 0 else f'{low.ravel()[first]:g} < 0'})")


def _typed(key: jax.Array) -> jax.Array:
    return key if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(key)


def purpose_key(seed: int, purpose: str) -> jax.Array:
    """The key of a seed for one purpose: two purposes with the same seed share no randomness."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))


def per_key(draw, key: jax.Array, shape) -> jax.Array:
    """draw(key, shape), or row i as draw(key[i], shape[1:]) when `key` is [B] keys."""
    key = _typed(key)
    if key.ndim == 0:
        return draw(key, shape)
    if key.shape != tuple(shape[:1]):
        raise ValueError(f"key must be one key or [{shape[0]}] keys, one per example (got shape {key.shape})")
    return jax.vmap(lambda k: draw(k, tuple(shape[1:])))(key)


def normal(key: jax.Array, shape) -> jax.Array:
    """Standard normal noise of a shape [B, ...], from one key or [B] keys."""
    return per_key(jax.random.normal, key, shape)


def fold_in(key: jax.Array, data) -> jax.Array:
    """`jax.random.fold_in` for one key or [B] keys."""
    key = _typed(key)
    if key.ndim == 0:
        return jax.random.fold_in(key, data)
    return jax.vmap(lambda k: jax.random.fold_in(k, data))(key)


def split(key: jax.Array, num: int) -> jax.Array:
    """`num` independent keys of the same kind: [num], or [num, B] from [B] keys."""
    return jax.vmap(lambda i: fold_in(key, i))(jnp.arange(num))


def one_by_one(function):
    """As `jax.vmap`, by one call after the other: what a call sees is a batch as any other.

    Of a batch split over devices vmap makes another, over both axes, which XLA gathers before a convolution.
    """

    def mapped(*stacked):
        calls = zip(*stacked, strict=True)
        return jax.tree.map(lambda *results: jnp.stack(results), *(function(*arguments) for arguments in calls))

    return mapped
