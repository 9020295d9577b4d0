"""Patches chosen by their surroundings, so that their own noise has no say in the choice."""

import dataclasses

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

WINDOW, BORDER = 6, 1  # pixels: a window, and the ring that surrounds the patch in it
MAX_WINDOWS = 400_000
INSIDE = np.zeros((WINDOW, WINDOW), bool)
INSIDE[BORDER:-BORDER, BORDER:-BORDER] = True


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows of images, at random places.

    Attributes:
        ring: [n, 20] pixels around the patch.
        patch: [n, 16] pixels of the patch.
        half: [n] 0 or 1, by the image: what is chosen on one half is measured on the other.
        block: [n] number of the 4×4 block of an image that the patch begins in: patches of one block share pixels.
    """

    ring: np.ndarray
    patch: np.ndarray
    half: np.ndarray
    block: np.ndarray

    @property
    def independent(self) -> int:
        """How many patches the n are worth, for those that share pixels."""
        return len(np.unique(self.block))

    def part(self, chosen: np.ndarray) -> "Windows":
        """Those chosen by an index array."""
        return Windows(self.ring[chosen], self.patch[chosen], self.half[chosen], self.block[chosen])


def sample_windows(x: np.ndarray, *, most: int = MAX_WINDOWS, seed: int = 0) -> Windows:
    """At most `most` windows of images x [N, H, W, C], every channel an image of its own."""
    planes = np.moveaxis(x, -1, 1).reshape(-1, *x.shape[1:3])
    windows = sliding_window_view(planes, (WINDOW, WINDOW), axis=(1, 2))
    rng = np.random.Generator(np.random.Philox(seed))
    count = int(np.prod(windows.shape[:3]))
    places = np.sort(rng.choice(count, min(count, most), replace=False))
    plane, row, column = np.unravel_index(places, windows.shape[:3])
    pixels = windows[plane, row, column].astype(np.float32)
    half = plane // x.shape[-1] % 2
    side = WINDOW - 2 * BORDER
    block = np.ravel_multi_index((plane, row // side, column // side), windows.shape[:3])
    return Windows(pixels[:, ~INSIDE], pixels[:, INSIDE], half, block)


def cut_squares(image: np.ndarray, size, most: int, rng: np.random.Generator) -> list[np.ndarray]:
    """At most `most` squares of an image that share no pixel, placed at random."""
    counts = [have // want for have, want in zip(image.shape[:2], size, strict=True)]
    top, left = (
        int(rng.integers(have - n * want + 1)) for have, n, want in zip(image.shape[:2], counts, size, strict=True)
    )
    places = rng.permutation(counts[0] * counts[1])[:most]
    corners = [(top + size[0] * (k // counts[1]), left + size[1] * (k % counts[1])) for k in places]
    return [image[y : y + size[0], x : x + size[1]] for y, x in corners]


def emptiest_variances(one: np.ndarray, other: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Variances of the samples `other` [n, D] along the `count` directions in which those of `one` vary least.

    Returns:
        [count] variances, and [D, count] the directions.
    """
    directions = np.linalg.eigh(np.cov(one.T))[1][:, :count]
    return (other @ directions).var(axis=0), directions
