import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training import loop, memory
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.memory import device_memory, kept_bytes, mends, need_of
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import first_buffer, init_state, layout_of, make_optimizer, make_train_step

array = jax.ShapeDtypeStruct


def facts_of(shape):
    return DataFacts(shape, 0.5, 0.3, 0.3, 0, Scaling(0, 255, "uint8"), 1000, 10)


def small_unet():
    config = default_config()
    config.model.channels, config.model.channel_multipliers, config.model.blocks_per_resolution = 16, (1,), 1
    config.model.attention_resolutions = ()
    return config, facts_of((16, 16, 1))


def wide_mlp():
    config = default_config()
    config.model.network, config.model.width, config.model.depth = "mlp", 256, 2
    return config, facts_of((8,))


def parts_of(config, facts):
    """Network, optimiser and the shapes of the state."""
    network, optimizer = build_network(config.model, facts), make_optimizer(config.training)
    params = lambda: init_params(jax.random.key(0), network, config.model, facts)
    state = jax.eval_shape(lambda: init_state(params(), optimizer, first_buffer(config.refresh, facts.shape)))
    return network, optimizer, state


def need(config, facts, rows=64):
    network, _, state = parts_of(config, facts)
    return need_of(config, network, facts, state, rows=rows)


def test_what_is_kept_is_neither_weights_nor_images_and_is_counted_once():
    def loss(params, x):
        return jnp.sum(jnp.exp(x @ params["first"]) @ params["second"])  # both gradients ask for the exponential

    params = {"first": array((3, 7), "float32"), "second": array((7, 2), "float32")}
    assert kept_bytes(loss, params, array((5, 3), "float32")) == 5 * 7 * 4


def test_a_state_is_four_times_its_weights_and_the_buffer():
    config, facts = wide_mlp()
    plain = need(config, facts)
    assert 4 * plain.gradients < plain.state < 4 * plain.gradients + 64  # and counters
    config.refresh.weight, config.refresh.capacity = 1.0, 100
    assert need(config, facts).state - plain.state == 100 * (8 + 1 + 1) * 4 + 4


def test_a_state_in_parts_is_smaller_and_its_gradients_are_not():
    config, facts = wide_mlp()
    network, _, state = parts_of(config, facts)
    layout = layout_of(state, AbstractMesh((1, 8), ("data", "shard")))
    parts, whole = need_of(config, network, facts, state, layout, rows=64), need(config, facts)
    assert whole.state / 8 < parts.state < whole.state / 6  # small arrays are not cut
    assert parts.gradients == whole.gradients


def test_what_is_kept_grows_with_the_rows():
    kept = [need(*small_unet(), rows=rows).kept for rows in (8, 16, 24)]
    assert kept[2] - kept[1] == kept[1] - kept[0]
    assert kept[0] > 0.99 * (kept[1] - kept[0])


def test_blocks_that_are_computed_again_keep_less():
    config, facts = small_unet()
    config.model.patch_components, config.model.noise_units = 8, True  # they are traced too
    whole = need(config, facts).kept
    config.model.remat = True
    assert need(config, facts).kept < whole / 3


@pytest.mark.parametrize(("network", "rows"), [(small_unet, 32), (wide_mlp, 512)])
def test_the_compiler_asks_for_the_least_and_not_twice_the_whole(network, rows):
    config, facts = network()
    network, optimizer, state = parts_of(config, facts)
    told = need_of(config, network, facts, state, rows=rows)
    mesh, make_denoise = make_mesh(), denoiser_maker(network, config.model, facts)
    objective = make_objective(config, make_denoise, facts.sigma_data, mesh=mesh)
    batch = {"x_tn": array((rows, *facts.shape), "float32"), "sigma_tn": array((rows,), "float32")}
    batch["label"] = array((rows,), "int32")
    step = make_train_step(objective, optimizer, ema_decay=0.9, seed=0, mesh=mesh)
    found = step.lower(state, batch).compile().memory_analysis()
    asked = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    asked -= found.alias_size_in_bytes
    assert told.least < asked < 2 * (told.state + told.gradients + told.kept)


def test_a_step_that_cannot_fit_is_refused_before_anything_is_written(config, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_memory", lambda: 2**10)
    with pytest.raises(
        InputError, match=r"at least \S+ GiB .* has 9.54e-07 GiB: .* of 32 images .* Use a smaller"
    ) as e:
        train(config, tmp_path / "run")
    assert str(e.value).endswith(mends(config))
    assert not (tmp_path / "run").exists()


def test_a_step_that_just_fits_is_not_refused(monkeypatch):
    config, facts = wide_mlp()
    network, _, state = parts_of(config, facts)
    least = int(need(config, facts).least)
    check = lambda: memory.check_memory(config, network, facts, state, rows=64)
    for enough in (least + 1, None):  # None: nobody knows
        monkeypatch.setattr(memory, "device_memory", lambda enough=enough: enough)
        check()
    monkeypatch.setattr(memory, "device_memory", lambda: least - 1)
    with pytest.raises(InputError):
        check()


def test_mends_are_those_that_are_left(monkeypatch):
    config, _ = small_unet()
    always = "a smaller training.batch_size"
    assert mends(config) == f"{always}, training.accumulate or model.dtype=bfloat16"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert mends(config) == (
        f"{always}, training.accumulate, training.shards, model.remat=True or model.dtype=bfloat16"
    )
    config.model.remat, config.model.dtype = True, "bfloat16"
    assert mends(config) == f"{always}, training.accumulate or training.shards"


def test_the_memory_of_an_accelerator_is_what_it_says(monkeypatch):
    stats = {"bytes_limit": 7}
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert device_memory() == 7
    device.memory_stats = lambda: None
    assert device_memory() is None


def test_the_devices_of_a_cpu_share_what_is_free(monkeypatch):
    monkeypatch.setattr(jax, "local_device_count", lambda: 2**10)
    assert 0 < device_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**10


@pytest.mark.usefixtures("only_training")
@pytest.mark.parametrize(
    ("said", "error", "told"),
    [
        (
            "RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nBuffers:",
            InputError,
            r"allocating 8 bytes.\): use a smaller training.batch_size",
        ),
        ("INTERNAL: something else", jax.errors.JaxRuntimeError, "something else"),
    ],
)
def test_a_device_whose_memory_is_full_is_told_with_the_mends(config, tmp_path, monkeypatch, said, error, told):
    def step(*_):
        raise jax.errors.JaxRuntimeError(said)

    monkeypatch.setattr(loop, "make_train_step", lambda *_, **__: step)
    with pytest.raises(error, match=told) as raised:
        train(config, tmp_path)
    assert "Buffers" not in str(raised.value)


@pytest.mark.usefixtures("only_training")
def test_memory_that_is_full_when_all_steps_are_done_is_no_matter_of_a_smaller_step(config, tmp_path, monkeypatch):
    def write_results(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory.")

    monkeypatch.setattr(loop, "write_results", write_results)
    with pytest.raises(InputError, match=r"Out of memory.\): all steps are saved: free it of other programs"):
        train(config, tmp_path)
