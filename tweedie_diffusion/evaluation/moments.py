"""Mean and covariance of features, from batches: all that a Fréchet distance needs of a set of images."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from tweedie_diffusion.data.errors import InputError

BLOCK = 1024  # rows whose float64 copy is held at a time


@dataclasses.dataclass(frozen=True)
class Moments:
    """Of N feature vectors.

    Attributes:
        count: N.
        mean: [F] float64.
        scatter: [F, F] float64, Σ (x − mean)(x − mean)ᵀ: N − 1 times the covariance.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @property
    def size(self) -> int:
        """F."""
        return len(self.mean)

    @property
    def covariance(self) -> np.ndarray:
        """[F, F], unbiased.

        Raises:
            InputError: of fewer than two vectors.
        """
        if self.count < 2:
            raise InputError(f"a covariance needs at least 2 images (got {self.count}): take more")
        return self.scatter / (self.count - 1)

    @staticmethod
    def of(batches: Iterable[np.ndarray]) -> "Moments":
        """The moments of all rows of batches [B, F], one batch and one scatter matrix held at a time.

        Each block is centred at its own mean, so that nothing cancels, and the blocks are put together by
        S = S_1 + S_2 + nm/(n + m)·δδᵀ, δ the difference of their means (Chan, Golub and LeVeque 1983).

        Raises:
            InputError: if there is no row, sizes differ, or a feature is NaN or infinite.
        """
        count, mean, scatter = 0, np.zeros(0), np.zeros((0, 0))
        for batch in batches:
            for start in range(0, len(batch), BLOCK):
                block = np.asarray(batch[start : start + BLOCK], np.float64)
                if not count:
                    mean, scatter = np.zeros(block.shape[1]), np.zeros((block.shape[1],) * 2)
                _check(block, len(mean))
                block_mean = block.mean(axis=0)
                shift, both = block_mean - mean, count + len(block)
                # The correction is one more row.
                rows = np.vstack([block - block_mean, np.sqrt(count * len(block) / both) * shift])
                scatter += rows.T @ rows
                mean = mean + shift * (len(block) / both)
                count = both
        if not count:
            raise InputError("there are no images to take features of")
        return Moments(count, mean, scatter)

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets together.

        Raises:
            InputError: if their sizes differ.
        """
        check_sizes(self.size, other.size)
        count, shift = self.count + other.count, other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(shift, shift * (self.count * other.count / count))
        return Moments(count, self.mean + shift * (other.count / count), scatter)


def enough_for(size: int, count: int) -> bool:
    """Whether `count` images make a covariance of `size` features that is not singular: N must exceed F."""
    return count > size


def check_sizes(size: int, other: int) -> None:
    """Raise InputError if two sets have features of different sizes."""
    if size != other:
        raise InputError(f"features of {size} and of {other} numbers cannot be compared: use one feature set for both")


def _check(block, size):
    if block.ndim != 2 or block.shape[1] != size:
        raise InputError(f"features must be [N, {size}] (got shape {list(block.shape)})")
    if not np.isfinite(block).all():
        raise InputError("features hold NaN or infinity: look at the images they are of")
