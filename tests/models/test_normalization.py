import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.models.normalization import GroupNorm


@pytest.mark.parametrize("shape", [(3, 4, 6, 8), (2, 5, 8)])
@pytest.mark.parametrize("modulated", [False, True])
def test_each_group_of_an_image_is_normalised_then_scaled_and_shifted(rng, shape, modulated):
    x = 3 + 2 * rng.normal(size=shape)
    own = {"scale": rng.normal(size=8), "bias": rng.normal(size=8)}
    more = rng.normal(size=(2, shape[0], 8)) if modulated else ()
    grouped = x.reshape(shape[0], -1, 4, 2)
    mean, variance = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(shape) * own["scale"] + own["bias"]
    if modulated:
        scale, shift = (np.expand_dims(v, tuple(range(1, x.ndim - 1))) for v in more)
        expected = expected * (1 + scale) + shift
    got = GroupNorm(4).apply({"params": own}, jnp.float32(x), *more)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_image_becomes_the_bias():
    own = {"scale": jnp.ones(4), "bias": jnp.arange(4.0)}
    got = GroupNorm(2).apply({"params": own}, jnp.full((1, 3, 3, 4), 7.0))
    np.testing.assert_allclose(got, np.broadcast_to(np.arange(4.0), (1, 3, 3, 4)), atol=0.05)


def test_the_result_is_rounded_last(rng):
    x = jnp.asarray(rng.normal(size=(2, 4, 4, 8)), jnp.bfloat16)
    own = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}
    exact = GroupNorm(2).apply({"params": own}, x)
    rounded = GroupNorm(2, jnp.bfloat16).apply({"params": own}, x)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded, exact.astype(jnp.bfloat16))


def test_the_backward_pass_keeps_the_image_once(rng):
    x = jnp.asarray(rng.normal(size=(2, 16, 16, 8)), jnp.float32)
    own, scale = {"scale": jnp.ones(8), "bias": jnp.zeros(8)}, jnp.ones((2, 8))
    apply = lambda own, x, scale: GroupNorm(4).apply({"params": own}, x, scale, scale)
    kept = jax.tree.leaves(jax.eval_shape(lambda *a: jax.vjp(apply, *a)[1], own, x, scale))
    assert sum(leaf.size for leaf in kept if leaf.size >= x.size) <= 2 * x.size
