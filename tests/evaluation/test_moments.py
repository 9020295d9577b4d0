import tracemalloc

import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation.moments import BLOCK, Moments, enough_for


def assert_same(found, x):
    """As NumPy has them of all rows at once."""
    assert found.count == len(x)
    np.testing.assert_allclose(found.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.T), rtol=1e-8, atol=1e-8)


@pytest.fixture
def x(rng):
    """Of correlated features, far from zero: E[x²] − E[x]² would leave no digit of their variance."""
    return rng.normal(size=(2500, 5)) @ rng.normal(size=(5, 5)) + 1e7


def test_batches_of_any_size_give_the_mean_and_covariance_of_all_rows(x):
    assert_same(Moments.of([x[:1], x[1:1], x[1:8], x[8 : 10 + BLOCK], x[10 + BLOCK :]]), x)


def test_float32_features_lose_nothing(x):
    x = (x - 1e7).astype(np.float32)
    assert_same(Moments.of(iter([x])), x.astype(np.float64))


def test_two_sets_merge(x):
    assert_same(Moments.of([x[:700]]).merge(Moments.of([x[700:]])), x)


def test_one_image_merges_and_has_no_covariance(x):
    one = Moments.of([x[:1]])
    with pytest.raises(InputError, match="at least 2 images"):
        _ = one.covariance
    assert_same(one.merge(Moments.of([x[1:]])), x)


def test_memory_does_not_grow_with_the_images():
    batch, size = np.ones((2000, 128), np.float32), 128
    tracemalloc.start()
    Moments.of(batch for _ in range(20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 8 * (BLOCK * size + size**2)  # a handful of blocks; all rows in float64 are 41 MB


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no images"),
        ([np.ones((3, 2)), np.ones((3, 4))], r"must be \[N, 2\]"),
        ([np.array([[1.0, np.nan]])], "NaN or infinity"),
    ],
)
def test_what_has_no_moments_is_refused(batches, message):
    with pytest.raises(InputError, match=message):
        Moments.of(batches)


def test_as_many_images_as_features_leave_the_covariance_singular(rng):
    rank = lambda count: np.linalg.matrix_rank(Moments.of([rng.normal(size=(count, 4))]).covariance)
    assert [(rank(count) == 4, enough_for(4, count)) for count in (4, 5)] == [(False, False), (True, True)]
