import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling, infer_scaling


@pytest.mark.parametrize(
    ("dtype", "value_range", "ends"),
    [
        (np.uint8, None, (0, 255)),
        (np.uint16, None, (0, 65535)),
        (np.float32, None, (-1, 1)),
        (np.float64, None, (-1, 1)),
        (np.uint16, (0, 4095), (0, 4095)),
        (np.int16, (-1000, 3000), (-1000, 3000)),
        (np.float32, (0.0, 1.0), (0, 1)),
    ],
)
def test_the_ends_of_the_range_become_minus_one_and_one(dtype, value_range, ends):
    scaling = infer_scaling(dtype, value_range, bounded=True)
    x = scaling.to_unit(np.array([ends[0], sum(ends) / 2, ends[1]]))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, [-1, 0, 1], atol=3e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_integer_comes_back(dtype):
    stored = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    scaling = infer_scaling(dtype, None, bounded=True)
    back = scaling.from_unit(scaling.to_unit(stored))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, stored)


@pytest.mark.parametrize("value_range", [None, (0.0, 255.0), (-3.0, 5.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_floats_come_back_within_their_precision(rng, dtype, value_range):
    low, high = value_range or (-1, 1)
    stored = rng.uniform(low, high, 100).astype(dtype)
    scaling = infer_scaling(dtype, value_range, bounded=True)
    back = scaling.from_unit(scaling.to_unit(stored))
    assert back.dtype == dtype
    np.testing.assert_allclose(back, stored, atol=(high - low) * max(np.finfo(dtype).eps, 1e-7))


def test_floats_without_a_range_are_in_units_already(rng):
    stored = rng.uniform(-1, 1, 100).astype(np.float32)
    np.testing.assert_array_equal(infer_scaling(np.float32, None, bounded=True).to_unit(stored), stored)


def test_integers_are_rounded_to_the_nearest():
    half_a_step = 1 / 255
    x = np.array([-1 + 2 * half_a_step * 0.49, -1 + 2 * half_a_step * 0.51])
    np.testing.assert_array_equal(Scaling(0, 255, "uint8").from_unit(x), [0, 1])


def test_bounded_values_are_clipped():
    np.testing.assert_array_equal(Scaling(0, 255, "uint8").from_unit([-1.5, 1.5]), [0, 255])
    np.testing.assert_array_equal(Scaling(0, 1, "float32").from_unit([-1.5, 1.5]), [0, 1])


def test_unbounded_values_are_not_clipped():
    np.testing.assert_array_equal(Scaling(-1, 1, "float32", bounded=False).from_unit([-7.5, 7.5]), [-7.5, 7.5])


def test_unbounded_integers_stop_at_the_dtype_instead_of_wrapping():
    np.testing.assert_array_equal(Scaling(0, 100, "uint8", bounded=False).from_unit([-3, 9]), [0, 255])


@pytest.mark.parametrize("dtype", [np.int32, np.int16, np.uint32, np.bool_])
def test_a_dtype_without_a_usual_range_must_state_one(dtype):
    with pytest.raises(InputError, match=r"state it, e.g. --config.data.range"):
        infer_scaling(dtype, None, bounded=True)


@pytest.mark.parametrize("value_range", [(1, 0), (1, 1), (0, np.inf), (np.nan, 1)])
def test_a_range_must_increase(value_range):
    with pytest.raises(InputError, match=r"data.range must be \(low, high\) with low < high"):
        infer_scaling(np.uint8, value_range, bounded=True)
