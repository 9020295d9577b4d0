"""Group normalisation, and SiLU after it, in as few passes over the images as there can be."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from tweedie_diffusion.models.linear import channels_of, cut_as

EPSILON = 1e-6


def affine(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """x·factor + offset in float32, of x [B, ..., C], each channel of each image with its own: [B, C]."""
    along = lambda v: jnp.expand_dims(v, tuple(range(1, x.ndim - 1)))
    return x.astype(jnp.float32) * along(factor) + along(offset)


@jax.custom_jvp
def affine_silu(x: jax.Array, factor: jax.Array, offset: jax.Array) -> jax.Array:
    """SiLU(x·factor + offset), as `affine`.

    Its backward pass sums over pixels and writes an image. XLA would write down the gradient through SiLU for the two,
    and read it twice. Here, on a GPU, each works it out for itself: two passes of seven less.
    """
    return nn.silu(affine(x, factor, offset))


@affine_silu.defjvp
def _(primals, tangents):
    x_dot, factor_dot, offset_dot = tangents
    again = _apart(*primals)
    through_x = _slope(*primals) * affine(x_dot, primals[1], jnp.zeros_like(offset_dot))
    through_factors = _slope(*again) * affine(again[0], factor_dot, offset_dot)
    return affine_silu(*primals), through_x + through_factors


def _slope(*primals):
    """Of SiLU at their affine."""
    y = affine(*primals)
    s = nn.sigmoid(y)
    return s * (1 + y * (1 - s))


def _apart(*values):
    """The values, for XLA on CUDA others: what is worked out from both is worked out twice. A CPU is slow at that."""
    others = lambda *v: tuple(jax.lax.optimization_barrier(v))
    return jax.lax.platform_dependent(*values, cuda=others, default=lambda *v: v)


class GroupNorm(nn.Module):
    """(x − mean)/√(variance + ε)·scale + bias, mean and variance of an image's group of channels (Wu and He 2018).

    Both are sums over pixels of each channel, put together for its group, and all factors are gathered in one scale and
    one shift of each channel of each image before they meet the image: it is read twice and written once, and the
    backward pass, once compiled, keeps nothing but x. Parameters are those of `flax.linen.GroupNorm`.

    Attributes:
        num_groups: that share the channels.
        dtype: of the result; the arithmetic is float32.
        last: what is done with x, scale and shift: `affine`, or `affine_silu`.
    """

    num_groups: int
    dtype: jnp.dtype = jnp.float32
    last: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] = affine

    @nn.compact
    def __call__(self, *parts: jax.Array, scale: jax.Array | None = None, shift: jax.Array | None = None) -> jax.Array:
        """Of x [B, ..., C], which may come in parts [B, ..., C_i]: they are put together as the result is written.

        With scale and shift [B, C], what is normalised is multiplied by 1 + scale and shifted by shift.
        """
        channels = channels_of(parts)
        own_scale = self.param("scale", nn.initializers.ones, (channels,))
        own_bias = self.param("bias", nn.initializers.zeros, (channels,))
        mean, variance = _moments(parts, self.num_groups)
        factor = own_scale[None] * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON)
        offset = own_bias[None] - mean * factor
        if scale is not None and shift is not None:
            factor, offset = factor * (1 + scale), offset * (1 + scale) + shift
        # Gradients of own_scale and own_bias are sums of these factors', not sums over the images again.
        factors = jax.lax.optimization_barrier(list(zip(cut_as(parts, factor), cut_as(parts, offset), strict=True)))
        results = [self.last(part, *own).astype(self.dtype) for part, own in zip(parts, factors, strict=True)]
        return jnp.concatenate(results, axis=-1) if len(results) > 1 else results[0]


def _moments(parts: Sequence[jax.Array], num_groups: int) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of the group of each channel: [B, C] each."""
    count = math.prod(parts[0].shape[1:-1]) * channels_of(parts) // num_groups
    of_parts = jax.lax.optimization_barrier([_sums(part) for part in parts])  # else each is read once for each sum
    sums, squares = (jnp.concatenate(each, axis=-1) for each in zip(*of_parts, strict=True))
    in_groups = lambda v: jax.lax.platform_dependent(
        v, cpu=partial(summed_by_product, num_groups), default=partial(summed_by_shape, num_groups)
    )
    mean = in_groups(sums) / count
    return mean, in_groups(squares) / count - jnp.square(mean)


def _sums(x):
    """Of the pixels of x, and of their squares: [B, C] each."""
    pixels, x = tuple(range(1, x.ndim - 1)), x.astype(jnp.float32)
    return jnp.sum(x, axis=pixels), jnp.sum(jnp.square(x), axis=pixels)


def summed_by_shape(num_groups: int, v: jax.Array) -> jax.Array:
    """For each channel of v [B, C] the sum of its group."""
    grouped = v.reshape(len(v), num_groups, -1)
    return jnp.broadcast_to(jnp.sum(grouped, axis=-1, keepdims=True), grouped.shape).reshape(v.shape)


def summed_by_product(num_groups: int, v: jax.Array) -> jax.Array:
    """The same, which XLA for a CPU does not fuse into the loops over pixels, to do it again for each of them."""
    channels = v.shape[-1]
    member = jnp.arange(channels)[:, None] // (channels // num_groups) == jnp.arange(num_groups)[None]
    member = member.astype(jnp.float32)  # [C, G], made here: as a constant it would be kept
    return jnp.matmul(jnp.matmul(v, member, precision="highest"), member.T, precision="highest")
