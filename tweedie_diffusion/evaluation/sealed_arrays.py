"""Named arrays in an .npz that tells whether it is what was written, and of what."""

from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.formats.arrays import load_arrays, write_arrays
from tweedie_diffusion.data.whole import whole

SEAL = "seal"  # the array that holds the digest of the key and of all others


def write_sealed_arrays(path: Path, arrays: dict[str, np.ndarray], *, key: str = "") -> None:
    """Write arrays of at least one axis, whole or not at all. `key` says of what they are."""
    with whole(path) as (unfinished,):
        write_arrays(unfinished, arrays | {SEAL: _seal(arrays, key)})


def read_sealed_arrays(path: Path, *, key: str = "") -> dict[str, np.ndarray]:
    """What `write_sealed_arrays` wrote under the same key.

    Raises:
        InputError: if it is missing, damaged, or of another key.
    """
    arrays = load_arrays(path)
    seal = arrays.pop(SEAL, None)
    if seal is None or not np.array_equal(seal, _seal(arrays, key)):
        raise InputError(f"{path} is damaged, or of other data: remove it")
    return arrays


def _seal(arrays, key):
    parts = (part for name in sorted(arrays) for part in (name, arrays[name]))
    return np.frombuffer(fingerprint([key, *parts]).encode(), np.uint8)
