import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.models.linear import Conv, Dense


def params_of(rng, *kernel):
    return {"kernel": jnp.float32(rng.normal(size=kernel)), "bias": jnp.float32(rng.normal(size=kernel[-1]))}


def test_an_image_in_parts_is_mapped_as_a_whole(rng):
    x, own = rng.normal(size=(2, 3, 5, 6)), params_of(rng, 6, 4)
    got = Dense(4, gain=0.5).apply({"params": own}, *map(jnp.float32, (x[..., :1], x[..., 1:4], x[..., 4:])))
    np.testing.assert_allclose(
        got, 0.5 * (x @ np.asarray(own["kernel"]) + np.asarray(own["bias"])), rtol=1e-5, atol=1e-5
    )


def test_a_convolution_is_that_of_flax(rng):
    x, own = jnp.float32(rng.normal(size=(2, 4, 5, 3))), params_of(rng, 3, 3, 3, 4)
    expected = 0.5 * nn.Conv(4, (3, 3)).apply({"params": own}, x)
    np.testing.assert_allclose(Conv(4, gain=0.5).apply({"params": own}, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("ours", "theirs"), [(Dense(4), nn.Dense(4)), (Conv(4), nn.Conv(4, (3, 3)))])
def test_parameters_start_as_those_of_flax(ours, theirs):
    x = jnp.ones((1, 4, 4, 3))
    jax.tree.map(np.testing.assert_array_equal, *(layer.init(jax.random.key(0), x) for layer in (ours, theirs)))


@pytest.mark.parametrize(("layer", "kernel"), [(Dense(4, "bfloat16"), (4, 4)), (Conv(4, "bfloat16"), (3, 3, 4, 4))])
def test_the_gradient_of_a_bias_is_summed_in_float32(rng, layer, kernel):
    own, cotangent = params_of(rng, *kernel), jnp.asarray(1 + rng.normal(size=(8, 32, 32, 4)), jnp.bfloat16)
    _, pull = jax.vjp(lambda own: layer.apply({"params": own}, jnp.zeros(cotangent.shape)), own)
    expected = np.sum(np.float64(cotangent), axis=(0, 1, 2))
    np.testing.assert_allclose(pull(cotangent)[0]["bias"], expected, rtol=1e-5)  # in bfloat16, an eighth of some 8000
