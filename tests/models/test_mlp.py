import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.models.mlp import MLP
from tweedie_diffusion.models.preconditioning import precondition

SMALL = {"width": 8, "depth": 2}


def random_params(network, features=3, seed=0):
    """Parameters with every entry drawn at random, those that start at zero included."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, features)), jnp.zeros(1))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), shapes)


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.standard_normal((4, 3)), jnp.float32)


C_NOISE = jnp.array([-0.5, 0.0, 0.2, 1.0])


@pytest.mark.parametrize("features", [1, 2, 7])
def test_output_has_the_shape_of_the_input(features):
    network = MLP(**SMALL)
    x = jnp.zeros((5, features))
    out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), x, jnp.zeros(5))
    assert (out.shape, out.dtype) == ((5, features), jnp.float32)


def test_a_fresh_network_leaves_the_skip_alone(x):
    network = MLP(**SMALL)
    params = network.init(jax.random.key(0), x, C_NOISE)
    denoise = precondition(lambda x, c_noise: network.apply(params, x, c_noise), sigma_data=0.5)
    np.testing.assert_allclose(denoise(x, 0.5), x / 2, rtol=1e-6)


def test_a_row_does_not_depend_on_the_others(x):
    network = MLP(**SMALL)
    params = random_params(network)
    together = network.apply(params, x, C_NOISE)
    others = np.array([0, 2, 3])
    changed = network.apply(params, x.at[others].set(9.0), C_NOISE.at[others].set(0.7))
    np.testing.assert_allclose(changed[1], together[1], rtol=1e-6)
    assert not np.allclose(changed[others], together[others])


def test_the_noise_level_reaches_the_output(x):
    network = MLP(**SMALL)
    params = random_params(network)
    assert not np.allclose(network.apply(params, x, C_NOISE), network.apply(params, x, C_NOISE + 0.1))


def test_labels_change_the_output_and_the_last_means_no_class(x):
    network = MLP(**SMALL, num_classes=3)
    params = random_params(network)
    out = {label: network.apply(params, x, C_NOISE, jnp.full(4, label)) for label in range(4)}
    assert not np.allclose(out[0], out[1])
    assert not np.allclose(out[0], out[3])
    np.testing.assert_array_equal(out[3], network.apply(params, x, C_NOISE))


def test_labels_need_classes(x):
    network = MLP(**SMALL)
    with pytest.raises(ValueError, match="set num_classes"):
        network.apply(random_params(network), x, C_NOISE, jnp.zeros(4, int))


def test_bfloat16_computes_with_float32_weights_and_output(x):
    network = MLP(**SMALL, dtype=jnp.bfloat16)
    params = random_params(network)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    out = network.apply(params, x, C_NOISE)
    exact = MLP(**SMALL).apply(params, x, C_NOISE)
    assert out.dtype == jnp.float32
    error = np.abs(out - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.1  # bfloat16 keeps 8 bits


def test_images_are_sent_to_the_unet():
    with pytest.raises(ValueError, match="use the U-Net for images"):
        jax.eval_shape(MLP(**SMALL).init, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1))


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_fourier_features_have_the_frequencies_asked_for(scale):
    # A lone first layer reads cos(w·x): its second derivative along one axis is −w² at 0.
    network = MLP(width=4, depth=0, fourier_features=4000, fourier_scale=scale)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))
    assert shapes["params"]["Dense_0"]["kernel"].shape == (2 + 8000, 4)
    params = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    kernel = params["params"]["Dense_0"]["kernel"].at[2:4002, 0].set(1 / 4000)  # the mean of the cosines
    params["params"]["Dense_0"]["kernel"] = kernel
    params["params"]["Dense_1"]["kernel"] = jnp.ones((4, 2))
    out = lambda x: network.apply(params, jnp.array([[x, 0.0]]), jnp.zeros(1))[0, 0]
    mean_cosine = np.exp(-(scale**2) * 0.3**2 / 2)  # E cos(w·0.3), w ~ N(0, scale²)
    expected = mean_cosine / (1 + np.exp(-mean_cosine))
    assert abs(out(0.3) - expected) < 5 * 0.5**0.5 / 4000**0.5
