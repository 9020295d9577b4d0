import dataclasses
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.sharding import check_devices, make_mesh
from tweedie_diffusion.training.step import init_state, make_optimizer, make_train_step


def quadratic(params, teacher_params, key, batch, step, buffer):
    loss = jnp.mean((params["w"] - batch["x_tn"]) ** 2)
    return loss, {"loss": loss}


def stepper(optimizer, ema_decay=0.9):
    return make_train_step(quadratic, optimizer, ema_decay=ema_decay, seed=0, mesh=make_mesh())


def test_one_step_of_gradient_descent_and_its_average():
    state = init_state({"w": jnp.float32(1.0)}, optax.sgd(0.5))
    state, metrics = stepper(optax.sgd(0.5))(state, {"x_tn": jnp.zeros(4)})
    assert float(state.params["w"]) == pytest.approx(1.0 - 0.5 * 2.0)
    assert float(state.ema_params["w"]) == pytest.approx(0.1 * 1.0 + 0.9 * 0.0)  # decay 1/10 at the first step
    assert int(state.step) == 1
    assert float(metrics["grad_norm"]) == pytest.approx(2.0)


def test_a_batch_that_devices_of_several_processes_cannot_share_names_both(monkeypatch):
    training = default_config().training
    training.batch_size = 24
    check_devices(training, 8)
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    with pytest.raises(InputError, match="=24 cannot be split over 16 devices of 4 processes: use a multiple of 16"):
        check_devices(training, 16)


def test_the_average_settles_at_its_decay():
    state = init_state({"w": jnp.float32(1.0)}, optax.sgd(0.0))
    state = dataclasses.replace(state, step=jnp.int32(1000), ema_params={"w": jnp.float32(0.0)})
    state, _ = stepper(optax.sgd(0.0), ema_decay=0.9)(state, {"x_tn": jnp.zeros(4)})
    assert float(state.ema_params["w"]) == pytest.approx(0.1)


def test_the_state_is_donated():
    state = init_state({"w": jnp.ones(8)}, optax.sgd(0.5))
    state = jax.device_put(state, jax.sharding.NamedSharding(make_mesh(), jax.sharding.PartitionSpec()))
    stepper(optax.sgd(0.5))(state, {"x_tn": jnp.zeros(8)})
    assert state.params["w"].is_deleted()


def test_the_step_compiles_once():
    traces = []

    def counting(*arguments):
        traces.append(1)
        return quadratic(*arguments)

    replicated = jax.sharding.NamedSharding(make_mesh(), jax.sharding.PartitionSpec())
    step = make_train_step(counting, optax.sgd(0.5), ema_decay=0.9, seed=0, mesh=make_mesh())
    state = jax.device_put(init_state({"w": jnp.float32(1.0)}, optax.sgd(0.5)), replicated)
    for _ in range(3):
        state, _ = step(state, {"x_tn": np.zeros(4, np.float32)})
    assert len(traces) == 1


def test_the_learning_rate_warms_up_and_falls_to_zero():
    training = default_config().training
    training.steps, training.warmup_steps, training.learning_rate = 100, 10, 0.01
    optimizer, params = make_optimizer(training), {"w": jnp.float32(0.0)}
    state, rates = optimizer.init(params), []
    for _ in range(101):
        updates, state = optimizer.update({"w": jnp.float32(1.0)}, state, params, grad_norm=1.0)
        rates.append(-float(updates["w"]))  # Adam of a constant gradient moves by the learning rate
    np.testing.assert_allclose(
        [rates[0], rates[5], rates[10], rates[55], rates[100]], [0, 0.005, 0.01, 0.005, 0], atol=1e-6
    )


