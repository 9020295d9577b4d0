import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.models.resampling import (
    bilinear_matrix,
    cubic_matrix,
    resample,
    resize_bicubic,
    resize_bilinear,
    smooth_cubic_matrix,
)

SIZES = [(1, 5), (8, 8), (5, 13), (32, 299), (13, 5), (400, 299)]


@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_bilinear_interpolates_where_tensorflow_1_does(size, new_size, rng):
    x = rng.normal(size=size)
    expected = np.interp(np.arange(new_size) * size / new_size, np.arange(size), x)  # which repeats the last one
    np.testing.assert_allclose(bilinear_matrix(size, new_size) @ x, expected, atol=1e-4)


@pytest.mark.parametrize(("size", "new_size"), SIZES)
def test_smooth_cubic_is_that_of_pillow(size, new_size, rng):
    x = rng.uniform(0, 255, size=(size, 3)).astype(np.float32)
    expected = np.asarray(Image.fromarray(x).resize((3, new_size), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(smooth_cubic_matrix(size, new_size) @ x, expected, atol=1e-3)


@pytest.mark.parametrize(("size", "new_size", "scale"), [(37, 16, 16.1 / 37), (37, 40, 40.1 / 37), (4, 8, 2.0)])
def test_cubic_is_that_of_pytorch(size, new_size, scale, rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(1, 1, size, 2))
    expected = torch.nn.functional.interpolate(torch.from_numpy(x), scale_factor=(scale, 1.0), mode="bicubic").numpy()
    np.testing.assert_allclose(cubic_matrix(size, new_size, scale=scale) @ x[0, 0], expected[0, 0], atol=1e-6)


@pytest.mark.parametrize("scale", [2.0, 2.1])
def test_cubic_is_its_formula_with_the_ends_repeated(scale):
    expected = [cubic_taps((i + 0.5) / scale - 0.5, 8) for i in range(16)]
    np.testing.assert_allclose(cubic_matrix(8, 16, scale=scale), expected, atol=1e-12)


def cubic_taps(at, size):
    """Weights by the definition, one tap at a time."""
    weights = np.zeros(size)
    for tap in range(-3, size + 3):
        t = abs(at - tap)
        if t < 1:
            weights[min(max(tap, 0), size - 1)] += 1.25 * t**3 - 2.25 * t**2 + 1
        elif t < 2:
            weights[min(max(tap, 0), size - 1)] += -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
    return weights


def test_both_axes_are_resampled_by_their_own_matrix(rng):
    x, rows, columns = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(6, 3)), rng.normal(size=(7, 4))
    expected = np.stack([[rows @ x[n, ..., c] @ columns.T for c in range(5)] for n in range(2)])
    found = resample(jnp.asarray(x, jnp.float32), rows, columns)
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", [16, 32, 300])
def test_bicubic_is_that_of_pillow_but_for_ties(side, rng):
    x = rng.integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(x).resize((56, 56), Image.Resampling.BICUBIC))
    found = resize_bicubic(jnp.asarray(x, jnp.float32), 56)
    assert np.mean(found != expected) < 1e-3
    np.testing.assert_allclose(found, expected, atol=1)


def test_bilinear_starts_at_the_first_pixel_and_ends_before_the_last():
    x = jnp.arange(4.0).reshape(1, 2, 2, 1)  # rows add 2, columns 1
    expected = np.add.outer([0, 1, 2, 2], [0, 0.5, 1, 1])
    np.testing.assert_array_equal(resize_bilinear(x, 4)[0, ..., 0], expected)
