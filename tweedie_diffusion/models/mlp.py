"""A residual perceptron for vectors."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tweedie_diffusion.models.embedding import ConditionEmbedding


class MLP(nn.Module):
    """Network F(x [B, D], c_noise [B]) -> [B, D]: `depth` residual layers of `width` units.

    Attributes:
        width: hidden units.
        depth: hidden layers.
        num_classes: 0, or the number of classes `labels` may name.
        dtype: of the computation; parameters are float32.
    """

    width: int = 128
    depth: int = 3
    num_classes: int = 0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, c_noise, labels=None, *, train: bool = False) -> jax.Array:
        if x.ndim != 2:
            raise ValueError(f"MLP takes vectors [B, D] (got shape {x.shape}): use the U-Net for images")
        embedded = ConditionEmbedding(self.width, self.num_classes, self.dtype)(c_noise, labels)
        h = nn.Dense(self.width, dtype=self.dtype)(x.astype(self.dtype))
        for _ in range(self.depth):
            shift = nn.Dense(self.width, dtype=self.dtype)(embedded)
            h = h + nn.Dense(self.width, dtype=self.dtype)(nn.silu(nn.LayerNorm(dtype=self.dtype)(h) + shift))
        out = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=nn.initializers.zeros)(nn.silu(h))
        return out.astype(x.dtype)
