"""Distances between two sets of examples."""

import numpy as np


def energy_distance(x: np.ndarray, y: np.ndarray) -> float:
    """2E‖x − y‖ − E‖x − x'‖ − E‖y − y'‖, over √D; 0 for equal laws only (Székely and Rizzo 2013).

    Args:
        x, y: [N, ...] and [M, ...], at least two each.

    Returns:
        The unbiased estimate, which may be negative.
    """
    x, y = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (x, y))
    within = sum(_distances(v, v).sum() / (len(v) * (len(v) - 1)) for v in (x, y))
    return float((2 * _distances(x, y).mean() - within) / x.shape[1] ** 0.5)


def _distances(x, y):
    squares = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1)[None] - 2 * x @ y.T
    np.maximum(squares, 0, out=squares)
    if x is y:
        np.fill_diagonal(squares, 0)
    return np.sqrt(squares)
