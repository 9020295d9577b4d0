import contextlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.durable import Lines
from tweedie_diffusion.training.trace import Trace, first_difference, read_trace, state_digest

BATCH = {"x_tn": np.arange(3, dtype=np.float32), "label": np.array([1, 2, 3])}


def write(path, losses, start=0, states=()):
    trace = Trace(path)
    for step, loss in enumerate(losses, start=start):
        trace.write(step, loss, 1.0, Trace.digest(BATCH))
    for step, state in states:
        trace.write_state(step, state)
    trace.close()
    return path


def compare(*paths):
    return first_difference(*(read_trace(path) for path in paths))


def test_a_run_that_redid_steps_is_the_run_that_did_not(tmp_path):
    one = write(tmp_path / "one", [0.1, 0.2, 0.3, 0.4])
    other = write(write(tmp_path / "other", [0.1, 0.2, 0.3]), [0.2, 0.3, 0.4], start=1)
    assert read_trace(other).redone == 2
    assert compare(one, other) is None


def test_the_last_bit_of_a_loss_is_a_difference(tmp_path):
    one = write(tmp_path / "one", [0.1, 0.3])
    other = write(tmp_path / "other", [0.1, np.nextafter(0.3, 1)])
    assert compare(one, other).startswith("step 1: loss 0x1.3333333333333p-2 is not 0x1.3333333333334p-2")


def test_a_step_that_differs_when_it_is_done_again_is_a_difference(tmp_path):
    one = write(tmp_path / "one", [0.1, 0.2])
    other = write(write(tmp_path / "other", [0.1, 0.2]), [0.25], start=1)
    assert compare(one, other) == "step 1 was not the same when it was done again"


def test_a_missing_step_is_a_difference(tmp_path):
    assert compare(write(tmp_path / "one", [0.1, 0.2]), write(tmp_path / "other", [0.1])) == (
        "step 1 is in one of them only"
    )


def test_a_line_that_a_killed_process_left_unfinished_does_no_harm(tmp_path):
    path = write(tmp_path / "one", [0.1, 0.2, 0.3])
    path.write_bytes(path.read_bytes()[:-30])
    assert compare(write(tmp_path / "other", [0.1, 0.2, 0.3]), write(path, [0.3], start=2)) is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_ends_a_trace_in_one_line_with_path_and_bytes(tmp_path):
    (tmp_path / "trace.txt").symlink_to("/dev/full")
    told = r"trace\.txt cannot be written \(No space .*, [\d,]+ bytes are free\): free"
    with contextlib.closing(Trace(tmp_path / "trace.txt")) as trace, pytest.raises(InputError, match=told):
        trace.write(0, 0.1, 1.0, "")


def test_a_line_of_which_a_part_was_written_is_an_error_and_spoils_no_other(tmp_path, monkeypatch):
    lines = Lines(tmp_path / "lines")
    lines.write("one\n")
    whole = lines._file

    class Full:
        def write(self, data):
            return whole.write(data[:2])

    with monkeypatch.context() as patch:
        patch.setattr(lines, "_file", Full())
        with pytest.raises(OSError, match="No space left"):
            lines.write("two\n")
    lines.write("three\n")
    lines.close()
    assert (tmp_path / "lines").read_text() == "one\ntw\nthree\n"


def test_states_are_compared_where_both_have_them(tmp_path):
    state = {"w": jnp.arange(3.0)}
    one = write(tmp_path / "one", [0.1], states=[(1, state)])
    assert compare(one, write(tmp_path / "other", [0.1], states=[(1, {"w": state["w"].at[2].add(1e-6)})])) == (
        "the states at step 1 differ"
    )
    assert compare(one, write(tmp_path / "third", [0.1])) is None


@pytest.mark.parametrize(
    "other",
    [{"w": jnp.zeros(2), "b": jnp.zeros(0)}, {"w": jnp.zeros((2, 1))}, {"v": jnp.zeros(2)}, {"w": -jnp.zeros(2)}],
)
def test_the_digest_of_a_state_knows_names_shapes_and_bits(other):
    assert state_digest({"w": jnp.zeros(2)}) == state_digest({"w": np.zeros(2, np.float32)}) != state_digest(other)


def test_a_batch_is_told_by_its_bits():
    changed = BATCH | {"x_tn": np.nextafter(BATCH["x_tn"], 1).astype(np.float32)}
    assert Trace.digest(BATCH) == Trace.digest(dict(reversed(BATCH.items()))) != Trace.digest(changed)


def test_a_run_without_a_trace_is_told_how_to_write_one(tmp_path):
    with pytest.raises(InputError, match=r"train with --config\.debug_trace=true"):
        read_trace(tmp_path)
