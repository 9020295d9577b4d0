"""Images halved and doubled in size, and the convolution of doubled ones at less than half of its cost."""

import flax.linen as nn
import jax
import jax.numpy as jnp


def halve(x: jax.Array) -> jax.Array:
    """The mean of every 2×2 pixels: [B, 2H, 2W, C] -> [B, H, W, C]."""
    return jax.lax.platform_dependent(x, cuda=halved_by_shape, default=halved_by_window)


def halved_by_window(x: jax.Array) -> jax.Array:
    """The faster on a CPU."""
    return nn.avg_pool(x, (2, 2), (2, 2))


def halved_by_shape(x: jax.Array) -> jax.Array:
    """The same, whose gradient XLA for CUDA fuses with what follows: that of windows is a sum of windows again."""
    b, height, width, channels = x.shape
    return jnp.mean(x.reshape(b, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def double(x: jax.Array) -> jax.Array:
    """Every pixel as 2×2: [B, H, W, C] -> [B, 2H, 2W, C]."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def convolve_doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The convolution of double(x) with a 3×3 kernel, zeros around it, as four of x with 2×2: 4/9 of the products.

    Of three pixels in a row, two are copies of one, so that their taps are added first: the last two for an even pixel,
    the first two for an odd one. In bfloat16 these sums are rounded once more.

    Args:
        x: [B, H, W, C].
        kernel: [3, 3, C, C'].

    Returns:
        [B, 2H, 2W, C'].
    """
    layout = ("NHWC", "HWIO", "NHWC")
    rows = []
    for taps, vertical in _even_and_odd(kernel, 0):
        row = [
            jax.lax.conv_general_dilated(x, block, (1, 1), (vertical, horizontal), dimension_numbers=layout)
            for block, horizontal in _even_and_odd(taps, 1)
        ]
        rows.append(jnp.stack(row, axis=3))
    b, height, width, _ = x.shape
    return jnp.stack(rows, axis=2).reshape(b, 2 * height, 2 * width, -1)


def _even_and_odd(kernel, axis):
    """The two taps of even output pixels along an axis, and of odd ones, each with its padding (before, after)."""
    first, middle, last = jnp.split(kernel, 3, axis)
    even, odd = (first, middle + last), (first + middle, last)
    return (jnp.concatenate(even, axis), (1, 0)), (jnp.concatenate(odd, axis), (0, 1))
