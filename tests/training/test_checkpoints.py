import jax.numpy as jnp
import optax
import pytest

from tweedie_diffusion.training.checkpoints import Checkpoints, restore_saved
from tweedie_diffusion.training.step import init_state

STATE = init_state({"w": jnp.float32(0.0)}, optax.sgd(0.1))


def state_at(step):
    return type(STATE)(jnp.int32(step), {"w": jnp.float32(step)}, {"w": jnp.float32(step)}, STATE.opt_state)


@pytest.mark.parametrize(
    ("scores", "kept", "best", "used"),
    [
        ([0.3, 0.1, 0.2, 0.4], {2, 4}, 2, 2),
        ([0.3, 0.1, 0.2, 0.119], {2, 4}, 2, 4),
        ([0.3, 0.1, 0.2, 0.121], {2, 4}, 2, 2),
        ([0.3, float("nan"), 0.5, 0.34], {1, 4}, 1, 4),
        ([-0.5, -0.9, -0.8, -1.0], {4}, 4, 4),
        ([-0.5, -1.0, -0.8, -0.7], {2, 4}, 2, 2),
        ([0.3, 0.2, 0.1, float("nan")], {3, 4}, 3, 3),
        ([0.002, 0.001, 0.003, 0.004], {2, 4}, 2, 4),
        ([None, None, None, None], {4}, 4, 4),
    ],
)
def test_the_newest_checkpoint_and_the_best_are_kept_and_the_newest_is_used_unless_it_is_worse(
    tmp_path, scores, kept, best, used
):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, score in enumerate(scores, start=1):
            checkpoints.save(state_at(step), None if score is None else {"score": score})
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, best)
    steps = {int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()}
    assert steps == kept
    assert float(restore_saved(tmp_path, STATE, best=True).params["w"]) == best
    assert float(restore_saved(tmp_path, STATE).params["w"]) == used


def test_a_stop_after_the_model_became_worse_uses_the_better_one(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, score in enumerate([0.3, 0.1, 0.4, None], start=1):
            checkpoints.save(state_at(step), None if score is None else {"score": score})
    assert float(restore_saved(tmp_path, STATE).params["w"]) == 2
