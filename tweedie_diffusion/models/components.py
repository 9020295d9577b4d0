"""Gaussian components from sums over noisy vectors: their moments, and which are parts of one (docs/maths.md, 7).

Of each component [F] = [1 + D + D(D + 1)/2] sums: of its shares, of x, and of the products of the entries of x.
"""

import itertools
import math

import numpy as np

FLOOR = 2.5e-5  # of every variance: .005 of the range [-1, 1], less than a step of 8 bits
MERGE_PASSES, MERGE_TRIALS = 5, 10  # before two components made one are judged; refused in a row


def components_of(total: np.ndarray, dim: int, noise_variance: float):
    """Of the sums `total` [K, F]: counts [K], means [K, D], axes [K, D, D], clean variances along them [K, D], and
    which of these are within the spread of noise.

    A few patches without detail are added to each, so that a component of almost none keeps a covariance.
    """
    count = total[:, 0] + 1e-6
    mean = total[:, 1 : 1 + dim] / count[:, None]
    second = np.asarray(symmetric(total[:, 1 + dim :] / count[:, None], dim))
    covariance = second - mean[:, :, None] * mean[:, None]
    covariance += (noise_variance + FLOOR) * dim / count[:, None, None] * np.eye(dim)
    values, axes = np.linalg.eigh(covariance / (1 + dim / count)[:, None, None])
    values -= noise_variance
    spread = np.sqrt(dim / np.maximum(count, 1.0))[:, None]
    return count, mean, axes, values, values < noise_variance * (2 * spread + spread**2)


def shrink(values: np.ndarray, error_variances: np.ndarray) -> np.ndarray:
    """Values drawn to their mean: what their errors explain of their spread is taken out (DerSimonian and Laird)."""
    weights = 1 / error_variances
    mean = weights @ values / weights.sum()
    excess = weights @ np.square(values - mean) - (len(values) - 1)
    spread = max(excess / (weights.sum() - np.square(weights).sum() / weights.sum()), 0.0)
    return mean + spread / (spread + error_variances) * (values - mean)


def merge(total: np.ndarray, one_pass, dim: int, noise_variance: float) -> np.ndarray:
    """Rows of `total` added up, two at a time, while Schwarz's criterion is for one Gaussian instead of both.

    Random starts leave some of the Gaussians of a true mixture in parts. Pairs are tried in the order in which their
    union raises the cost of the vectors, each taken as of one component; a few passes of expectation-maximisation
    follow before one is judged. Not for patches, whose components overlap because their law is no mixture of a few.

    Args:
        total: [K, F].
        one_pass: [K, F] -> the sums by the mixture that they make, and its log likelihood.
        dim: D.
        noise_variance: σ_tn².
    """
    alive, log_count = np.flatnonzero(total[:, 0] > 1), math.log(total[:, 0].sum())

    def settle(total, alive):
        """Rows without patches stay, as zeros: one shape is compiled once."""
        kept, log_likelihood = np.isin(np.arange(len(total)), alive)[:, None], 0.0
        for _ in range(MERGE_PASSES):
            total, log_likelihood = one_pass(np.where(kept, total, 0.0))
        return np.where(kept, total, 0.0), log_likelihood

    def candidates(total, alive):
        """(rise of the cost, penalty of a second Gaussian, the two), the least rise first."""
        cost, numbers = _cost_and_numbers(total[alive], dim, noise_variance)
        for i, j in itertools.combinations(range(len(alive)), 2):
            union = total[alive[i]] + total[alive[j]]
            (cost_of_one,), (numbers_of_one,) = _cost_and_numbers(union[None], dim, noise_variance)
            penalty = (numbers[i] + numbers[j] - numbers_of_one) / 2 * log_count
            if (rise := cost_of_one - cost[i] - cost[j]) <= penalty:
                yield rise, penalty, alive[i], alive[j]

    total, before = settle(total, alive)
    while True:
        for _, penalty, keep, drop in sorted(candidates(total, alive))[:MERGE_TRIALS]:
            union = total.copy()
            union[keep] += union[drop]
            left = alive[alive != drop]
            merged, after = settle(union, left)
            if before - after <= penalty:
                total, before, alive = merged, after, left
                break
        else:
            return total[alive]


def _cost_and_numbers(total: np.ndarray, dim: int, noise_variance: float):
    """Of each component [K]: −log likelihood of its vectors and of being of it, up to what all partitions share; and
    how many numbers describe it: weight, mean, level, the d variances above the spread of noise, and their axes.
    """
    count, _, _, values, small = components_of(total, dim, noise_variance)
    above = dim - small.sum(axis=1)
    numbers = 2 + dim + above + above * (dim - (above + 1) / 2)
    log_determinant = np.log(np.maximum(values, FLOOR) + noise_variance).sum(axis=1)
    return count * (log_determinant / 2 - np.log(count)), numbers


def symmetric(upper, dim):
    """[..., D(D+1)/2] -> [..., D, D]."""
    index = np.zeros((dim, dim), int)
    index[np.triu_indices(dim)] = np.arange(dim * (dim + 1) // 2)
    return upper[..., np.maximum(index, index.T)]
