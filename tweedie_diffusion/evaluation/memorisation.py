"""How near samples come to the images of training: nearest ones, shares above a similarity, and copies.

A similarity says nothing by itself: of two small images, or of two faces, it is always high. Beside every number stands
the floor, the same of held-out images, which nobody can have copied.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.evaluation.features import FeatureSet

BLOCK, ROWS = 2**24, 2048  # numbers held at once, or so; images at once, at most
SPARE = 4  # candidates beyond those asked for
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
    """The k nearest of the training images to each image.

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
    return nearest_of_ways(features, [lambda rows: features_train[rows]], len(features_train), k={metric: k})[metric]


def nearest_of_ways(
    features: np.ndarray, ways: Sequence[Callable[[slice], np.ndarray]], count: int, *, k: Mapping[str, int]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same of training images that were seen in several ways: an image is as near as its nearest way.

    A block of training images at a time, in every way, is searched in float32 for a few more than k candidates, which
    are then measured in float64: of a near copy, ‖x‖² + ‖y‖² − 2⟨x, y⟩ in float32 is mostly rounding.

    Args:
        features: [N, F].
        ways: each from a slice of the numbers of training images, a block, to their features [m, F].
        count: M, how many training images there are.
        k: metric -> how many, at most M.

    Returns:
        metric -> numbers [N, k] and values [N, k], as of `nearest`.

    Raises:
        ValueError: as `nearest` does.
    """
    _check(k, count)
    if not len(features):
        return {metric: (np.zeros((0, most), int), np.zeros((0, most))) for metric, most in k.items()}
    x = features.reshape(len(features), -1)
    size = max(1, x.shape[1])
    found = {metric: (np.zeros((len(x), 0), int), np.zeros((len(x), 0))) for metric in k}
    kept = {metric: most + SPARE for metric, most in k.items()}
    for train_rows in _blocks(count, BLOCK // (size * len(ways))):
        y = np.stack([way(train_rows).reshape(-1, size) for way in ways])  # [W, m, F]
        squares = np.einsum("wmf,wmf->wm", y, y, dtype=np.float64)
        parts = [
            _nearest_in(x[rows], y, squares, kept) for rows in _blocks(len(x), BLOCK // (size * max(kept.values())))
        ]
        for metric, most in k.items():
            indices, values = (np.concatenate(v) for v in zip(*(part[metric] for part in parts), strict=True))
            found[metric] = _merged(found[metric], (train_rows.start + indices, values), most)
    return {metric: (n, np.abs(v) if metric == "euclidean" else v) for metric, (n, v) in found.items()}


def _check(k, count):
    for metric, most in k.items():
        if not 1 <= most <= count:
            raise ValueError(f"k must be between 1 and {count}, the number of training images (got {most})")
        if metric not in METRICS:
            raise ValueError(f"metric must be {' or '.join(METRICS)} (got {metric!r})")


def _blocks(count, rows):
    rows = min(max(1, rows), ROWS)
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _nearest_in(x, y, squares, kept):
    """Of y [W, m, F] a few for each metric nearest to each of x [n, F]: which of m, and cosines, or −distances."""
    shape = len(x), y.shape[1]
    best = {metric: np.full(shape, -np.inf, np.float32) for metric in kept}
    way = {metric: np.zeros(shape, np.uint8) for metric in kept}
    for w in range(len(y)):
        dots = np.asarray(x, np.float32) @ np.asarray(y[w], np.float32).T
        for metric in kept:
            closeness = METRICS[metric][0](dots, squares[w])
            way[metric][closeness > best[metric]] = w
            np.maximum(best[metric], closeness, out=best[metric])
    found = {}
    for metric, most in kept.items():
        last = min(most, y.shape[1]) - 1
        indices = np.sort(np.argpartition(-best[metric], last, axis=1)[:, : last + 1], axis=1)
        candidates = y[np.take_along_axis(way[metric], indices, axis=1), indices]  # [n, last + 1, F]
        found[metric] = indices, METRICS[metric][1](np.asarray(x, np.float64), np.asarray(candidates, np.float64))
    return found


def _merged(one, other, most):
    """The nearest `most` of both."""
    numbers, values = (np.concatenate(v, axis=1) for v in zip(one, other, strict=True))
    order = np.argsort(-values, axis=1, kind="stable")[:, :most]
    return np.take_along_axis(numbers, order, axis=1), np.take_along_axis(values, order, axis=1)


def _cosines(x, y):
    """[n, c] cosines of rows of [n, F] with c others each, [n, c, F]."""
    lengths = np.linalg.norm(x, axis=-1)[:, None] * np.linalg.norm(y, axis=-1)
    return np.einsum("nf,ncf->nc", x, y) / np.where(lengths > 0, lengths, 1)


# Of each metric what orders all y as it does for one x, from float32 ⟨x, y⟩ and ‖y‖²; and it, negated if a distance.
METRICS = {
    "cosine": (lambda dots, squares: dots / np.sqrt(np.where(squares > 0, squares, 1)).astype(np.float32), _cosines),
    "euclidean": (
        lambda dots, squares: dots - (squares / 2).astype(np.float32),
        lambda x, y: -np.linalg.norm(y - x[:, None], axis=-1),
    ),
}


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
