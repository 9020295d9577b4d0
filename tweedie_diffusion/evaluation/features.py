"""What images are compared by: a function from images to vectors, and what tells it from others."""

import dataclasses
from collections.abc import Callable

import numpy as np

BATCH = 64


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
