"""Features of reference images, kept from one evaluation to the next."""

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.evaluation.sealed_arrays import read_sealed_arrays, write_sealed_arrays

KEPT_BYTES = 2**29  # of features: 50 000 of 2048 numbers are 391 MiB

Batches = Callable[[], Iterable[np.ndarray]]  # makes the reference images, some at a time


def cached_features(folder: Path, features: FeatureSet, reference_digest: str, make: Batches) -> np.ndarray:
    """The features of reference images.

    What was kept is used if it is of the same features and images, and as it was written; else it is computed, and kept
    again if it is no more than `KEPT_BYTES`. A folder that cannot be written costs time only.

    Args:
        folder: of the cache; made if it does not exist.
        features: the feature set.
        reference_digest: of the images, as `Images.fingerprint` and what of them is used.
        make: () -> batches [B, ...] of the images in [-1, 1]; called only if they are needed.

    Returns:
        [N, F] float32.
    """
    key = fingerprint([features.name, str(features.size), features.digest, reference_digest])
    path = folder / f"features_{key}.npz"
    with contextlib.suppress(InputError, KeyError):
        return read_sealed_arrays(path, key=key)["features"]
    computed = np.concatenate([features(x) for x in make()])
    if computed.nbytes <= KEPT_BYTES:
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_sealed_arrays(path, {"features": computed}, key=key)
    return computed
