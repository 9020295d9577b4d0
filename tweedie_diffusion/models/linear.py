"""Linear maps in the precision of a network, whose biases have gradients of float32.

The gradient of a bias is a sum over every pixel of a batch. Layers of Flax sum in their own dtype, and the 8 bits of
bfloat16 lose most of it. Parameters are named as in `flax.linen`.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

Initializer = jax.nn.initializers.Initializer
_lecun = nn.initializers.lecun_normal()


def channels_of(parts: Sequence[jax.Array]) -> int:
    """ΣC_i of parts [..., C_i] of an image."""
    return sum(part.shape[-1] for part in parts)


def cut_as(parts: Sequence[jax.Array], v: jax.Array, axis: int = -1) -> list[jax.Array]:
    """v, cut along an axis into pieces as long as the parts have channels."""
    return jnp.split(v, [channels_of(parts[:i]) for i in range(1, len(parts))], axis)


def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [B, H, W, C] with zeros around it, and a kernel [h, w, C, C'] -> [B, H, W, C']."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


class Dense(nn.Module):
    """gain·(x·kernel + bias), of x [..., C], which may come in parts: they are never put together.

    Attributes:
        features: of the result.
        dtype: of the products and of the result.
        kernel_init: of the kernel [C, features].
        gain: multiplies kernel and bias, so that no image is.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = _lecun
    gain: float = 1.0

    @nn.compact
    def __call__(self, *parts: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (channels_of(parts), self.features), jnp.float32)
        kernels = cut_as(parts, (self.gain * kernel).astype(self.dtype), axis=0)
        first, *others = [part.astype(self.dtype) @ k for part, k in zip(parts, kernels, strict=True)]
        return _with_bias(self, sum(others, first))


class Conv(nn.Module):
    """gain·(x * kernel + bias), a convolution of 3×3 pixels of x [B, H, W, C].

    Attributes:
        features: of the result.
        dtype: of the products and of the result.
        kernel_init: of the kernel [3, 3, C, features].
        gain: multiplies kernel and bias, so that no image is.
        convolve: (x, kernel) -> [B, H', W', features].
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = _lecun
    gain: float = 1.0
    convolve: Callable[[jax.Array, jax.Array], jax.Array] = convolve

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features), jnp.float32)
        return _with_bias(self, self.convolve(x.astype(self.dtype), (self.gain * kernel).astype(self.dtype)))


def _with_bias(layer, y):
    bias = layer.gain * layer.param("bias", nn.initializers.zeros, (layer.features,), jnp.float32)
    return y + jnp.broadcast_to(bias, y.shape).astype(layer.dtype)  # in this order, its gradient is cast, then summed
