"""The features of DINOv2, of a local file of weights."""

import functools
import itertools
import math
from pathlib import Path

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.evaluation.network_weights import KnownFile, Weights, feature_set
from tweedie_diffusion.models.vision_transformer import HEAD, PATCH, VisionTransformer, dinov2_features, dinov2_shapes

KNOWN = tuple(
    KnownFile(f"dinov2_vit{size}14_pretrain.pth", bytes_, sha256, "the table in the README of facebookresearch/dinov2")
    for size, bytes_, sha256 in (
        ("s", 88_283_115, "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9"),
        ("b", 346_378_731, "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73"),
        ("l", 1_217_586_395, "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"),
        ("g", 4_546_108_579, "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3"),
    )
)
SIZES = {384: "S", 768: "B", 1024: "L", 1536: "g"}  # by width
RENAMED = {"kernel": "weight", "scale": "weight", "bias": "bias"}  # flax's names of what is in a layer


def open_dinov2(path: str | Path) -> FeatureSet:
    """The class token of DINOv2 (Oquab et al., arXiv:2304.07193), by which memorised images are found.

    Images in [-1, 1] are rounded to 8 bits, resized to 224×224 by Pillow's bicubic filter, which averages where it
    shrinks, and normalised by the mean and deviation of ImageNet: the treatment of Stein et al. (arXiv:2306.04675),
    who use the size L. Grey images become three equal channels.

    Args:
        path: `dinov2_vit{s,b,l,g}14_pretrain.pth`, one `…_reg4_pretrain.pth`, or its tensors in an .npz or
            .safetensors. The size is read from the tensors.

    Raises:
        InputError: if there is no such file, it is not what its name says, or not the tensors of such a network.
    """
    weights = Weights(path, KNOWN)
    network = _network(weights)
    params = _layers(weights, "", dinov2_shapes(network))
    weights.check_all_taken(lambda name: name == "mask_token")  # of training alone
    size = f"ViT-{SIZES[network.width]}/14" if network.width in SIZES else f"of width {network.width}"
    name = f"DINOv2 {size}{' with registers' * bool(network.registers)}, resized as Pillow"
    return feature_set(name, network.width, params, functools.partial(dinov2_features, network))


def _network(weights):
    """The network that the tensors are of, by their shapes."""
    _, places, width = weights.shape("pos_embed", 3)
    grid = math.isqrt(max(places - 1, 0))
    if grid**2 != places - 1 or width % HEAD or weights.shape("patch_embed.proj.weight", 4)[2:] != (PATCH, PATCH):
        raise InputError(f"{weights.path} is of another network: see `pos_embed` and `patch_embed.proj.weight`")
    depth = next(i for i in itertools.count() if f"blocks.{i}.norm1.weight" not in weights)
    gated = "blocks.0.mlp.w12.weight" in weights
    hidden = weights.shape(f"blocks.0.mlp.{'w3' if gated else 'fc2'}.weight", 2)[1]
    registers = weights.shape("register_tokens", 3)[1] if "register_tokens" in weights else 0
    return VisionTransformer(width, depth, hidden, gated, grid, registers)


def _layers(weights, prefix, shapes):
    """The tree of `shapes`, filled; `blocks.0` / `attn.qkv` / `kernel` is the tensor blocks.0.attn.qkv.weight."""
    params = {}
    for name, inner in shapes.items():
        if hasattr(inner, "items"):
            params[name] = _layers(weights, f"{prefix}{name}.", inner)
        else:
            take = weights.take_kernel if name == "kernel" else weights.take
            params[name] = take(prefix + RENAMED.get(name, name), inner.shape)
    return params
