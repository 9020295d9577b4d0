"""How many images look real, and how much of what is real is covered: by nearest neighbours among features."""

from collections.abc import Iterator

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation.moments import check_sizes

NEIGHBOURS = 5
ROWS, COLUMNS = 1024, 4096  # of a block of distances: 32 MiB
EQUAL = 1e-12  # of ‖x‖² + ‖y‖²: a squared distance below this part is what rounding leaves of equal vectors


def fidelity(real: np.ndarray, generated: np.ndarray, *, neighbours: int = NEIGHBOURS) -> dict[str, float]:
    """Precision and recall (Kynkäänniemi et al. 2019, equation 1), density and coverage (Naeem et al. 2020, 3 and 4).

    The ball of an image reaches to its k-th nearest neighbour of its own kind. For equal laws density is 1 on average,
    and coverage 1 − C(N − 1, k)/C(N + M − 1, k).

    Args:
        real, generated: [N, F] and [M, F] features.
        neighbours: k.

    Returns:
        precision: part of the generated images that lie in the ball of a real one.
        recall: part of the real images that lie in the ball of a generated one.
        density: balls of real images that a generated one lies in, over k; may exceed 1.
        coverage: part of the real images whose ball holds a generated one.

    Raises:
        InputError: if sizes differ, a set has no more than k images, or a feature is NaN or infinite.
    """
    check_sizes(real.shape[1], generated.shape[1])
    for name, features in (("real", real), ("generated", generated)):
        if len(features) <= neighbours or neighbours < 1:
            raise InputError(
                f"{len(features)} {name} images have no {neighbours} neighbours each: take at least {neighbours + 1}"
            )
        if not np.isfinite(features).all():
            raise InputError(f"features of {name} images hold NaN or infinity: look at the images")
    middle = np.mean(real, axis=0, dtype=np.float64)  # small numbers lose less to rounding
    real_radii, generated_radii = (_squared_radii(features, middle, neighbours) for features in (real, generated))
    inside, covered, recalled = np.zeros(len(generated)), np.zeros(len(real), bool), np.zeros(len(real), bool)
    for i, j, squares in _blocks_of_squares(generated, real, middle):
        in_real = squares <= real_radii[j]
        inside[i] += in_real.sum(axis=1)
        covered[j] |= in_real.any(axis=0)
        recalled[j] |= (squares <= generated_radii[i, None]).any(axis=0)
    return {
        "precision": float(np.mean(inside > 0)),
        "recall": float(recalled.mean()),
        "density": float(inside.mean() / neighbours),
        "coverage": float(covered.mean()),
    }


def _squared_radii(x, middle, neighbours):
    """[N] squared distance of each row from its k-th nearest other."""
    nearest = np.full((len(x), neighbours), np.inf)
    for i, _, squares in _blocks_of_squares(x, x, middle, apart=True):
        candidates = np.concatenate([nearest[i], squares], axis=1)
        nearest[i] = np.partition(candidates, neighbours - 1, axis=1)[:, :neighbours]
    return nearest.max(axis=1)


def _blocks_of_squares(x, y, middle, *, apart=False) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """(rows, columns, squared distances between them); `apart`: infinite from a row to itself."""
    for i, of_x in _blocks(x, middle, ROWS):
        for j, of_y in _blocks(y, middle, COLUMNS):
            norms = np.sum(of_x * of_x, axis=1)[:, None] + np.sum(of_y * of_y, axis=1)
            squares = norms - 2 * (of_x @ of_y.T)
            squares[squares < EQUAL * norms] = 0
            if apart:
                shared = np.arange(max(i.start, j.start), min(i.stop, j.stop))
                squares[shared - i.start, shared - j.start] = np.inf
            yield i, j, squares


def _blocks(x, middle, size):
    """(where, float64 rows about `middle`)."""
    for start in range(0, len(x), size):
        chosen = slice(start, min(start + size, len(x)))
        yield chosen, x[chosen] - middle
