"""What runs on a CPU here is lowered for a GPU and a TPU too: all that a training and its model compile."""

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.models.patch_mixture import PatchMixture
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import (
    first_buffer,
    init_state,
    layout_of,
    make_optimizer,
    make_refresh_step,
    make_train_step,
)
from tweedie_diffusion.training.trained import TrainedModel

PLATFORMS, HALF_AND_SINGLE = ("cpu", "cuda", "tpu"), {"bf16", "f32"}
ROWS, SHAPE = 8, (8, 8, 1)
array = jax.ShapeDtypeStruct
BATCH = {"x_tn": array((ROWS, *SHAPE), "float32"), "sigma_tn": array((ROWS,), "float32")}
BATCH |= {"label": array((ROWS,), "int32")}


def whole_config():
    """A small U-Net in bfloat16 with all that a config can add, and both terms below the data's noise."""
    config = default_config()
    config.model.channels, config.model.channel_multipliers, config.model.blocks_per_resolution = 8, (1, 2), 1
    config.model.attention_resolutions = (4,)
    config.model.dtype = "bfloat16"
    config.model.noise_units, config.model.patch_components, config.model.patch_side = True, 8, 2
    config.training.batch_size = ROWS
    config.refresh.weight, config.refresh.capacity, config.refresh.rows, config.refresh.num_steps = 1.0, 16, 2, 2
    config.refresh.relaxation = 1.0
    return config


def model_of(config) -> TrainedModel:
    """Its weights are shapes alone."""
    facts = DataFacts(SHAPE, 0.5, 0.4, 0.4, 10, Scaling(0, 255, "uint8"), 100, 10)
    network = build_network(config.model, facts)
    parts, dim = config.model.patch_components, config.model.patch_side**2
    mixture = PatchMixture(*(jnp.ones(s) for s in ((parts,), (parts, dim), (parts, dim, dim), (parts, dim), (2,))))
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), network, config.model, facts))
    return TrainedModel(config, facts, denoiser_maker(network, config.model, facts, mixture), params)


def floats(function, *arguments) -> set[str]:
    """The types of floats in the module of a jitted function for all platforms. One that calls the host has none."""
    module = jax.export.export(function, platforms=PLATFORMS)(*arguments).mlir_module()
    return set(re.findall(r"[<x](bf16|f\d+)>", module))


def state_of(model, optimizer):
    buffer = lambda: first_buffer(model.config.refresh, SHAPE)
    return jax.eval_shape(lambda params: init_state(params, optimizer, buffer()), model.params)


@pytest.fixture(scope="module")
def model():
    return model_of(whole_config())


@pytest.fixture(scope="module")
def model_with_classes():
    config = whole_config()
    config.model.class_conditional, config.model.dropout, config.model.remat = True, 0.1, True
    return model_of(config)


def floats_of_step(model, **terms):
    optimizer = make_optimizer(model.config.training)
    objective = make_objective(model.config, model.make_denoise, 0.5, **terms)
    step = make_train_step(objective, optimizer, ema_decay=0.9, seed=0, mesh=make_mesh())
    return floats(step, state_of(model, optimizer), BATCH)


def test_the_step_with_all_terms(model):
    assert floats_of_step(model, with_consistency=True, with_refresh=True) == HALF_AND_SINGLE


def test_the_step_of_a_network_with_classes_dropout_and_blocks_computed_again(model_with_classes):
    assert floats_of_step(model_with_classes) == HALF_AND_SINGLE


def test_on_a_gpu_the_gradients_of_kernels_are_turned_before_the_update(model):
    mesh, optimizer = make_mesh(), make_optimizer(model.config.training)
    objective, state = make_objective(model.config, model.make_denoise, 0.5), state_of(model, optimizer)
    step = make_train_step(objective, optimizer, ema_decay=0.9, seed=0, mesh=mesh, layout=layout_of(state, mesh))
    lowered = {p: step.trace(state, BATCH).lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")}
    turned = {p: re.findall(r"optimization_barrier %\S+ : tensor<(\d+)xf32>", text) for p, text in lowered.items()}
    kernels = [x.size for x in jax.tree.leaves(model.params) if x.ndim == 4]
    assert sorted(map(int, turned["cuda"])) == sorted(kernels)
    assert turned["cpu"] == []


def test_the_refresh(model):
    step = make_refresh_step(model.config, model.make_denoise, make_mesh())
    assert floats(step, state_of(model, make_optimizer(model.config.training)), BATCH) == HALF_AND_SINGLE


def test_samples_and_their_denoiser(model_with_classes):
    model = model_with_classes
    sigmas = np.array([2.0, 1.0, 0.5])

    def sample(params, numbers, x_init, labels, guidance):
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(numbers)
        return model._compiled_reverse(params, keys, x_init, sigmas, labels, guidance, "heun")

    weight = array((3,), "float32")
    assert (
        floats(jax.jit(sample), model.params, BATCH["label"], BATCH["x_tn"], BATCH["label"], weight) == HALF_AND_SINGLE
    )
    assert (
        floats(model._compiled_denoise, model.params, BATCH["x_tn"], BATCH["sigma_tn"], BATCH["label"])
        == HALF_AND_SINGLE
    )


def test_calls_of_the_host_and_doubles_would_be_found():
    with pytest.raises(NotImplementedError, match="callback"):  # by the lowering itself
        floats(jax.jit(lambda x: jax.pure_callback(np.sin, x, x)), array((2,), "float32"))
    with jax.enable_x64(True):
        assert floats(jax.jit(lambda x: 2 * x), array((2,), "float64")) == {"f64"}
