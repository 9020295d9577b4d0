"""How a noise level and a class label reach a network."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


def sinusoids(c_noise: jax.Array, num_features: int) -> jax.Array:
    """[B] -> [B, num_features]: cosines and sines of 4·c_noise at geometric frequencies, 1 and below (EDM).

    4·c_noise is ln σ, so that one radian of the fastest is a factor e of σ: levels nearby are treated alike, and what
    is learned above the data's noise goes on smoothly below it. Faster frequencies tell every level apart and carry
    nothing over: on the 2-D mixture they make ADSM's errors below σ_tn larger.
    """
    half = num_features // 2
    frequencies = jnp.exp(-math.log(10_000) * jnp.arange(half) / half)
    angles = 4 * c_noise[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class ConditionEmbedding(nn.Module):
    """c_noise [B] and optional labels [B] -> one vector [B, num_features] that every block reads.

    Float32, whatever the network's dtype: 8 bits of bfloat16 would blur σ.

    Label `num_classes` (one past the last) means "no class"; absent labels read as that.
    """

    num_features: int
    num_classes: int = 0

    @nn.compact
    def __call__(self, c_noise: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        embedded = nn.Dense(self.num_features)(sinusoids(c_noise, self.num_features))
        if self.num_classes:
            no_class = jnp.full(c_noise.shape, self.num_classes)
            table = nn.Embed(self.num_classes + 1, self.num_features)
            embedded = embedded + table(no_class if labels is None else labels)
        elif labels is not None:
            raise ValueError("labels were given to a network without classes: set num_classes")
        return nn.silu(nn.Dense(self.num_features)(nn.silu(embedded)))
