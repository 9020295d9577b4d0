"""The features of a classifier trained on one's own images, in a .safetensors file."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.models.classifier import LEAST_SIDE, Classifier, check_size

ABOUT = "tweedie_diffusion classifier"  # the one entry of the metadata, JSON: their order would not be kept


def write_classifier(path: Path, params: dict, about: dict[str, Any]) -> None:
    """Write the weights of a `Classifier`, and what is known of it, whole or not at all.

    Args:
        path: .safetensors.
        params: of flax.
        about: for JSON; at least the attributes of the network, and image_channels.
    """
    tensors = {name: np.asarray(array) for name, array in _named(params).items()}
    with whole(path) as (unfinished,):
        unfinished.write_bytes(save(tensors, {ABOUT: json.dumps(about, sort_keys=True)}))


def read_classifier(path: Path) -> tuple[Classifier, dict, dict[str, Any]]:
    """The network, its weights, and what is known of it.

    Raises:
        InputError: if it is no such file, or its weights do not fit the network.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})[ABOUT])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — no mapping
        network = Classifier(*(int(about[name]) for name in ("num_classes", "halvings", "channels", "size")))
        side = max(LEAST_SIDE, 4 << network.halvings)
        image = jax.ShapeDtypeStruct((1, side, side, int(about["image_channels"])), jnp.float32)
        shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    except (OSError, SafetensorError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise InputError(
            f"{path} is no classifier that can be read ({error}): "
            "make one with python -m tweedie_diffusion.train_features"
        ) from error
    return network, _fitted(shapes, tensors, path), about


def open_classifier(path: Path) -> FeatureSet:
    """The last hidden layer of the classifier in a file.

    Raises:
        InputError: as `read_classifier`.
    """
    network, params, about = read_classifier(path)
    compiled = jax.jit(lambda params, x: network.apply({"params": params}, x)[1])

    def function(x):
        channels = about["image_channels"]
        if x.ndim != 4 or x.shape[-1] != channels:
            raise InputError(f"the classifier takes images of {channels} channels (got {list(x.shape[1:])})")
        try:
            check_size(x.shape[1:], network.halvings)
        except ValueError as error:
            raise InputError(str(error)) from error
        return compiled(params, jnp.asarray(x, jnp.float32))

    parts = (part for name, array in sorted(_named(params).items()) for part in (name, array))
    return FeatureSet(f"classifier {path.stem}", network.size, fingerprint(parts), function)


def _named(params) -> dict[str, Any]:
    """{"Conv_0/kernel": leaf, …}."""
    return {_name(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(params)}


def _name(keys):
    return "/".join(key.key for key in keys)


def _fitted(shapes, tensors, path):
    """The tensors as a tree like `shapes`."""
    expected = {name: (leaf.shape, leaf.dtype) for name, leaf in _named(shapes).items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} != expected:
        raise InputError(f"{path} does not hold the weights of its network: train it anew")
    return jax.tree_util.tree_map_with_path(lambda keys, _: tensors[_name(keys)], shapes)
