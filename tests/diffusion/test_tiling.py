import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.diffusion.tiling import tiled


@pytest.mark.parametrize("size", [(8, 8), (8, 9), (17, 30), (64, 41)])
def test_what_treats_pixels_alone_is_the_same_in_tiles(rng, size):
    denoise = gaussian_denoiser(0.2, 0.7)
    x_t = jnp.asarray(rng.standard_normal((2, *size, 3)), jnp.float32)
    sigma = jnp.asarray([0.3, 0.9])
    got = jax.jit(tiled(denoise, (8, 8, 3)))(x_t, sigma)
    np.testing.assert_allclose(got, denoise(x_t, sigma), atol=1e-5)


def test_a_tile_alone_is_left_as_it_is(rng):
    mean_of_tile = lambda x, sigma: jnp.broadcast_to(x.mean(axis=(1, 2, 3), keepdims=True), x.shape)
    x_t = jnp.asarray(rng.standard_normal((3, 8, 8, 1)), jnp.float32)
    np.testing.assert_allclose(tiled(mean_of_tile, (8, 8, 1))(x_t, 0.5), mean_of_tile(x_t, 0.5), atol=1e-6)


def test_no_seam_shows():
    """A denoiser that knows its place in the tile: neighbouring pixels of the blend differ by little."""
    ramp = jnp.linspace(-1, 1, 16)[None, :, None, None]
    place = lambda x, sigma: jnp.broadcast_to(ramp, x.shape)
    blend = tiled(place, (16, 16, 1))(jnp.zeros((1, 64, 16, 1)), 0.5)
    assert float(jnp.abs(jnp.diff(blend, axis=1)).max()) < 0.15  # at a hard seam it would be 2


def test_memory_is_that_of_a_few_tiles():
    """No more than 64 tiles go through the network at once."""
    seen = []

    def denoise(x, sigma):
        seen.append(x.shape[0])
        return x

    jax.eval_shape(tiled(denoise, (4, 4, 1)), jnp.zeros((1, 80, 80, 1)), jnp.zeros(1))
    assert max(seen) <= 64
