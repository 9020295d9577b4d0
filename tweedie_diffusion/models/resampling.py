"""Resizing of images as the feature networks' reference implementations do it, one matrix an axis."""

import jax
import jax.numpy as jnp
import numpy as np

KEYS, SHARP = -0.5, -0.75  # a of the cubic kernel (Keys 1981): of Pillow, and of PyTorch without antialiasing


def eight_bits(x: jax.Array) -> jax.Array:
    """Images in [-1, 1] as the whole numbers 0 … 255 that an 8-bit file of them would hold."""
    return jnp.rint(jnp.clip((x + 1) * 127.5, 0, 255))


def resample(x: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """x [..., H, W, C] with `rows` [H', H] applied to H and `columns` [W', W] to W -> [..., H', W', C]."""
    x = jnp.einsum("ow,...hwc->...hoc", columns.astype(np.float32), x, precision="highest")
    return jnp.einsum("oh,...hwc->...owc", rows.astype(np.float32), x, precision="highest")


def resize_bilinear(x: jax.Array, side: int) -> jax.Array:
    """[..., H, W, C] -> [..., side, side, C] as TensorFlow 1: linear interpolation, first pixels aligned."""
    return resample(x, bilinear_matrix(x.shape[-3], side), bilinear_matrix(x.shape[-2], side))


def resize_bicubic(x: jax.Array, side: int) -> jax.Array:
    """[..., H, W, C] of 8-bit values 0 … 255 -> [..., side, side, C] as Pillow: along W, rounded, along H, rounded."""
    rounded = lambda x: jnp.clip(jnp.floor(x + 0.5), 0, 255)
    height, width = x.shape[-3:-1]
    x = rounded(resample(x, np.eye(height), smooth_cubic_matrix(width, side)))
    return rounded(resample(x, smooth_cubic_matrix(height, side), np.eye(side)))


def bilinear_matrix(size: int, new_size: int) -> np.ndarray:
    """[new_size, size]: linear interpolation at i · size / new_size, as TensorFlow 1 resizes.

    The first pixels coincide, not the centres of the images: `align_corners=False`, without half-pixel centres.
    """
    at = np.arange(new_size, dtype=np.float32) * np.float32(size / new_size)
    low = np.floor(at).astype(int)
    return _scattered(np.stack([low, low + 1], 1), np.stack([1 - (at - low), at - low], 1), size)


def cubic_matrix(size: int, new_size: int, *, scale: float) -> np.ndarray:
    """[new_size, size]: cubic convolution with a = −3/4 at (i + ½) / scale − ½, as PyTorch without antialiasing.

    Beyond the ends the end pixels are repeated. `scale` is new_size / size or, as DINOv2 has it, a little more.
    """
    at = (np.arange(new_size) + 0.5) / scale - 0.5
    taps = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
    return _scattered(taps, _cubic(at[:, None] - taps, SHARP), size)


def smooth_cubic_matrix(size: int, new_size: int) -> np.ndarray:
    """[new_size, size]: cubic convolution with a = −½, wider where the image shrinks, as Pillow's BICUBIC.

    Beyond the ends there is nothing: weights are normalised over the pixels that are there.
    """
    wide = max(size / new_size, 1.0)
    at = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    weights = _cubic((at[:, None] - np.arange(size)) / wide, KEYS)
    return weights / weights.sum(axis=1, keepdims=True)


def _cubic(t, a):
    """The kernel of Keys (1981, equation 4) with a free a: 1 at 0, 0 at ±1 and from ±2 on."""
    t = np.abs(t)
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t < 1, near, np.where(t < 2, far, 0.0))


def _scattered(taps, weights, size):
    """A matrix of rows with `weights` [N, K] at the columns `taps` [N, K], those outside moved to the ends."""
    matrix = np.zeros((len(taps), size))
    np.add.at(matrix, (np.arange(len(taps))[:, None], np.clip(taps, 0, size - 1)), weights)
    return matrix
