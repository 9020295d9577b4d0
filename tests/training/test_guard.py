import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tweedie_diffusion.training.guard import SKIPS, Diverged, Guard
from tweedie_diffusion.training.metrics import Metrics
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import init_state, make_train_step

NOTHING = {"loss": jnp.float32(1), "grad_norm": jnp.float32(1), "skipped_in_a_row": jnp.int32(0)}


def quadratic(params, teacher_params, key, batch, step, buffer):
    loss = jnp.mean((params["w"] - batch["x_tn"]) ** 2)
    return loss, {"loss": loss}


def infinite_gradient(params, teacher_params, key, batch, step, buffer):
    loss = jnp.mean(jnp.sqrt(jnp.abs(params["w"])) * batch["x_tn"])  # of gradient 0/0 at 0
    return loss, {"loss": loss}


def stepped(objective, state, x_tn):
    state = dataclasses.replace(state, ema_params={"w": state.ema_params["w"] + 0})
    step = make_train_step(objective, optax.adam(0.1), ema_decay=0.9, seed=0, mesh=make_mesh())
    return step(state, {"x_tn": np.asarray(x_tn, np.float32)})


@pytest.mark.parametrize(
    ("objective", "first", "x_tn"),
    [(quadratic, 1.0, [np.nan, 0]), (quadratic, 1.0, [1e30, 0]), (infinite_gradient, 0.0, [1, 1])],
)
def test_a_step_that_is_not_finite_changes_nothing_but_counters(objective, first, x_tn):
    before = init_state({"w": jnp.float32(first)}, optax.adam(0.1))
    kept = {"w": np.array(first, np.float32), "moments": np.zeros(2)}
    after, scalars = stepped(objective, before, x_tn)
    assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (1, 1, 1)
    assert int(scalars["skipped_in_a_row"]) == 1
    assert (float(after.params["w"]), float(after.ema_params["w"])) == (kept["w"], kept["w"])
    adam = after.opt_state[0]
    np.testing.assert_array_equal([adam.mu["w"], adam.nu["w"]], kept["moments"])
    assert int(adam.count) == 0


def test_a_good_step_ends_the_row_but_not_the_count():
    state = init_state({"w": jnp.float32(1.0)}, optax.adam(0.1))
    for x_tn in ([np.nan], [np.nan], [0.0]):
        state, _ = stepped(quadratic, state, x_tn)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (2, 0)
    assert float(state.params["w"]) == pytest.approx(0.9)  # the first step of Adam is the learning rate


@pytest.fixture
def metrics(tmp_path):
    with Metrics(tmp_path, start=0, total=100, batch_size=2) as metrics:
        yield metrics


def watch(guard, steps, **scalars):
    for step in steps:
        values = NOTHING | {name: jnp.asarray(value) for name, value in scalars.items()}
        guard.watch(step, {"index": np.array([2 * step, 2 * step + 1])}, values)


def test_many_skipped_steps_in_a_row_end_the_run_and_name_their_images(tmp_path, metrics, capsys):
    guard = Guard(tmp_path, metrics, None)
    watch(guard, [0])
    for step in range(1, SKIPS + 1):
        watch(guard, [step], loss=np.nan, skipped_in_a_row=step)
    with pytest.raises(Diverged, match=rf"the loss is nan at step 21, as in the 19 steps before it.*{tmp_path}"):
        guard.settle()
    named = json.loads((tmp_path / "skipped.json").read_text())["images of the skipped steps"]
    assert len(named) == SKIPS
    assert named["2"] == [2, 3]
    assert capsys.readouterr().out.count("it is skipped") == 1


def test_a_step_is_looked_at_once_two_more_are_under_way(tmp_path, metrics):
    guard = Guard(tmp_path, metrics, None)
    watch(guard, [0], loss=np.nan, skipped_in_a_row=SKIPS)
    watch(guard, [1])
    with pytest.raises(Diverged):
        watch(guard, [2])


def test_settling_tells_whether_the_last_step_was_taken(tmp_path, metrics):
    guard = Guard(tmp_path, metrics, None)
    watch(guard, [0], grad_norm=np.inf, skipped_in_a_row=1)
    assert guard.settle() is False
    watch(guard, [1])
    assert guard.settle() is True


@pytest.mark.parametrize(("loss", "told"), [(29.0, False), (31.0, True)])
def test_a_loss_far_above_the_median_is_told_and_logged(tmp_path, metrics, capsys, loss, told):
    guard = Guard(tmp_path, metrics, None)
    watch(guard, range(20))
    watch(guard, [20], loss=loss)
    guard.settle()
    assert ("step 21: the loss, 31, is 31 times its median" in capsys.readouterr().out) is told
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == ([{"step": 21, "loss_spike": 31.0}] if told else [])
