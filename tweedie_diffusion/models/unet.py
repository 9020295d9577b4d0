"""The U-Net of EDM (DDPM++ blocks: Song et al. 2021; Karras et al. 2022), for images of any channel count.

One departure: the embedding scales and shifts each block, as in ADM, where DDPM++ only shifts; 8 % more weights.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tweedie_diffusion.models.embedding import ConditionEmbedding
from tweedie_diffusion.models.linear import Conv, Dense, channels_of, convolve
from tweedie_diffusion.models.normalization import GroupNorm, affine_silu
from tweedie_diffusion.models.scale_by_two import convolve_doubled, double, halve

KEPT = "convolution"  # what remat keeps of a block
ROOT_HALF = math.sqrt(0.5)  # the sum of two images has the variance of one
_zeros = nn.initializers.zeros


def groups(channels: int) -> int:
    """At most 32 groups of at least 4 channels, as in EDM."""
    return math.gcd(min(32, max(channels // 4, 1)), channels)


def convolve_after(resample):
    """(x, kernel) -> the convolution of resample(x): if that doubles, at less than half of its cost."""
    if resample is double:
        return convolve_doubled
    return (lambda x, kernel: convolve(resample(x), kernel)) if resample else convolve


class Attention(nn.Module):
    """Residual self-attention over all pixels: x [B, H, W, C] -> [B, H, W, C]."""

    channels_per_head: int = 64
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        b, height, width, c = x.shape
        heads = max(n for n in range(1, max(c // self.channels_per_head, 1) + 1) if c % n == 0)
        h = GroupNorm(groups(c), self.dtype)(x).reshape(b, height * width, c)
        qkv = Dense(3 * c, self.dtype)(h).reshape(b, height * width, 3, heads, c // heads)
        out = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        out = Dense(c, self.dtype, _zeros, ROOT_HALF)(out.reshape(b, height * width, c))
        return out.reshape(x.shape) + ROOT_HALF * x


class Block(nn.Module):
    """Residual block: norm, SiLU, 3×3 convolution, modulated by the embedding, twice; resampled before the first.

    Attributes:
        channels: of its output.
        resample: None, or the function applied to both branches (halve or double).
        attend: whether self-attention follows.
        dropout: probability, between the convolutions.
    """

    channels: int
    resample: Callable[[jax.Array], jax.Array] | None = None
    attend: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, parts, embedded, train: bool):
        """Of an image in parts [B, H, W, C_i], embedded [B, E] -> [B, H', W', channels]."""
        channels = channels_of(parts)
        kept = lambda v: checkpoint_name(v, KEPT)
        h = GroupNorm(groups(channels), self.dtype, affine_silu, name="norm_in")(*parts)
        h = kept(Conv(self.channels, self.dtype, convolve=convolve_after(self.resample), name="conv_in")(h))
        scale, shift = jnp.split(Dense(2 * self.channels, name="modulation")(embedded), 2, axis=-1)
        h = GroupNorm(groups(self.channels), self.dtype, affine_silu, name="norm_out")(h, scale=scale, shift=shift)
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = kept(Conv(self.channels, self.dtype, _zeros, ROOT_HALF, name="conv_out")(h))
        skip = [self.resample(part) for part in parts] if self.resample else parts
        if channels == self.channels and len(skip) == 1:
            h = h + ROOT_HALF * skip[0]
        else:
            h = h + Dense(self.channels, self.dtype, gain=ROOT_HALF, name="skip")(*skip)
        return Attention(dtype=self.dtype, name="attention")(h) if self.attend else h


def rematerialised(block: type[nn.Module]) -> type[nn.Module]:
    """A block that keeps its convolutions' results alone for the backward pass, and computes all else again."""
    return nn.remat(block, static_argnums=(3,), policy=jax.checkpoint_policies.save_only_these_names(KEPT))


class UNet(nn.Module):
    """Network F(x [B, H, W, C_in], c_noise [B]) -> [B, H, W, C].

    Attributes:
        channels: at full resolution.
        channel_multipliers: channels of each resolution over `channels`; each entry but the first halves the image,
            so H and W must be divisible by 2^(entries − 1).
        blocks_per_resolution: residual blocks on the way down (one more on the way up).
        attention_resolutions: image heights at which blocks attend; the innermost always does when non-empty.
        dropout: probability in every block.
        num_classes: 0, or the number of classes `labels` may name.
        dtype: of the images within (float32 or bfloat16); parameters, σ and all sums over pixels are float32.
        remat: keep only what convolutions give, and compute the rest of each block again in the backward pass: a fifth
            of the memory, without another convolution.
        out_channels: C; 0 for as many as x has.
    """

    channels: int = 128
    channel_multipliers: Sequence[int] = (2, 2, 2)
    blocks_per_resolution: int = 4
    attention_resolutions: Sequence[int] = (16,)
    dropout: float = 0.0
    num_classes: int = 0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False
    out_channels: int = 0

    @nn.compact
    def __call__(self, x, c_noise, labels=None, *, train: bool = False):
        check_image_shape(x.shape[1:], len(self.channel_multipliers))
        block_cls = rematerialised(Block) if self.remat else Block

        def block(parts, channels, name, resample=None, attend=None):
            attend = resample is None and parts[0].shape[1] in self.attention_resolutions if attend is None else attend
            return block_cls(channels, resample, attend, self.dropout, self.dtype, name=name)(parts, embedded, train)

        embedded = ConditionEmbedding(4 * self.channels, self.num_classes, name="condition")(c_noise, labels)
        h = Conv(self.channels, self.dtype, name="conv_in")(x)
        skips = [h]
        widths = [self.channels * m for m in self.channel_multipliers]
        for level, width in enumerate(widths):
            if level:
                h = block([h], h.shape[-1], f"down_{level}_halve", halve)
                skips.append(h)
            for i in range(self.blocks_per_resolution):
                h = block([h], width, f"down_{level}_{i}")
                skips.append(h)
        h = block([h], widths[-1], "middle_0", attend=bool(self.attention_resolutions))
        h = block([h], widths[-1], "middle_1", attend=False)
        for level, width in reversed(list(enumerate(widths))):
            for i in range(self.blocks_per_resolution + 1):
                attend = None if i == self.blocks_per_resolution else False  # as in EDM, once a resolution going up
                h = block([h, skips.pop()], width, f"up_{level}_{i}", attend=attend)
            if level:
                h = block([h], width, f"up_{level}_double", double)
        h = GroupNorm(groups(h.shape[-1]), self.dtype, affine_silu, name="norm_out")(h)
        out = Conv(self.out_channels or x.shape[-1], self.dtype, _zeros, name="conv_out")(h)
        return out.astype(x.dtype)


def check_image_shape(shape: Sequence[int], num_resolutions: int) -> None:
    """Raise ValueError unless `shape` is [H, W, C] and can be halved num_resolutions − 1 times."""
    if len(shape) != 3:
        raise ValueError(f"the U-Net takes images [H, W, C] (got shape {tuple(shape)}): use the MLP for vectors")
    factor = 2 ** (num_resolutions - 1)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"images of {shape[0]}×{shape[1]} cannot be halved {num_resolutions - 1} times: "
            f"crop or pad them to a multiple of {factor}, or shorten model.channel_multipliers"
        )
