import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate2d

from tweedie_diffusion.models.linear import Conv
from tweedie_diffusion.models.scale_by_two import (
    convolve_doubled,
    double,
    halve,
    halved_by_shape,
    halved_by_window,
)


@pytest.mark.parametrize("halved", [halve, halved_by_shape, halved_by_window])
def test_halving_is_the_mean_of_four_pixels(rng, halved):
    x = rng.standard_normal((2, 4, 6, 3)).astype(np.float32)
    expected = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(halved(jnp.asarray(x)), expected, rtol=1e-6, atol=1e-6)


def test_doubling_repeats_each_pixel(rng):
    x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_array_equal(double(x), np.kron(x, np.ones((1, 2, 2, 1))))


@pytest.mark.parametrize("size", [(4, 6), (1, 3), (2, 1)])
def test_a_doubled_image_is_convolved_as_scipy_convolves_it(rng, size):
    x = rng.standard_normal((2, *size, 3)).astype(np.float32)
    kernel = rng.standard_normal((3, 3, 3, 5)).astype(np.float32)
    large = np.kron(x, np.ones((1, 2, 2, 1)))
    expected = [
        [sum(correlate2d(image[..., c], kernel[..., c, o], mode="same") for c in range(3)) for o in range(5)]
        for image in large
    ]
    found = jax.jit(convolve_doubled)(x, kernel)
    np.testing.assert_allclose(found, np.moveaxis(expected, 1, -1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "rtol"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_a_layer_takes_it_in_place_of_its_own(rng, dtype, rtol):
    x = rng.standard_normal((2, 4, 6, 8)).astype(np.float32)
    plain = Conv(5, dtype)
    layer = plain.clone(convolve=convolve_doubled)
    params = plain.init(jax.random.key(0), double(x))
    expected = plain.apply(params, double(x))
    np.testing.assert_allclose(layer.apply(params, x), expected, rtol=rtol, atol=rtol, strict=True)
