"""How near samples come to the images of training: nearest ones, shares above a similarity, and copies.

A similarity says nothing by itself: of two small images, or of two faces, it is always high. Beside every number stands
the floor, the same of held-out images, which nobody can have copied.
"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata

from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.evaluation.features import FeatureSet

BLOCK = 2**24  # similarities held at once
COPY = 1 / 3  # of the distance to the second nearest, below which the nearest is taken to be copied


def centred_pixels(x_train: np.ndarray) -> FeatureSet:
    """Pixels minus the mean training image, pixel by pixel.

    The cosine of two raw images is mostly that of their backgrounds with one another: of 8×8 digits it is .8 for any
    two. Minus the mean, two images that have nothing in common have a cosine about 0.

    Args:
        x_train: [N, ...] training images.
    """
    mean = np.mean(x_train, axis=0, dtype=np.float64).reshape(1, -1)
    flat = lambda x: np.asarray(x, np.float64).reshape(len(x), -1) - mean
    return FeatureSet("pixels minus their mean", mean.size, fingerprint([mean]), flat)


def nearest(
    features: np.ndarray, features_train: np.ndarray, *, k: int = 1, metric: str = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest of the training images to each image, a block of images at a time.

    Args:
        features: [N, F].
        features_train: [M, F], M >= k.
        k: how many.
        metric: cosine, or euclidean.

    Returns:
        indices [N, k] into the training images, nearest first, and their cosine similarities, or distances, [N, k].

    Raises:
        ValueError: if there are fewer than k training images, or another metric is asked for.
    """
    if not 1 <= k <= len(features_train):
        raise ValueError(f"k must be between 1 and {len(features_train)}, the number of training images (got {k})")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric must be cosine or euclidean (got {metric!r})")
    measure = cosines if metric == "cosine" else _minus_distances
    rows, indices, values = max(1, BLOCK // len(features_train)), [], []
    for start in range(0, len(features), rows):
        closeness = measure(features[start : start + rows], features_train)
        best = np.argsort(-closeness, axis=1, kind="stable")[:, :k]
        indices.append(best)
        values.append(np.take_along_axis(closeness, best, axis=1))
    if not indices:
        return np.zeros((0, k), int), np.zeros((0, k))
    return np.concatenate(indices), np.abs(np.concatenate(values)) if metric == "euclidean" else np.concatenate(values)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N, M] cosines of all pairs of [N, F] and [M, F]; 0 for a vector of zeros."""
    return _unit(one) @ _unit(other).T


def paired_cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[N] cosines of row n of [N, F] with row n of the other."""
    return np.sum(_unit(one) * _unit(other), axis=1)


def similarity_table(
    similarities: np.ndarray, thresholds: Sequence[float] = (0.9, 0.95, 0.99)
) -> dict[str, np.ndarray | int | float]:
    """The share of images whose nearest training image is more similar than each threshold.

    Args:
        similarities: [N] of the nearest training image.
        thresholds: T of them.

    Returns:
        n; mean of the similarities; threshold, share and standard_error √(p(1 − p)/n), each [T]. A share of 0 has the
        error 0 too: below 3/n it cannot be told from 0 (at 95 %).

    Raises:
        ValueError: if there are no images.
    """
    similarities = np.asarray(similarities, np.float64)
    n = len(similarities)
    if not n:
        raise ValueError("there is no image to compare")
    share = np.array([np.mean(similarities > threshold) for threshold in thresholds])
    return {
        "n": n,
        "mean": float(similarities.mean()),
        "threshold": np.asarray(thresholds, np.float64),
        "share": share,
        "standard_error": np.sqrt(share * (1 - share) / n),
    }


def copied(distances: np.ndarray, *, ratio: float = COPY) -> np.ndarray:
    """Whether each image is a copy: much nearer to one training image than to any other.

    ‖x − y_1‖ < ratio·‖x − y_2‖, y_1 and y_2 the nearest training images (Yoon et al. 2023, Gu et al. 2023,
    arXiv:2310.02664). It needs no scale; an image that is in the training set twice hides its copies.

    Args:
        distances: [N, 2] of `nearest(…, k=2, metric="euclidean")`.
        ratio: below which it is one.

    Returns:
        [N] booleans.
    """
    return distances[:, 0] < ratio * distances[:, 1]


def membership(train: np.ndarray, held_out: np.ndarray) -> dict[str, float]:
    """How well a score tells training images from held-out ones.

    AUC = P(score of a training image > score of a held-out one) + ½P(equal): ½ if it cannot, 1 if always. Its error
    is by DeLong, DeLong and Clarke-Pearson (1988): the variances, over images of either kind, of the share of the
    other kind that an image exceeds.

    Args:
        train: [N] scores of training images, at least two.
        held_out: [M] scores of held-out images, at least two.

    Returns:
        train and held_out, the means; difference and its standard_error; auc and auc_error.

    Raises:
        ValueError: if there are fewer than two of either.
    """
    train, held_out = np.asarray(train, np.float64), np.asarray(held_out, np.float64)
    n, m = len(train), len(held_out)
    if min(n, m) < 2:
        raise ValueError(f"at least two images of each kind are needed (got {n} and {m})")
    among_all = rankdata(np.concatenate([train, held_out]))
    above = (among_all[:n] - rankdata(train)) / m  # the share of held-out images below each training image
    below = 1 - (among_all[n:] - rankdata(held_out)) / n
    error = lambda one, other: float(np.sqrt(one.var(ddof=1) / n + other.var(ddof=1) / m))
    return {
        "train": float(train.mean()),
        "held_out": float(held_out.mean()),
        "difference": float(train.mean() - held_out.mean()),
        "standard_error": error(train, held_out),
        "auc": float(above.mean()),
        "auc_error": error(above, below),
    }


def _unit(x):
    x = np.asarray(x, np.float64).reshape(len(x), -1)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1)


def _minus_distances(x, y):
    x, y = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (x, y))
    squares = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1)[None] - 2 * x @ y.T
    return -np.sqrt(np.maximum(squares, 0))
