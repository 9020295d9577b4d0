"""Networks that others trained, as features: their files are checked, and each tensor is used or its absence told."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.tensor_files import SUFFIXES, read_tensors
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.models.resampling import eight_bits


@dataclasses.dataclass(frozen=True)
class KnownFile:
    """A file of weights as it is published.

    Attributes:
        name: of the file.
        size: in bytes.
        sha256: of its content.
        source: where people get it.
    """

    name: str
    size: int
    sha256: str
    source: str

    def __str__(self):
        return f"{self.name} ({self.size:,} bytes, SHA-256 {self.sha256}) from {self.source}"


class Weights:
    """The tensors of a file, each to be taken once."""

    def __init__(self, path: str | Path, known: Sequence[KnownFile]):
        """Read `path`; a file named as one of `known` must be that file.

        Raises:
            InputError: if there is no such file, which says what to get, or it cannot be read.
        """
        self.path = Path(path)
        _check_file(self.path, known)
        self._left = read_tensors(self.path)

    def __contains__(self, name: str) -> bool:
        """Whether there is such a tensor, and it was not taken yet."""
        return name in self._left

    def shape(self, name: str, axes: int) -> tuple[int, ...]:
        """The shape of a tensor that was not taken yet; InputError if there is none of that many axes."""
        if name not in self._left:
            raise InputError(f"{self.path} has no tensor `{name}`: it is not a file of this network")
        shape = self._left[name].shape
        if len(shape) != axes:
            raise InputError(f"{self.path}: `{name}` is of shape {list(shape)}, not of {axes} axes")
        return shape

    def take(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """The tensor in float32; InputError if there is none, or it is not of that shape, or not of finite numbers."""
        if (found := self.shape(name, len(shape))) != tuple(shape):
            raise InputError(f"{self.path}: `{name}` is of shape {list(found)}, not {list(shape)}")
        stored = self._left.pop(name)
        if stored.dtype.kind not in "fiu" or not np.isfinite(stored).all():
            raise InputError(f"{self.path}: `{name}` holds NaN, infinity or no numbers: get the file again")
        return stored.astype(np.float32)

    def take_kernel(self, name: str, shape: Sequence[int]) -> np.ndarray:
        """A kernel in flax's order, [H, W, in, out] or [in, out], of PyTorch's [out, in, H, W] or [out, in]."""
        if len(shape) == 2:
            return self.take(name, shape[::-1]).T
        height, width, inward, outward = shape
        return self.take(name, (outward, inward, height, width)).transpose(2, 3, 1, 0)

    def check_all_taken(self, unused: Callable[[str], bool]) -> None:
        """InputError for a tensor that was not taken, unless it is known to be `unused`."""
        for name in self._left:
            if not unused(name):
                raise InputError(f"{self.path} holds `{name}`, which this network has no place for")


def feature_set(name: str, size: int, params, apply: Callable) -> FeatureSet:
    """The features of a network as a `FeatureSet`; each shape of images is compiled once.

    Args:
        name: of it, with how images are treated: the digest covers it too.
        size: numbers an image.
        params: a tree of arrays.
        apply: (params, images [B, H, W, 3] of 8-bit values) -> [B, size].
    """
    leaves = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)]
    digest = fingerprint([name, *(part for leaf in leaves for part in leaf)])
    run, params = jax.jit(lambda params, x: apply(params, eight_bits(x))), jax.device_put(params)
    return FeatureSet(name, size, digest, lambda x: run(params, _in_colour(x, name)))


def _in_colour(x, name):
    """Grey images as three equal channels."""
    if x.ndim != 4 or x.shape[-1] not in (1, 3):
        raise InputError(f"{name} is of images with 1 or 3 channels (got shape {list(x.shape)}): compare by pixels")
    return np.broadcast_to(np.asarray(x, np.float32), (*x.shape[:-1], 3))


def _check_file(path, known):
    """InputError unless there is a file, and the published one if it bears the name of one."""
    published = next((file for file in known if file.name == path.name), None)
    if not path.is_file():
        which = str(published) if published else " or ".join(map(str, known))
        raise InputError(f"{path} does not exist: get {which}, or its tensors as {SUFFIXES[0]} or {SUFFIXES[1]}")
    if published is None:
        return
    size = path.stat().st_size
    if size != published.size:
        raise InputError(f"{path} has {size:,} bytes and is damaged or cut: get {published}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != published.sha256:
        raise InputError(f"{path} has the SHA-256 {digest} and is damaged: get {published}")
