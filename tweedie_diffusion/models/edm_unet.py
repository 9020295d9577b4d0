"""The DDPM++ network of EDM as it was published, for weights that were trained elsewhere (Karras et al. 2022).

models/unet.py is what is trained here; it departs from this one in small ways, so that weights do not carry over.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tweedie_diffusion.models.linear import Conv, Dense
from tweedie_diffusion.models.scale_by_two import double, halve
from tweedie_diffusion.models.unet import KEPT, check_image_shape, convolve_after, groups, rematerialised

EMBEDDING = 4  # units of the embedding for each channel
_TINY, _FIFTH = 1e-10, 0.2  # of the variance of Glorot's uniform law: last layers of a block, and attention


def _initial(variance: float = 1.0):
    return nn.initializers.variance_scaling(variance, "fan_avg", "uniform")


def sines_first(c_noise: jax.Array, num_features: int) -> jax.Array:
    """[B] -> [B, num_features]: sines, then cosines, of c_noise at num_features/2 frequencies from 1 down to 10⁻⁴."""
    frequencies = 1e-4 ** jnp.linspace(0, 1, num_features // 2)
    angles = c_noise[:, None] * frequencies[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def _norm(x, name, dtype):
    """Groups of at least 4 channels, ε = 10⁻⁶; the variance is not a difference of moments, as in the original."""
    return nn.GroupNorm(groups(x.shape[-1]), epsilon=1e-6, use_fast_variance=False, dtype=dtype, name=name)(x)


class Mapping(nn.Module):
    """c_noise [B] and optional labels [B] -> [B, 4·channels]. Labels outside [0, num_classes), or none, add nothing."""

    channels: int
    num_classes: int = 0

    @nn.compact
    def __call__(self, c_noise, labels=None):
        dense = lambda width, name: nn.Dense(width, kernel_init=_initial(), name=name)
        embedded = sines_first(c_noise, self.channels)
        if self.num_classes:
            labels = jnp.full(c_noise.shape, -1) if labels is None else labels
            one_hot = jax.nn.one_hot(labels, self.num_classes)
            embedded = embedded + dense(self.channels, "label")(one_hot * math.sqrt(self.num_classes))
        elif labels is not None:
            raise ValueError("labels were given to a network without classes: set num_classes")
        embedded = nn.silu(dense(EMBEDDING * self.channels, "layer0")(embedded))
        return nn.silu(dense(EMBEDDING * self.channels, "layer1")(embedded))


class EDMBlock(nn.Module):
    """Residual block: x [B, H, W, C_in], embedding [B, E] -> [B, H', W', channels].

    Attributes:
        channels: of its output.
        resample: None, or the function applied to both branches (halve or double).
        attend: whether self-attention of one head follows.
        dropout: probability, between the convolutions.
    """

    channels: int
    resample: Callable[[jax.Array], jax.Array] | None = None
    attend: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, embedded, train: bool):
        conv = lambda name, variance, **kw: Conv(self.channels, self.dtype, _initial(variance), name=name, **kw)
        h = nn.silu(_norm(x, "norm0", self.dtype))
        h = conv("conv0", 1.0, convolve=convolve_after(self.resample))(h)
        h = checkpoint_name(h, KEPT)
        shift = nn.Dense(self.channels, kernel_init=_initial(), name="affine")(embedded)
        h = (h.astype(jnp.float32) + shift[:, None, None, :]).astype(self.dtype)
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(_norm(h, "norm1", self.dtype)))
        h = checkpoint_name(conv("conv1", _TINY)(h), KEPT)
        skip = self.resample(x) if self.resample else x
        if self.resample or x.shape[-1] != self.channels:
            skip = self._dense(self.channels, "skip")(skip)
        h = (h + skip) * math.sqrt(0.5)
        return (h + self._attended(h)) * math.sqrt(0.5) if self.attend else h

    def _attended(self, x):
        """What attention adds: queries, keys and values are every third channel."""
        b, height, width, c = x.shape
        qkv = self._dense(3 * c, "qkv", _FIFTH)(_norm(x, "norm2", self.dtype)).reshape(b, height * width, 1, c, 3)
        out = jax.nn.dot_product_attention(qkv[..., 0], qkv[..., 1], qkv[..., 2])
        return self._dense(c, "proj", _TINY)(out.reshape(x.shape))

    def _dense(self, width, name, variance=1.0):
        return Dense(width, self.dtype, _initial(variance), name=name)


class EDMUNet(nn.Module):
    """Network F(x [B, H, W, C_in], c_noise [B]) -> [B, H, W, C].

    Attributes:
        channels: at full resolution, at least 4.
        channel_multipliers: channels of each resolution over `channels`; each entry but the first halves the image.
        blocks_per_resolution: residual blocks on the way down (one more on the way up).
        attention_resolutions: image heights at which blocks attend; the first of the innermost always does.
        dropout: probability in every block.
        num_classes: 0, or the number of classes `labels` may name.
        dtype: of the images within (float32 or bfloat16); parameters, σ and sums over pixels are float32.
        remat: as of `UNet`.
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
        block_cls = rematerialised(EDMBlock) if self.remat else EDMBlock
        embedded = Mapping(self.channels, self.num_classes, name="map")(c_noise, labels)

        def block(h, channels, name, resample=None, attend=False):
            return block_cls(channels, resample, attend, self.dropout, self.dtype, name=name)(h, embedded, train)

        conv = lambda channels, variance, name: Conv(channels, self.dtype, _initial(variance), name=name)
        attends = lambda h: h.shape[1] in self.attention_resolutions
        widths = [self.channels * m for m in self.channel_multipliers]
        h = conv(self.channels, 1.0, "enc_0_conv")(x)
        skips = [h]
        for level, width in enumerate(widths):
            if level:
                h = block(h, h.shape[-1], f"enc_{level}_down", halve)
                skips.append(h)
            for i in range(self.blocks_per_resolution):
                h = block(h, width, f"enc_{level}_block{i}", attend=attends(h))
                skips.append(h)
        last = len(widths) - 1
        h = block(h, widths[-1], f"dec_{last}_in0", attend=True)
        h = block(h, widths[-1], f"dec_{last}_in1")
        for level, width in reversed(list(enumerate(widths))):
            if level < last:
                h = block(h, h.shape[-1], f"dec_{level}_up", double)
            for i in range(self.blocks_per_resolution + 1):
                attend = attends(h) and i == self.blocks_per_resolution
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), width, f"dec_{level}_block{i}", attend=attend)
        h = nn.silu(_norm(h, "dec_0_aux_norm", self.dtype))
        return conv(self.out_channels or x.shape[-1], _TINY, "dec_0_aux_conv")(h).astype(x.dtype)
