"""Group normalisation in as few passes over the images as there can be."""

import math
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

EPSILON = 1e-6


class GroupNorm(nn.Module):
    """(x − mean)/√(variance + ε)·scale + bias, mean and variance of an image's group of channels (Wu and He 2018).

    Both are sums over pixels of each channel, put together for its group, and all factors are gathered in one scale and
    one shift of each channel of each image before they meet the image: it is read twice and written once, and the
    backward pass keeps nothing but x. Parameters are those of `flax.linen.GroupNorm`.

    Attributes:
        num_groups: that share the channels.
        dtype: of the result; the arithmetic is float32.
    """

    num_groups: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | None = None, shift: jax.Array | None = None) -> jax.Array:
        """Of x [B, ..., C]; with scale and shift [B, C], the result is multiplied by 1 + scale and shifted by shift."""
        *size, channels = x.shape[1:]
        own_scale = self.param("scale", nn.initializers.ones, (channels,))
        own_bias = self.param("bias", nn.initializers.zeros, (channels,))
        pixels, x = tuple(range(1, x.ndim - 1)), x.astype(jnp.float32)

        # [C, G]: products, unlike a gather, are not done again for each pixel; made here, as a constant would be kept.
        member = jnp.arange(channels)[:, None] // (channels // self.num_groups) == jnp.arange(self.num_groups)[None]
        member = member.astype(jnp.float32)
        count = math.prod(size) * channels // self.num_groups
        product = partial(jnp.matmul, precision="highest")
        of_groups = lambda sums: product(product(sums, member), member.T) / count
        mean = of_groups(jnp.sum(x, axis=pixels))
        variance = of_groups(jnp.sum(jnp.square(x), axis=pixels)) - jnp.square(mean)
        factor = own_scale[None] * jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON)
        offset = own_bias[None] - mean * factor
        if scale is not None and shift is not None:
            factor, offset = factor * (1 + scale), offset * (1 + scale) + shift
        along = lambda v: jnp.expand_dims(v, pixels)
        return (x * along(factor) + along(offset)).astype(self.dtype)
