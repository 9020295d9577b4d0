"""The features of the Fréchet inception distance, of a local file of weights."""

from pathlib import Path

import numpy as np

from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.evaluation.network_weights import KnownFile, Weights, feature_set
from tweedie_diffusion.models.inception import FEATURES, inception_features, inception_shapes

EPSILON = 1e-3  # of the network's batch normalisation
PUBLISHED = ("6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", 95_628_359)
KNOWN = tuple(
    KnownFile(name, PUBLISHED[1], PUBLISHED[0], source)
    for name, source in (
        ("weights-inception-2015-12-05-6726825d.pth", "the release v0.2.0 of github.com/toshas/torch-fidelity"),
        ("pt_inception-2015-12-05-6726825d.pth", "the release fid_weights of github.com/mseitzer/pytorch-fid"),
    )
)


def open_inception(path: str | Path) -> FeatureSet:
    """The 2048 pooled features of the Inception-v3 of 2015-12-05, for the Fréchet and kernel inception distances.

    Images in [-1, 1] are rounded to 8 bits, resized to 299×299 as TensorFlow 1 does it (linear, first pixels aligned)
    and taken to (x − 128) / 128: as the graph does that the FID was defined with (Heusel et al., arXiv:1706.08500), and
    torch-fidelity. Their numbers are the ones to compare with. pytorch-fid has the same weights, but resizes with the
    centres aligned and takes 2x − 1: its numbers differ. Grey images become three equal channels.

    Args:
        path: `weights-inception-2015-12-05-6726825d.pth` of torch-fidelity, the same file as
            `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid, or its tensors in an .npz or .safetensors.

    Raises:
        InputError: if there is no such file, it is not what its name says, or not the tensors of this network.
    """
    weights = Weights(path, KNOWN)
    params = {name: _layer(weights, name, shapes) for name, shapes in inception_shapes().items()}
    weights.check_all_taken(lambda name: name.endswith(".bn.num_batches_tracked"))
    features = lambda params, images: inception_features(params, images)[0]
    return feature_set("Inception-v3 (2015-12-05), resized as TensorFlow 1", FEATURES, params, features)


def _layer(weights, name, shapes):
    """The parameters of a layer, or of a block of them."""
    if "kernel" not in shapes:
        return {inner: _layer(weights, f"{name}.{inner}", shapes[inner]) for inner in shapes}
    kernel, bias = shapes["kernel"].shape, shapes["bias"].shape
    if name == "fc":
        return {"kernel": weights.take_kernel("fc.weight", kernel), "bias": weights.take("fc.bias", bias)}
    kernel = weights.take_kernel(f"{name}.conv.weight", kernel)
    names = ("weight", "bias", "running_mean", "running_var")
    scale, shift, mean, variance = (weights.take(f"{name}.bn.{part}", bias).astype(np.float64) for part in names)
    return _folded(kernel, scale / np.sqrt(variance + EPSILON), shift, mean)


def _folded(kernel, gain, shift, mean):
    """gain · (k * x − mean) + shift = (gain · k) * x + (shift − gain · mean)."""
    return {"kernel": (kernel * gain).astype(np.float32), "bias": (shift - gain * mean).astype(np.float32)}
