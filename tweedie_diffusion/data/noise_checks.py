"""Whether noise is what the method needs: white, and not clipped."""

import itertools

import numpy as np
from scipy.fft import dct

from tweedie_diffusion.data.flat_patches import BORDER, INSIDE, WINDOW, Windows, sample_windows

SIDE = WINDOW - 2 * BORDER
FLATTEST = 0.05  # share of the patches in which noise is told from signal
AVERAGED = 0.1  # how far the correlation of successive differences may be from that of independent noise
STRAY, SPIKE = 1e-4, 4.0  # part of the values beyond an end; times the count of its inner neighbour
MOVED = 0.05  # correlation of neighbouring differences, from which on a scene is another one
# Two vectors of the cosine transform of four, and s = u₁u₂ + u₂u₃ + u₃u₄ of each: noise whose neighbours have the
# correlation ρ has the variance σ²(1 + 2ρs) along u.
MIDDLE, HIGHEST = np.asarray(dct(np.eye(SIDE), norm="ortho", axis=0))[2:]
S_MIDDLE, S_HIGHEST = (float(u[:-1] @ u[1:]) for u in (MIDDLE, HIGHEST))

_BASIS = np.stack([np.ones(WINDOW**2), *np.indices((WINDOW, WINDOW)).reshape(2, -1)], axis=1)  # planes in a window
# [20, 16]: the plane through the ring of a window, at its patch, which has no noise of its own in it.
PLANE = (_BASIS[INSIDE.ravel()] @ np.linalg.pinv(_BASIS[~INSIDE.ravel()])).T


def neighbour_correlation(windows: Windows, sigma: float = np.inf) -> float:
    """ρ of neighbouring pixels' noise, from the flattest patches: alike along both axes, or, if more, along lines.

    Of two products of cosines, alike in both directions, smooth signal has little, and noise the variances
    V = σ²(1 + 2ρs)²: their ratio gives ρ, and so does that of the higher one and a known σ². The lesser counts, for
    texture, which is in the lower one above all, raises the first. An offset of each row or column of standard
    deviation r shows in the product of the highest cosine and a constant, V = σ² + 4r²; along a line ρ = r²/(σ² + r²),
    of which flat surroundings hide up to a third.

    Args:
        windows: of images.
        sigma: of single pixels' noise, if it is known from elsewhere.
    """
    if not len(windows.patch):
        return 0.0
    order = np.argsort(windows.ring.var(axis=1))
    patch = windows.patch[order[: max(1, int(FLATTEST * len(order)))]].reshape(-1, SIDE, SIDE)
    middle, highest = (float(np.sqrt(np.mean(np.square(patch @ u @ u)))) for u in (MIDDLE, HIGHEST))
    if middle == 0:
        return 0.0
    ratio = highest / middle
    found = (1 - ratio) / 2 / (ratio * S_MIDDLE - S_HIGHEST)
    alike = min(found, (1 - highest / sigma) / -2 / S_HIGHEST)
    rows, columns = (np.mean(np.square(HIGHEST @ lines.sum(axis=-1).T / 2)) for lines in (patch, patch.swapaxes(1, 2)))
    excess = max(rows, columns) / min(rows, columns) - 1  # 4r²/σ²
    return max(alike, float(excess / (excess + 4)))


def autocorrelation(windows: Windows) -> np.ndarray:
    """[7, 7]: the correlation of pixels with those up to three rows and columns away, in the flattest patches."""
    flat = np.argsort(windows.ring.var(axis=1))[: max(2, int(FLATTEST * len(windows.ring)))]
    patch = windows.patch[flat] - windows.ring[flat] @ PLANE
    covariance = np.cov((patch - patch.mean(axis=0)).T).reshape(SIDE, SIDE, SIDE, SIDE)
    rows, columns = np.indices((SIDE, SIDE))
    down = rows[None, None] - rows[..., None, None]
    right = columns[None, None] - columns[..., None, None]
    lags = range(1 - SIDE, SIDE)
    mean = np.array([[covariance[(down == dy) & (right == dx)].mean() for dx in lags] for dy in lags])
    return mean / max(mean[SIDE - 1, SIDE - 1], 1e-12)


def are_repeats(*frames: np.ndarray) -> bool:
    """Whether two or three successive stacks [N, H, W, C] show the same scenes through independent noise.

    Of the same scene, neighbouring differences are not correlated. Of independent noise, successive differences d₁ and
    d₂ have the correlation −½; of frames that were averaged with the ones before, another.
    """
    differences = [b.astype(np.float64) - a for a, b in itertools.pairwise(frames)]
    power = np.mean(np.square(differences))
    products = differences[0][:, :, :-1] * differences[0][:, :, 1:]
    if products.mean() >= MOVED * power:
        return False
    return len(frames) < 3 or bool(abs(np.mean(differences[0] * differences[1]) / power + 0.5) < AVERAGED)


def clipped_fractions(stored: np.ndarray) -> tuple[float, float]:
    """The parts of the values that sit at the lower and at the upper end of their range.

    An end is the outermost value; or, if hardly any lie so far out, as hot pixels do, one that is met many times as
    often as its inner neighbour.
    """
    _, counts = np.unique(stored, return_counts=True)
    return _at_end(counts), _at_end(counts[::-1])


def _at_end(counts: np.ndarray) -> float:
    """Of the values with these counts, from the end inwards."""
    total = counts.sum()
    end = int(np.searchsorted(np.cumsum(counts), STRAY * total))
    spike = end + 1 < len(counts) and counts[end] > SPIKE * counts[end + 1]
    return float(counts[end if spike else 0] / total)


def constant_fraction(stored: np.ndarray) -> float:
    """The part of images [N, H, W, C] that has one value exactly, in windows of 6×6."""
    if min(stored.shape[1:3]) < WINDOW:
        return 0.0
    windows = sample_windows(stored)
    return float(np.mean((np.ptp(windows.patch, axis=1) == 0) & (np.ptp(windows.ring, axis=1) == 0)))


def quantisation_step(stored: np.ndarray) -> float:
    """The least difference between two different values; 0 if there is one value."""
    values = np.unique(stored)
    return float(np.diff(values.astype(np.float64)).min()) if len(values) > 1 else 0.0
