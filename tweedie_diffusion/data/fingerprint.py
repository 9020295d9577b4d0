"""What tells one data set from another, in one word."""

import hashlib
from collections.abc import Iterable

import numpy as np

DIGITS = 32  # of the 64 of a SHA-256
AT_ONCE = 2**24  # bytes of an array that need not lie in one piece


def fingerprint(parts: Iterable[str | np.ndarray]) -> str:
    """32 hexadecimal digits of the SHA-256 of texts and arrays [n, ...], in order, with where each of them ends."""
    hashed = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            text = part.encode(errors="surrogateescape")  # names of files may be of any bytes
            hashed.update(b"text %d\n" % len(text) + text)
            continue
        hashed.update(f"array {part.dtype.str} {part.shape}\n".encode())
        rows = max(AT_ONCE * len(part) // max(part.nbytes, 1), 1)
        for first in range(0, len(part), rows):
            hashed.update(np.ascontiguousarray(part[first : first + rows]).data)
    return hashed.hexdigest()[:DIGITS]
