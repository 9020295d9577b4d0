"""Inception-v3 as the Fréchet inception distance is measured by: the TensorFlow graph of 2015-12-05, for inference.

The network of Szegedy et al. (arXiv:1512.00567) with what is particular to that graph: 1008 classes, means over
neighbours that leave the padding out, and a maximum in their place in the last block. Layers have the names that
torchvision gave them. Each batch normalisation is part of the kernel and the bias of its convolution.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from tweedie_diffusion.models.resampling import resize_bilinear

SIDE, FEATURES, CLASSES = 299, 2048, 1008


class Inception(nn.Module):
    """x [B, H, W, 3] in [-1, 1], at least 75×75 -> features [B, 2048] of the last pool, and logits [B, 1008]."""

    @nn.compact
    def __call__(self, x) -> tuple[jax.Array, jax.Array]:
        x = _layers(x, ("Conv2d_1a_3x3", 32, 3, 2), ("Conv2d_2a_3x3", 32, 3, 1), ("Conv2d_2b_3x3", 64, 3))
        x = _layers(_halved(x), ("Conv2d_3b_1x1", 80, 1), ("Conv2d_4a_3x3", 192, 3, 1))
        x = _halved(x)
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = BlockA(pooled, name=name)(x)
        x = BlockB(name="Mixed_6a")(x)
        for name, channels in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = BlockC(channels, name=name)(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(_neighbours_mean, name="Mixed_7b")(x)
        x = BlockE(_neighbours_max, name="Mixed_7c")(x)
        features = jnp.mean(x, axis=(1, 2))
        return features, nn.Dense(CLASSES, name="fc")(features)


class BlockA(nn.Module):
    """1×1, 5×5 and two 3×3 convolutions side by side, and `pooled` channels of the neighbours' mean."""

    pooled: int

    @nn.compact
    def __call__(self, x) -> jax.Array:
        return _side_by_side(
            _layers(x, ("branch1x1", 64, 1)),
            _layers(x, ("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)),
            _layers(x, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)),
            _layers(_neighbours_mean(x), ("branch_pool", self.pooled, 1)),
        )


class BlockB(nn.Module):
    """Half the side, by one and by two 3×3 convolutions and by a maximum."""

    @nn.compact
    def __call__(self, x) -> jax.Array:
        return _side_by_side(
            _layers(x, ("branch3x3", 384, 3, 2)),
            _layers(x, ("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)),
            _halved(x),
        )


class BlockC(nn.Module):
    """One and two 7×7 convolutions in rows and columns, of `channels` inside."""

    channels: int

    @nn.compact
    def __call__(self, x) -> jax.Array:
        inside, row, column = self.channels, (1, 7), (7, 1)
        once = (("branch7x7_1", inside, 1), ("branch7x7_2", inside, row), ("branch7x7_3", 192, column))
        twice = (
            ("branch7x7dbl_1", inside, 1),
            ("branch7x7dbl_2", inside, column),
            ("branch7x7dbl_3", inside, row),
            ("branch7x7dbl_4", inside, column),
            ("branch7x7dbl_5", 192, row),
        )
        return _side_by_side(
            _layers(x, ("branch1x1", 192, 1)),
            _layers(x, *once),
            _layers(x, *twice),
            _layers(_neighbours_mean(x), ("branch_pool", 192, 1)),
        )


class BlockD(nn.Module):
    """Half the side, by a 3×3 convolution, by a 7×7 one in rows and columns before it, and by a maximum."""

    @nn.compact
    def __call__(self, x) -> jax.Array:
        seven = (("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)))
        return _side_by_side(
            _layers(x, ("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)),
            _layers(x, *seven, ("branch7x7x3_4", 192, 3, 2)),
            _halved(x),
        )


class BlockE(nn.Module):
    """3×3 convolutions that end in a row and a column side by side; `pool` is what is taken of the neighbours."""

    pool: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x) -> jax.Array:
        once = _layers(x, ("branch3x3_1", 384, 1))
        twice = _layers(x, ("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3))
        return _side_by_side(
            _layers(x, ("branch1x1", 320, 1)),
            _layers(once, ("branch3x3_2a", 384, (1, 3))),
            _layers(once, ("branch3x3_2b", 384, (3, 1))),
            _layers(twice, ("branch3x3dbl_3a", 384, (1, 3))),
            _layers(twice, ("branch3x3dbl_3b", 384, (3, 1))),
            _layers(self.pool(x), ("branch_pool", 192, 1)),
        )


def inception_features(params, images: jax.Array):
    """Features [B, 2048] and logits [B, 1008] of images [B, H, W, 3] of 8-bit values 0 … 255.

    The images are resized to 299×299 as TensorFlow 1 does it and taken to (x − 128) / 128, as in the graph itself and
    in torch-fidelity. Everything is computed in float32, on accelerators too.
    """
    with jax.default_matmul_precision("highest"):
        return Inception().apply({"params": params}, (resize_bilinear(images, SIDE) - 128) / 128)


@functools.cache
def inception_shapes():
    """The parameters by layer, as shapes: {layer: {…: {"kernel": [H, W, in, out], "bias": [out]}}}."""
    return jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]


def _layers(x, *layers):
    """Convolutions, one after the other: (name, channels, kernel). With a stride as a fourth they have no padding."""
    for name, channels, kernel, *stride in layers:
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        convolution = nn.Conv(
            channels, kernel, strides=stride[0] if stride else 1, padding="VALID" if stride else "SAME", name=name
        )
        x = nn.relu(convolution(x))
    return x


def _side_by_side(*branches):
    return jnp.concatenate(branches, axis=-1)


def _halved(x):
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _neighbours_mean(x):
    return nn.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=False)


def _neighbours_max(x):
    return nn.max_pool(x, (3, 3), strides=(1, 1), padding="SAME")
