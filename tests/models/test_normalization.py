import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import expit

from tweedie_diffusion.models.normalization import GroupNorm, affine, affine_silu, summed_by_product, summed_by_shape

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.parametrize("shape", [(3, 4, 6, 8), (2, 5, 8)])
@pytest.mark.parametrize("modulated", [False, True])
def test_each_group_of_an_image_is_normalised_then_scaled_and_shifted(rng, shape, modulated):
    x = 3 + 2 * rng.normal(size=shape)
    own = {"scale": rng.normal(size=8), "bias": rng.normal(size=8)}
    more = rng.normal(size=(2, shape[0], 8)) if modulated else (None, None)
    grouped = x.reshape(shape[0], -1, 4, 2)
    mean, variance = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((grouped - mean) / np.sqrt(variance + 1e-6)).reshape(shape) * own["scale"] + own["bias"]
    if modulated:
        scale, shift = (np.expand_dims(v, tuple(range(1, x.ndim - 1))) for v in more)
        expected = expected * (1 + scale) + shift
    got = GroupNorm(4).apply({"params": own}, jnp.float32(x), scale=more[0], shift=more[1])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("last", [affine, affine_silu])
def test_an_image_in_parts_is_normalised_as_a_whole(rng, last):
    x = jnp.asarray(3 + 2 * rng.normal(size=(2, 4, 6, 8)), jnp.float32)
    norm = GroupNorm(2, last=last)  # whose groups lie across the parts
    own = {"params": {"scale": rng.normal(size=8), "bias": rng.normal(size=8)}}
    got = norm.apply(own, x[..., :1], x[..., 1:3], x[..., 3:])
    np.testing.assert_allclose(got, norm.apply(own, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("summed", [summed_by_product, summed_by_shape])
def test_channels_are_summed_in_groups(rng, summed):
    v = np.float32(rng.normal(size=(3, 8)))
    expected = np.repeat(v.reshape(3, 2, 4).sum(-1), 4, axis=-1)
    np.testing.assert_allclose(summed(2, jnp.asarray(v)), expected, rtol=1e-5, atol=1e-6)


def test_silu_follows_the_affine_map(rng):
    x, factor, offset = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(2, 4)), rng.normal(size=(2, 4))
    y = x * factor[:, None, None] + offset[:, None, None]
    np.testing.assert_allclose(affine_silu(*map(jnp.float32, (x, factor, offset))), y * expit(y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("modes", ["fwd", "rev"])
def test_the_derivatives_of_silu_after_an_affine_map_are_those_of_differences(rng, modes):
    x, *factors = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in [(2, 3, 4), (2, 4), (2, 4)])
    check_grads(affine_silu, (x, *factors), order=2, modes=[modes], atol=0.05, rtol=0.05, eps=1e-2)


def test_on_a_gpu_the_slope_is_worked_out_twice():
    lowered = jax.jit(jax.grad(lambda *a: jnp.sum(affine_silu(*a)), (0, 1, 2))).trace(
        jnp.ones((2, 3, 4)), jnp.ones((2, 4)), jnp.ones((2, 4))
    )
    apart = {p: "optimization_barrier" in lowered.lower(lowering_platforms=(p,)).as_text() for p in PLATFORMS}
    assert apart == {"cpu": False, "cuda": True, "tpu": False}


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
    apply = lambda own, x, scale: GroupNorm(4).apply({"params": own}, x, scale=scale, shift=scale)
    kept = jax.tree.leaves(jax.eval_shape(lambda *a: jax.vjp(apply, *a)[1], own, x, scale))
    assert sum(leaf.size for leaf in kept if leaf.size >= x.size) <= 2 * x.size
