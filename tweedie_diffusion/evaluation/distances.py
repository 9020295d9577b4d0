"""Distances between two sets of examples, or of their features."""

from collections.abc import Iterator

import numpy as np
import scipy.linalg

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import shuffled
from tweedie_diffusion.evaluation.moments import Moments, check_sizes

BLOCK = 1024  # rows and columns of a kernel matrix held at a time
SUBSETS, SUBSET_SIZE = 100, 1000  # usual for a kernel distance


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


def frechet_distance(x: Moments, y: Moments) -> float:
    """|m_1 − m_2|² + tr(C_1 + C_2 − 2(C_1C_2)^½) (Dowson and Landau 1982; Heusel et al. 2017).

    With C = LLᵀ, tr (C_1C_2)^½ is the sum of the singular values of L_1ᵀL_2: no root of a small eigenvalue is taken of
    a product, so that singular covariances cost no digits. L has at most N − 1 columns. The estimate is biased upwards,
    the more so the fewer the images (`moments.enough_for`).

    Args:
        x, y: moments of two sets of features of one size F, of at least 2 images each.

    Raises:
        InputError: if sizes differ, or a set is too small.
    """
    check_sizes(x.size, y.size)
    traces = np.trace(x.covariance) + np.trace(y.covariance)
    overlap = np.linalg.svd(_root(x).T @ _root(y), compute_uv=False).sum()
    return max(float(np.square(x.mean - y.mean).sum() + traces - 2 * overlap), 0.0)


def _root(moments):
    """L [F, min(F, N − 1)] with LLᵀ = C."""
    rank = min(moments.size, moments.count - 1)
    last = (moments.size - rank, moments.size - 1)  # eigenvalues increase
    values, axes = scipy.linalg.eigh(moments.covariance, subset_by_index=last)
    return axes * np.sqrt(np.maximum(values, 0))


def kernel_distance(
    x: np.ndarray, y: np.ndarray, *, seed: int = 0, subsets: int = SUBSETS, subset_size: int = SUBSET_SIZE
) -> tuple[float, float]:
    """The kernel Inception distance: unbiased MMD² of the kernel (x·y/F + 1)³ (Bińkowski et al. 2018, section 4).

    The mean over random subsets of both sets, or, if none would be smaller than a set, that of all pairs.

    Args:
        x, y: [N, F] and [M, F] features, at least 3 each.
        seed: of the subsets.
        subsets, subset_size: how many, and images of each in one.

    Returns:
        The estimate, which may be negative, and its standard error: how much it would differ from other images of the
        same laws. Of all pairs it is the jackknife's, which is too large (up to √2) where the laws are equal. Of
        subsets it is s·√(f/(1 − f) + 1/subsets), s their standard deviation and f = subset_size/min(N, M): subsets of
        one set share images, and differ less than those of new images by the factor √(1 − f).

    Raises:
        InputError: if sizes differ, or a set is too small.
    """
    check_sizes(x.shape[1], y.shape[1])
    least = min(len(x), len(y))
    if least < 3 or subset_size < 3 or subsets < 2:
        got = f"{least}, in {subsets} of {subset_size}"
        raise InputError(f"a kernel distance needs at least 3 images of each kind, in 2 subsets of 3 (got {got})")
    if subset_size >= least:
        return _jackknife(x, y)
    chosen = lambda v, i, side: v[shuffled(len(v), seed, i, side)[:subset_size]]
    values = [_jackknife(chosen(x, i, 0), chosen(y, i, 1))[0] for i in range(subsets)]
    part = subset_size / least
    error = np.std(values, ddof=1) * (part / (1 - part) + 1 / subsets) ** 0.5
    return float(np.mean(values)), float(error)


def _jackknife(x, y):
    """MMD² over all pairs, and its standard error by leaving out each image once: row sums hold all that this takes."""
    n, m = len(x), len(y)
    own_x, own_y = (_row_sums(v, v, apart=True)[0] for v in (x, y))
    across_x, across_y = _row_sums(x, y)
    total_x, total_y, across = own_x.sum(), own_y.sum(), across_x.sum()
    within_x, within_y = total_x / (n * (n - 1)), total_y / (m * (m - 1))
    without_x = (total_x - 2 * own_x) / ((n - 1) * (n - 2)) + within_y - 2 * (across - across_x) / ((n - 1) * m)
    without_y = (total_y - 2 * own_y) / ((m - 1) * (m - 2)) + within_x - 2 * (across - across_y) / ((m - 1) * n)
    variance = (n - 1) * np.var(without_x) + (m - 1) * np.var(without_y)
    return float(within_x + within_y - 2 * across / (n * m)), float(variance**0.5)


def _row_sums(x, y, *, apart=False):
    """Σ_j k(x_i, y_j) [N] and Σ_i k(x_i, y_j) [M]; `apart`: without i = j."""
    rows, columns = np.zeros(len(x)), np.zeros(len(y))
    for i, of_x in _blocks(x):
        for j, of_y in _blocks(y):
            kernel = (of_x @ of_y.T / x.shape[1] + 1) ** 3
            if apart and i == j:
                np.fill_diagonal(kernel, 0)
            rows[i] += kernel.sum(axis=1)
            columns[j] += kernel.sum(axis=0)
    return rows, columns


def _blocks(x) -> Iterator[tuple[slice, np.ndarray]]:
    """(where, float64 rows) of a set."""
    for start in range(0, len(x), BLOCK):
        chosen = slice(start, min(start + BLOCK, len(x)))
        yield chosen, np.asarray(x[chosen], np.float64)
