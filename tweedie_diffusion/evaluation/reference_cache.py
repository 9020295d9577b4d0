"""Features of reference images, kept from one evaluation to the next."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.evaluation.moments import Moments
from tweedie_diffusion.evaluation.sealed_arrays import read_sealed_arrays, write_sealed_arrays

KEPT_BYTES = 2**29  # of features: 50 000 of 2048 numbers are 391 MiB

Batches = Callable[[], Iterable[np.ndarray]]  # makes the reference images, some at a time


def cached_moments(folder: Path, features: FeatureSet, reference_digest: str, make: Batches) -> Moments:
    """The moments of the features of reference images.

    What was kept is used if it is of the same features and images, and as it was written; else it is computed, and kept
    again, and so are the features if they are no more than `KEPT_BYTES`. A folder that cannot be written costs time.

    Args:
        folder: of the cache; made if it does not exist.
        features: the feature set.
        reference_digest: of the images, as `Images.fingerprint` and what of them is used.
        make: () -> batches [B, ...] of the images in [-1, 1]; called only if they are needed.
    """
    key = _key(features, reference_digest)
    with contextlib.suppress(InputError):
        return Moments.load(folder / f"moments_{key}.npz", key=key)
    return _computed(folder, features, key, make)[0]


def cached_features(folder: Path, features: FeatureSet, reference_digest: str, make: Batches) -> np.ndarray | None:
    """[N, F] float32 features of reference images, as `cached_moments`; None if they exceed `KEPT_BYTES`."""
    key = _key(features, reference_digest)
    with contextlib.suppress(InputError, KeyError):
        return read_sealed_arrays(folder / f"features_{key}.npz", key=key)["features"]
    with contextlib.suppress(InputError):
        if 4 * features.size * Moments.load(folder / f"moments_{key}.npz", key=key).count > KEPT_BYTES:
            return None
    return _computed(folder, features, key, make)[1]


def _key(features, reference_digest):
    return fingerprint([features.name, str(features.size), features.digest, reference_digest])


def _computed(folder, features, key, make) -> tuple[Moments, np.ndarray | None]:
    """Moments, and features if they are few; both are kept."""
    kept: list[np.ndarray] | None = []

    def batches() -> Iterator[np.ndarray]:
        nonlocal kept
        for x in make():
            batch = features(x)
            if kept is not None:
                kept.append(batch)
                if sum(part.nbytes for part in kept) > KEPT_BYTES:
                    kept = None
            yield batch

    moments = Moments.of(batches())
    together = None if kept is None else np.concatenate(kept)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        moments.save(folder / f"moments_{key}.npz", key=key)
        if together is not None:
            write_sealed_arrays(folder / f"features_{key}.npz", {"features": together}, key=key)
    return moments, together
