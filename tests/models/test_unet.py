import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.models.preconditioning import precondition
from tweedie_diffusion.models.unet import UNet, check_image_shape

# One resolution: five blocks, the least that compiles. Two: with halving, doubling and attention.
FLAT = {"channels": 8, "channel_multipliers": (1,), "blocks_per_resolution": 1, "attention_resolutions": ()}
DEEP = FLAT | {"channel_multipliers": (1, 2), "attention_resolutions": (4,)}
C_NOISE = jnp.array([-0.5, 0.0, 0.7])
FAST = {"xla_backend_optimization_level": 0}  # compiles in half the time


def shapes_of(network, image=(8, 8, 2)):
    return jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *image)), jnp.zeros(1))


def random_params(network, image=(8, 8, 2)):
    """Parameters with every entry drawn at random, those that start at zero included."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, 0.2, s.shape).astype(s.dtype), shapes_of(network, image))


def compiled(network):
    return jax.jit(network.apply, compiler_options=FAST)


@pytest.fixture(scope="module")
def x():
    return jnp.asarray(np.random.default_rng(1).standard_normal((3, 8, 8, 2)), jnp.float32)


@pytest.fixture(scope="module")
def deep():
    """A network of two resolutions with random parameters, compiled: (apply(params, x, c_noise), params)."""
    network = UNet(**DEEP)
    return compiled(network), random_params(network)


@pytest.mark.parametrize("image", [(8, 8, 1), (8, 8, 2), (4, 12, 3), (10, 6, 5), (2, 2, 1)])
@pytest.mark.parametrize("num_classes", [0, 4])
def test_output_has_the_shape_of_the_input(image, num_classes):
    network = UNet(**DEEP, num_classes=num_classes)
    out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros((3, *image)), C_NOISE)
    assert (out.shape, out.dtype) == ((3, *image), jnp.float32)


@pytest.mark.parametrize(("channels", "multipliers"), [(9, (1,)), (7, (1, 3)), (1, (1,)), (200, (1,)), (130, (1,))])
def test_group_and_head_sizes_fit_any_channel_number(channels, multipliers):
    network = UNet(channels, multipliers, blocks_per_resolution=1, attention_resolutions=(4,))
    out, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1))
    assert out.shape == (1, 4, 4, 1)


def test_a_fresh_network_leaves_the_skip_alone(deep, x):
    # Its last layer starts at zero; the rest is random here, because compiling the initialiser takes long.
    apply, params = deep
    fresh = jax.jit(lambda key: UNet(**DEEP).init(key, x, C_NOISE)["params"]["conv_out"])(jax.random.key(0))
    params = {"params": params["params"] | {"conv_out": fresh}}
    denoise = precondition(lambda x, c_noise: apply(params, x, c_noise), sigma_data=0.5)
    np.testing.assert_allclose(denoise(x, 0.5), x / 2, rtol=1e-6)


def test_a_row_does_not_depend_on_the_others(deep, x):
    apply, params = deep
    together = apply(params, x, C_NOISE)
    others = np.array([0, 2])
    changed = apply(params, x.at[others].set(2.0), C_NOISE.at[others].set(0.3))
    np.testing.assert_allclose(changed[1], together[1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(changed[others], together[others])


def test_the_noise_level_reaches_the_output(deep, x):
    apply, params = deep
    assert not np.allclose(apply(params, x, C_NOISE), apply(params, x, C_NOISE + 0.1))


def test_every_pixel_reaches_every_other(deep, x):
    apply, params = deep
    changed = apply(params, x.at[:, 0, 0, 0].add(1.0), C_NOISE) - apply(params, x, C_NOISE)
    assert (np.abs(changed) > 0).all()


@pytest.mark.parametrize(
    ("resolutions", "expected"),
    [
        ((), set()),
        ((8,), {"down_0_0", "down_0_1", "up_0_2", "middle_0"}),
        ((4,), {"down_1_0", "down_1_1", "up_1_2", "middle_0"}),
        ((3,), {"middle_0"}),
    ],
)
def test_attention_sits_at_the_stated_heights_and_in_the_middle(resolutions, expected):
    network = UNet(**DEEP | {"blocks_per_resolution": 2, "attention_resolutions": resolutions})
    blocks = shapes_of(network, (8, 12, 1))["params"]
    assert {name for name, block in blocks.items() if "attention" in block} == expected


def test_bfloat16_computes_with_float32_weights_and_output(x):
    exact, low = UNet(**FLAT), UNet(**FLAT, dtype=jnp.bfloat16)
    params = random_params(low)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype("float32")}
    got, expected = compiled(low)(params, x, C_NOISE), compiled(exact)(params, x, C_NOISE)
    assert got.dtype == jnp.float32
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert 0 < error < 0.1  # bfloat16 keeps 8 bits


def test_remat_changes_neither_output_nor_gradient(x):
    plain, remat = UNet(**FLAT), UNet(**FLAT, remat=True)
    params = random_params(plain)
    assert shapes_of(plain) == shapes_of(remat)
    target = jnp.roll(x, 1, axis=0)
    loss = lambda network: lambda params: jnp.mean((network.apply(params, x, C_NOISE) - target) ** 2)
    results = [jax.jit(jax.value_and_grad(loss(n)), compiler_options=FAST)(params) for n in (plain, remat)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_remat_keeps_a_third_and_repeats_no_convolution(x):
    def costs(network):
        loss = lambda params, x: jnp.sum(network.apply(params, x, C_NOISE))
        kept = jax.eval_shape(lambda *a: jax.vjp(loss, *a)[1], shapes_of(network), x)
        text = str(jax.make_jaxpr(jax.grad(loss))(shapes_of(network), x))
        return sum(leaf.size for leaf in jax.tree.leaves(kept)), text.count("conv_general_dilated[")

    (kept, convolutions), (less, as_many) = costs(UNet(**FLAT)), costs(UNet(**FLAT, remat=True))
    weights = sum(leaf.size for leaf in jax.tree.leaves(shapes_of(UNet(**FLAT))))
    assert less - weights < (kept - weights) / 3
    assert as_many == convolutions


def test_dropout_is_random_in_training_and_absent_otherwise(x):
    network, without = UNet(**FLAT, dropout=0.5), UNet(**FLAT)
    params = random_params(network)
    train = jax.jit(
        lambda params, seed: network.apply(params, x, C_NOISE, train=True, rngs={"dropout": jax.random.key(seed)}),
        compiler_options=FAST,
    )
    np.testing.assert_array_equal(compiled(network)(params, x, C_NOISE), compiled(without)(params, x, C_NOISE))
    np.testing.assert_array_equal(train(params, 0), train(params, 0))
    assert not np.allclose(train(params, 0), train(params, 1))


def test_labels_change_the_output_and_the_last_means_no_class(x):
    network = UNet(**FLAT, num_classes=3)
    apply, params = compiled(network), random_params(network)
    out = {label: apply(params, x, C_NOISE, jnp.full(3, label)) for label in (0, 1, 3)}
    assert not np.allclose(out[0], out[1])
    assert not np.allclose(out[0], out[3])
    np.testing.assert_allclose(out[3], apply(params, x, C_NOISE), rtol=1e-5, atol=1e-6)


def test_labels_need_classes(x):
    with pytest.raises(ValueError, match="set num_classes"):
        jax.eval_shape(UNet(**FLAT).init, jax.random.key(0), x, C_NOISE, jnp.zeros(3, int))


@pytest.mark.parametrize("image", [(6, 8, 1), (8, 6, 1), (9, 9, 3)])
def test_sizes_that_cannot_be_halved_are_refused_with_the_mend(image):
    with pytest.raises(ValueError, match=r"crop or pad them to a multiple of 4, or shorten model.channel_multipliers"):
        check_image_shape(image, 3)


def test_the_network_checks_its_images():
    with pytest.raises(ValueError, match="images of 7×8 cannot be halved 1 times"):
        shapes_of(UNet(**DEEP), (7, 8, 1))


def test_vectors_are_sent_to_the_mlp():
    with pytest.raises(ValueError, match="use the MLP for vectors"):
        check_image_shape((5,), 1)
