"""A residual perceptron for vectors."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from tweedie_diffusion.models.embedding import ConditionEmbedding
from tweedie_diffusion.models.linear import Dense


class MLP(nn.Module):
    """Network F(x [B, D], c_noise [B]) -> [B, out_features]: `depth` residual layers of `width` units.

    Every layer is scaled and shifted by the noise level and the class (FiLM).

    Attributes:
        width: hidden units.
        depth: hidden layers.
        num_classes: 0, or the number of classes `labels` may name.
        dtype: of the computation; parameters are float32.
        fourier_features: of the input beside x itself: cos(w·x) and sin(w·x) with that many fixed w, for data whose
            detail is finer than a perceptron learns in few steps (Tancik et al. 2020). 0 for none.
        fourier_scale: each entry of w is N(0, fourier_scale²).
        out_features: 0 for as many as x has.
    """

    width: int = 128
    depth: int = 3
    num_classes: int = 0
    dtype: jnp.dtype = jnp.float32
    fourier_features: int = 0
    fourier_scale: float = 1.0
    out_features: int = 0

    @nn.compact
    def __call__(self, x, c_noise, labels=None, *, train: bool = False) -> jax.Array:
        if x.ndim != 2:
            raise ValueError(f"MLP takes vectors [B, D] (got shape {x.shape}): use the U-Net for images")
        embedded = ConditionEmbedding(self.width, self.num_classes)(c_noise, labels)
        features = x
        if self.fourier_features:
            shape = (x.shape[-1], self.fourier_features)
            angles = x @ (self.fourier_scale * jax.random.normal(jax.random.key(0), shape))
            features = jnp.concatenate([x, jnp.cos(angles), jnp.sin(angles)], axis=-1)
        h = Dense(self.width, self.dtype)(features)
        for _ in range(self.depth):
            scale = Dense(self.width, self.dtype, nn.initializers.zeros)(embedded)
            shift = Dense(self.width, self.dtype)(embedded)
            normal = nn.LayerNorm(dtype=self.dtype)(h) * (1 + scale)
            h = h + Dense(self.width, self.dtype)(nn.silu(normal + shift))
        out = Dense(self.out_features or x.shape[-1], self.dtype, nn.initializers.zeros)(nn.silu(h))
        return out.astype(x.dtype)
