import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.models.edm_unet import EDMBlock, EDMUNet, Mapping, sines_first
from tweedie_diffusion.models.scale_by_two import halve


def random_params(module, *inputs, scale=0.5):
    noise = np.random.default_rng(1)
    params = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    return jax.tree.map(lambda p: np.float32(scale * noise.standard_normal(p.shape)), params)


def silu(x):
    return x / (1 + np.exp(-x))


def group_norm(x, p):
    """Each group of four channels, to mean 0 and variance 1 over its pixels."""
    b, h, w, c = x.shape
    grouped = x.reshape(b, h * w, c // 4, 4)
    grouped = grouped - grouped.mean((1, 3), keepdims=True)
    grouped = grouped / np.sqrt((grouped**2).mean((1, 3), keepdims=True) + 1e-6)
    return grouped.reshape(x.shape) * p["scale"] + p["bias"]


def convolved(x, p):
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows, p["kernel"]) + p["bias"]


def attended(x, p):
    """One head; channels 3c, 3c + 1, 3c + 2 of qkv are the query, key and value of channel c."""
    b, h, w, c = x.shape
    qkv = (group_norm(x, p["norm2"]) @ p["qkv"]["kernel"] + p["qkv"]["bias"]).reshape(b, h * w, 3 * c)
    q, k, v = qkv[..., 0::3], qkv[..., 1::3], qkv[..., 2::3]
    scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(c))
    out = (scores / scores.sum(-1, keepdims=True)) @ v
    return (out @ p["proj"]["kernel"] + p["proj"]["bias"]).reshape(x.shape)


@pytest.mark.parametrize(("resample", "attend"), [(None, True), (halve, False)])
def test_a_block_is_its_formula(rng, resample, attend):
    x, embedded = 1e-3 * rng.standard_normal((2, 4, 4, 8)), rng.standard_normal((2, 6))  # ε of the norm matters
    block = EDMBlock(12, resample, attend)
    p = random_params(block, jnp.float32(x), jnp.float32(embedded), False)
    half = (lambda v: v) if resample is None else lambda v: v.reshape(2, 2, 2, 2, 2, -1).mean((2, 4))
    h = convolved(half(silu(group_norm(x, p["norm0"]))), p["conv0"])
    h = h + (embedded @ p["affine"]["kernel"] + p["affine"]["bias"])[:, None, None]
    h = convolved(silu(group_norm(h, p["norm1"])), p["conv1"])
    h = (h + half(x) @ p["skip"]["kernel"] + p["skip"]["bias"]) / np.sqrt(2)
    h = (h + attended(h, p)) / np.sqrt(2) if attend else h
    found = block.apply({"params": p}, jnp.float32(x), jnp.float32(embedded), False)
    np.testing.assert_allclose(found, h, atol=1e-4)


def test_levels_are_told_by_sines_and_then_cosines():
    frequencies = [1.0, 1e-2, 1e-4]
    expected = [[np.sin(0.7 * f) for f in frequencies] + [np.cos(0.7 * f) for f in frequencies]]
    np.testing.assert_allclose(sines_first(jnp.array([0.7]), 6), expected, rtol=1e-5)


def test_labels_that_name_no_class_add_nothing():
    mapping, c_noise = Mapping(4, 3), jnp.zeros(2)
    p = random_params(mapping, c_noise)
    without = mapping.apply({"params": p}, c_noise)
    np.testing.assert_array_equal(mapping.apply({"params": p}, c_noise, jnp.array([3, -1])), without)
    assert not np.allclose(mapping.apply({"params": p}, c_noise, jnp.array([0, 1])), without)
    with pytest.raises(ValueError, match="without classes"):
        Mapping(4).apply({"params": p}, c_noise, jnp.zeros(2, int))


def test_dropout_is_of_training_alone():
    network = EDMUNet(8, (1,), 1, (), dropout=0.5)
    x = jnp.ones((1, 4, 4, 1))
    p = random_params(network, x, jnp.zeros(1))
    once = network.apply({"params": p}, x, jnp.zeros(1))
    np.testing.assert_array_equal(network.apply({"params": p}, x, jnp.zeros(1)), once)
    train = {"train": True, "rngs": {"dropout": jax.random.key(1)}}
    assert not np.allclose(network.apply({"params": p}, x, jnp.zeros(1), **train), once)
