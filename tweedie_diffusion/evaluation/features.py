"""What images are compared by: a function from images to vectors, and what tells it from others."""

import dataclasses
import difflib
import importlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.linalg

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.sources import spaced

BATCH = 64
PCA_SIZE, PCA_IMAGES = 32, 2048  # features by default; images that the components are fitted to
LEAST_VARIANCE = 1e-10  # of the greatest: below it is what rounding leaves
COLUMNS = 8192  # numbers of each image held in float64 at a time
# The module of each kind, with its open_KIND(path); imported where it is needed.
WITH_FILE = {"classifier": "classifier_features", "inception": "inception", "dinov2": "dinov2"}


@dataclasses.dataclass(frozen=True)
class FeatureSet:
    """A feature function.

    Attributes:
        name: in words a report can print.
        size: F, numbers an image.
        digest: of whatever the function depends on, its weights for one: caches are kept under it.
        function: [B, H, W, C] images in [-1, 1], or vectors [B, D], to [B, F].
    """

    name: str
    size: int
    digest: str
    function: Callable[[np.ndarray], np.ndarray]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[N, F] float32 features of any number of examples, a batch of one size at a time."""
        parts = []
        for start in range(0, len(x), BATCH):
            rows = np.minimum(np.arange(start, start + BATCH), len(x) - 1)  # the last again, to keep one shape
            parts.append(np.asarray(self.function(x[rows]), np.float32)[: len(x) - start])
        return np.concatenate(parts) if parts else np.zeros((0, self.size), np.float32)


def pixel_features(shape: tuple[int, ...]) -> FeatureSet:
    """Examples of `shape`, flattened."""
    size = math.prod(shape)
    digest = fingerprint([f"pixels {tuple(shape)}"])
    return FeatureSet("pixels", size, digest, lambda x: _flat(x, tuple(shape)))


def pca_features(x_reference: np.ndarray, size: int = 0) -> FeatureSet:
    """Principal components, (x − mean) · axes, the `size` of most variance among reference images.

    Args:
        x_reference: [N, ...]; of more than 2048, as many evenly spaced ones are used.
        size: F; 0 for 32, or as many as there are.

    Raises:
        InputError: if there are not so many components.
    """
    shape = tuple(x_reference.shape[1:])
    x = _flat(np.asarray(x_reference)[spaced(len(x_reference), PCA_IMAGES)], shape)
    mean = x.mean(axis=0, dtype=np.float64)
    axes = _principal_axes(x, mean, size or PCA_SIZE)
    found = axes.shape[1]
    if not found or found < size:
        of = f"{len(x)} images of {x.shape[1]} numbers"
        raise InputError(f"{of} have {found} principal components (asked for {size}): take fewer, or pixels")
    mean, axes = mean.astype(np.float32), axes.astype(np.float32)
    digest = fingerprint([f"pca {shape}", mean, axes])
    return FeatureSet(f"{found} principal components", found, digest, lambda x: (_flat(x, shape) - mean) @ axes)


def _principal_axes(x, mean, most):
    """[D, ≤ most] of those along which x [N, D] varies, by the Gram matrix [N, N]: D may be large, N is not."""
    gram = sum(part @ part.T for _, part in _centred(x, mean))
    values, weights = scipy.linalg.eigh(gram, subset_by_index=(max(len(x) - most, 0), len(x) - 1))
    varies = np.flatnonzero(values > LEAST_VARIANCE * values[-1])[::-1]  # eigenvalues increase
    axes = np.empty((x.shape[1], len(varies)))
    for chosen, part in _centred(x, mean):
        axes[chosen] = part.T @ (weights[:, varies] / np.sqrt(values[varies]))
    return axes


def _centred(x, mean):
    """(which columns, x − mean there), in float64."""
    for start in range(0, x.shape[1], COLUMNS):
        chosen = slice(start, start + COLUMNS)
        yield chosen, x[:, chosen] - mean[chosen]


def open_features(name: str, *, reference: np.ndarray) -> FeatureSet:
    """The feature set of a name.

    Args:
        name: `pixels`, `pca` (of 32, or all there are), `pca:NUMBER`, `classifier:FILE`, `inception:FILE` or
            `dinov2:FILE`.
        reference: [N, ...] real images, that give the shape and principal components.

    Raises:
        InputError: if there is no such name, or its file cannot be used.
    """
    kind, _, rest = name.partition(":")
    if name == "pixels":
        return pixel_features(reference.shape[1:])
    if name == "pca":
        return pca_features(reference)
    if kind == "pca" and rest.isdecimal() and int(rest):
        return pca_features(reference, int(rest))
    if kind not in WITH_FILE:
        names = {"pixels": "pixels", "pca": "pca:NUMBER"} | {kind: f"{kind}:FILE" for kind in WITH_FILE}
        near = names[difflib.get_close_matches(kind, names, n=1, cutoff=0.0)[0]]
        raise InputError(f"there are no features {name!r}: did you mean {near}? There are {', '.join(names.values())}")
    if reference.ndim != 4:
        raise InputError(f"{kind} features are of images, and the data is vectors: use pixels or pca")
    if not rest:
        raise InputError(f"{kind} features come from a file: {kind}:FILE")
    module = importlib.import_module(f"tweedie_diffusion.evaluation.{WITH_FILE[kind]}")
    return getattr(module, f"open_{kind}")(Path(rest).expanduser())


def _flat(x, shape):
    """[B, F] float32."""
    if tuple(x.shape[1:]) != tuple(shape):
        raise InputError(f"examples of {list(shape)} and of {list(x.shape[1:])} cannot be compared")
    return np.asarray(x, np.float32).reshape(len(x), -1)
