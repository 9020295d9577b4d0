"""The vision transformer of DINOv2 (Oquab et al., arXiv:2304.07193), for inference.

Layers have the names of its published weights. With registers as in Darcet et al. (arXiv:2309.16588).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.models.resampling import cubic_matrix, resample, resize_bicubic, smooth_cubic_matrix

PATCH, HEAD = 14, 64  # pixels of a side of a patch; width of an attention head, in all sizes
SIDE = 224  # pixels of an image
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the channels of ImageNet
OFFSET = 0.1  # patches that the position embedding is stretched by beside what it should be; kept for the weights


class VisionTransformer(nn.Module):
    """x [B, H, W, 3], normalised, sides multiples of 14 -> the class token after the last norm, [B, width].

    Attributes:
        width: of a token, a multiple of 64.
        depth: blocks.
        hidden: units inside a block's perceptron.
        gated: whether that perceptron is a gated one (SwiGLU), as in the largest size.
        grid: patches of a side that the position embedding was learned for.
        registers: tokens without a place.
    """

    width: int
    depth: int
    hidden: int
    gated: bool = False
    grid: int = 37
    registers: int = 0

    @nn.compact
    def __call__(self, x) -> jax.Array:
        token = lambda name, count: self.param(name, nn.initializers.zeros, (1, count, self.width))
        patches = nn.Conv(self.width, (PATCH, PATCH), strides=PATCH, padding="VALID", name="patch_embed.proj")(x)
        batch, rows, columns = patches.shape[:3]
        place = token("pos_embed", 1 + self.grid**2)
        patches = patches + self._places(place[:, 1:], rows, columns)
        first = token("cls_token", 1) + place[:, :1]
        if self.registers:
            first = jnp.concatenate([first, token("register_tokens", self.registers)], axis=1)
        first = jnp.broadcast_to(first, (batch, *first.shape[1:]))
        x = jnp.concatenate([first, patches.reshape(batch, rows * columns, self.width)], axis=1)
        for i in range(self.depth):
            x = Block(self.hidden, self.gated, name=f"blocks.{i}")(x)
        return _norm("norm")(x)[:, 0]

    def _places(self, place, rows, columns):
        """[1, rows, columns, width]: the position embedding for another grid, as the weights were evaluated with."""
        place = place.reshape(1, self.grid, self.grid, self.width)
        if (rows, columns) == (self.grid, self.grid):
            return place
        stretched = lambda count: cubic_matrix(self.grid, count, scale=(count + OFFSET) / self.grid)
        matrix = (lambda count: smooth_cubic_matrix(self.grid, count)) if self.registers else stretched
        return resample(place, matrix(rows), matrix(columns))


class Block(nn.Module):
    """x + γ₁ · attention(norm(x)), and the same with a perceptron; γ are learned (LayerScale)."""

    hidden: int
    gated: bool

    @nn.compact
    def __call__(self, x) -> jax.Array:
        width = x.shape[-1]
        scale = lambda name: self.param(name, nn.initializers.ones, (width,))[None, None]
        q, k, v = jnp.split(nn.Dense(3 * width, name="attn.qkv")(_norm("norm1")(x)), 3, axis=-1)
        heads = lambda x: x.reshape(*x.shape[:2], width // HEAD, HEAD)
        seen = jax.nn.dot_product_attention(heads(q), heads(k), heads(v)).reshape(x.shape)
        x = x + scale("ls1.gamma") * nn.Dense(width, name="attn.proj")(seen)
        return x + scale("ls2.gamma") * self._perceptron(_norm("norm2")(x))

    def _perceptron(self, x):
        if self.gated:
            gate, value = jnp.split(nn.Dense(2 * self.hidden, name="mlp.w12")(x), 2, axis=-1)
            return nn.Dense(x.shape[-1], name="mlp.w3")(nn.silu(gate) * value)
        h = nn.gelu(nn.Dense(self.hidden, name="mlp.fc1")(x), approximate=False)
        return nn.Dense(x.shape[-1], name="mlp.fc2")(h)


def dinov2_features(network: VisionTransformer, params, images: jax.Array):
    """Class tokens [B, width] of images [B, H, W, 3] of 8-bit values 0 … 255, resized to 224×224 as Pillow does it.

    Everything is computed in float32, on accelerators too.
    """
    mean, std = (np.reshape(np.array(v, np.float32), (1, 1, 1, 3)) for v in (MEAN, STD))
    with jax.default_matmul_precision("highest"):
        return network.apply({"params": params}, (resize_bicubic(images, SIDE) / 255 - mean) / std)


def dinov2_shapes(network: VisionTransformer):
    """The parameters by layer, as shapes: {name: shape}, or {layer: {"kernel": …, "bias": …}}, or {block: {…}}."""
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]


def _norm(name):
    return nn.LayerNorm(epsilon=1e-6, use_fast_variance=False, name=name)