@pytest.mark.parametrize(("times", "clipped"), [(10.0, (0.6, 0.8)), (0.1, (0.3, 0.4)), (0.0, (0.0, 0.0))])
def test_gradients_longer_than_1_are_cut_to_it(times, clipped):
    def linear(params, teacher_params, key, batch, step, buffer):
        loss = times * (3 * params["a"] + jnp.sum(4 * params["b"]))
        return loss, {"loss": loss}

    optimizer = make_optimizer(default_config().training)
    step = make_train_step(linear, optimizer, ema_decay=0.9, seed=0, mesh=make_mesh())
    state = init_state({"a": jnp.float32(0.0), "b": jnp.zeros(1)}, optimizer)
    state, metrics = step(state, {"x_tn": np.zeros(4, np.float32)})
    first_moment = state.opt_state[1][0].mu  # 0.1 of the clipped gradient
    np.testing.assert_allclose([first_moment["a"], first_moment["b"][0]], np.multiply(0.1, clipped), rtol=1e-5)
    assert metrics["grad_norm"] == pytest.approx(5 * times)


def after(objective, batch, **settings):
    """Weights and metrics after a step of gradient descent of length 1 from 1."""
    step = make_train_step(objective, optax.sgd(1.0), ema_decay=0.9, seed=0, mesh=make_mesh(), **settings)
    state, metrics = step(init_state({"w": jnp.float32(1.0)}, optax.sgd(1.0)), {"x_tn": batch})
    return float(state.params["w"]), {name: float(value) for name, value in metrics.items()}


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_take_the_step_of_the_whole_batch(rng, micro_batches):
    batch = rng.normal(size=8).astype(np.float32)
    w, metrics = after(quadratic, batch, micro_batches=micro_batches)
    assert w == pytest.approx(1 - 2 * (1 - batch.mean()), abs=1e-6)
    assert metrics["loss"] == pytest.approx(np.square(1 - batch).mean(), rel=1e-6)
    assert metrics["grad_norm"] == pytest.approx(abs(2 * (1 - batch.mean())), rel=1e-5)


def test_each_micro_batch_draws_for_itself():
    def drawn(params, teacher_params, key, batch, step, buffer):
        loss = params["w"] * jax.random.normal(key)
        return loss, {"loss": loss}

    key = jax.random.fold_in(purpose_key(0, "training"), 0)
    draws = [float(jax.random.normal(jax.random.fold_in(key, i))) for i in range(4)]
    assert after(drawn, np.zeros(4, np.float32), micro_batches=4)[0] == pytest.approx(1 - np.mean(draws), abs=1e-6)


TWO_DEVICES = """
import jax, jax.numpy as jnp, optax
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import init_state, make_train_step
config = default_config()
config.training.batch_size = 32
oracle = gaussian_denoiser(0.0, 0.25)
make = lambda params, **_: lambda x, sigma: params["w"] * oracle(x, sigma)
objective = make_objective(config, make, 0.5, with_consistency=True)
x = jax.random.normal(jax.random.key(5), (32, 2))
batch = {"x_tn": x, "sigma_tn": jnp.full(32, 0.5), "label": jnp.zeros(32, int)}
mesh = make_mesh()
step = make_train_step(objective, optax.sgd(0.1), ema_decay=0.9, seed=0, mesh=mesh)
state = init_state({"w": jnp.float32(0.5)}, optax.sgd(0.1))
for _ in range(3):
    state, metrics = step(state, batch)
text = step.lower(state, batch).compile().as_text()
moves = [name for name in ("all-gather", "all-to-all", "collective-permute", "all-reduce") if name + "(" in text]
print(mesh.size, float(state.params["w"]), float(metrics["loss"]), *moves)
"""


def test_two_devices_take_the_same_steps_as_one_and_exchange_nothing_but_sums():
    shown = []
    for devices in (1, 2):
        flags = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        run = subprocess.run([sys.executable, "-c", TWO_DEVICES], env=flags, capture_output=True, text=True, check=True)
        shown.append(run.stdout.split())
    (one, *alone), (two, w, loss, *moves) = shown
    assert (one, two) == ("1", "2")
    np.testing.assert_allclose([float(w), float(loss)], [float(v) for v in alone], rtol=1e-5)
    assert moves == ["all-reduce"]  # no image is gathered: both loss terms are split as the batch is
