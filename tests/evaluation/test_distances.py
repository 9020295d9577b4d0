import numpy as np
import pytest
from scipy import stats

from tweedie_diffusion.evaluation.distances import energy_distance


def test_in_one_dimension_it_is_that_of_scipy(rng):
    x, y = rng.normal(0, 1, 3000), rng.normal(0.5, 1.3, 2000)
    biased = stats.energy_distance(x, y) ** 2  # counts the pairs of a point with itself
    expected = biased - sum(2 * np.abs(np.subtract.outer(v, v)).mean() / 2 / (len(v) - 1) for v in (x, y))
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(expected, rel=1e-6)


def test_it_is_unbiased_for_equal_laws(rng):
    values = [energy_distance(rng.normal(size=(20, 2, 2)), rng.normal(size=(30, 2, 2))) for _ in range(400)]
    assert abs(np.mean(values)) < 5 * np.std(values) / 20
