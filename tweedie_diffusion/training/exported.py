"""A model in one file: its weights, and its mixture if it has one, as safetensors, with their SHA-256 in the header."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.models.patch_mixture import PatchMixture
from tweedie_diffusion.training.checkpoints import directory

# An exported folder:
WEIGHTS = "model.safetensors"  # params/MODULE/…/kernel and patch_mixture/means: arrays by name
MEASURED = ("denoising_curve.json", "evaluation.json")  # if the run has them
CARD = "README.md"
FILES = (WEIGHTS, "config.json", "data.json", CARD, *MEASURED)  # the other two as in a workdir

SEAL = "tweedie_diffusion"  # the only metadata of the file, as several have no order of their own
PARAMS, MIXTURE = "params", "patch_mixture"
DAMAGED = (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError, MemoryError)


def is_export(folder: Path) -> bool:
    """Whether a folder holds an exported model, not a run."""
    return (folder / WEIGHTS).is_file() and not directory(folder).is_dir()


def write_weights(path: Path, params, mixture: PatchMixture | None = None) -> None:
    """Write weights, and the mixture if any: the same bytes for the same arrays."""
    arrays = {f"{PARAMS}/{name}": leaf for name, leaf in _named(params).items()}
    if mixture is not None:
        arrays |= {f"{MIXTURE}/{name}": array for name, array in dataclasses.asdict(mixture).items()}
    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    path.write_bytes(save(tensors, metadata={SEAL: _digest(tensors)}))  # save_file would keep it from all others


def read_weights(path: Path, like, with_mixture: bool = False) -> tuple[Any, PatchMixture | None]:
    """The weights of an exported model, and its mixture.

    Args:
        path: of the file.
        like: arrays or shapes of the network that config.json describes.
        with_mixture: whether config.json speaks of one.

    Raises:
        InputError: if the file is damaged, or of another network.
    """
    tensors, sealed = _read(path)
    if sealed != _digest(tensors):
        raise InputError(f"{path} is not what was written, its SHA-256 differs: put back a whole copy")
    wanted = {f"{PARAMS}/{name}": leaf for name, leaf in _named(like).items()}
    prior = {field.name: f"{MIXTURE}/{field.name}" for field in dataclasses.fields(PatchMixture) if with_mixture}
    for name in sorted(wanted.keys() | prior.values() | tensors.keys()):
        if wrong := _wrong(name, tensors.get(name), wanted, prior):
            raise InputError(f"{path} {wrong}: it is not of the network of config.json, so put back both")
    params = jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(tensors[name]) for name in wanted])
    mixture = {name: jnp.asarray(tensors[at]) for name, at in prior.items()}
    return params, _checked(PatchMixture(**mixture), path) if with_mixture else None


def _wrong(name, found, wanted, prior) -> str:
    """What is wrong with a tensor of a file, if anything."""
    if found is None:
        return f"lacks {name}"
    if name not in wanted:
        return "" if name in prior.values() else f"has {name}"
    shape, dtype = tuple(wanted[name].shape), wanted[name].dtype
    if (found.shape, found.dtype) == (shape, dtype):
        return ""
    return f"has {name} as {found.dtype} {list(found.shape)}, not {dtype} {list(shape)}"


def _checked(mixture: PatchMixture, path) -> PatchMixture:
    (components, *_), (dim, *_) = (mixture.means.shape or (0,)), (mixture.means.shape[1:] or (0,))
    shapes = [array.shape for array in (mixture.weights, mixture.means, mixture.axes, mixture.variances, mixture.ends)]
    if shapes != [(components,), (components, dim), (components, dim, dim), (components, dim), (2,)]:
        raise InputError(f"{path} holds no mixture of patches: its arrays have shapes {shapes}")
    return mixture


def sealed_by_us(path: Path) -> bool:
    """Whether a file holds exported weights, damaged since or not."""
    try:
        with safe_open(path, framework="numpy") as file:
            return SEAL in (file.metadata() or {})
    except DAMAGED:
        return False


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """The tensors of a file, and the digest in its header."""
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(SEAL, "")  # noqa: SIM118
    except DAMAGED as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}): put back a whole copy") from error


def _digest(tensors: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        hashed.update(f"{name} {tensor.dtype.str} {tensor.shape}\n".encode())
        hashed.update(np.ravel(tensor).view(np.uint8).data)
    return hashed.hexdigest()


def _named(params) -> dict[str, Any]:
    """The leaves of nested dicts by their path, as Conv_0/kernel, in the order of jax.tree.leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}
