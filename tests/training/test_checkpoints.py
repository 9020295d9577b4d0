import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training import checkpoints as module
from tweedie_diffusion.training.checkpoints import Checkpoints, SaveFailed, restore_saved
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import first_buffer, init_state
from tweedie_diffusion.training.stopping import Stopped, StopRequests
from tweedie_diffusion.training.trace import state_digest

STATE = init_state({"w": jnp.float32(0.0)}, optax.sgd(0.1))


def state_at(step):
    value = {"w": jnp.float32(step)}
    return type(STATE)(jnp.int32(step), value, value, STATE.opt_state, None, jnp.int32(0), jnp.int32(0))


def saved(workdir, steps, keep=5):
    with Checkpoints(workdir, keep=keep) as checkpoints:
        for step in steps:
            checkpoints.save(state_at(step))
    return workdir / "checkpoints"


def restored(workdir):
    """(the newest step that is whole, what is said of the others)."""
    said = []
    with Checkpoints(workdir, keep=5) as checkpoints:
        state = checkpoints.restore_newest(STATE, make_mesh(), said.append)
    return int(state.step), said


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
            checkpoints.save(state_at(step))
            checkpoints.score(step, score)
    reader = Checkpoints(tmp_path, keep=None)
    assert (reader.latest_step(), reader.best_step()) == (4, best)
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} == kept
    assert float(restore_saved(tmp_path, STATE, best=True).params["w"]) == best
    assert float(restore_saved(tmp_path, STATE).params["w"]) == used


def test_a_stop_after_the_model_became_worse_uses_the_better_one(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step, score in enumerate([0.3, 0.1, 0.4], start=1):
            checkpoints.save(state_at(step))
            checkpoints.score(step, score)
        checkpoints.save(state_at(4))
        assert [checkpoints.is_scored(step) for step in (3, 4)] == [True, False]
    assert float(restore_saved(tmp_path, STATE).params["w"]) == 2


def test_everything_comes_back_bit_for_bit(tmp_path, rng):
    params = {
        "w": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=4), jnp.bfloat16),
    }
    refresh = default_config().refresh
    refresh.weight, refresh.capacity = 1.0, 5
    state = init_state(params, optax.adam(1e-3), first_buffer(refresh, (2, 2, 1)))
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state)
    back = restore_saved(tmp_path, jax.eval_shape(lambda: state))
    assert state_digest(back) == state_digest(state)


def test_the_arrays_are_those_of_the_moment_of_the_save(tmp_path):
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = init_state({"w": jnp.zeros(2**20)}, optax.sgd(0.1))
    with Checkpoints(tmp_path, keep=3) as checkpoints:
        checkpoints.save(state)
        for _ in range(20):
            state = step(state)
    assert not restore_saved(tmp_path, jax.eval_shape(lambda: state)).params["w"].any()


def files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]


def test_any_flipped_bit_sets_the_newest_aside_and_later_saves_are_written(tmp_path, rng):
    folder = saved(tmp_path, [1])
    for step in range(2, 12):
        saved(tmp_path, [step])
        with Checkpoints(tmp_path, keep=5) as checkpoints:
            checkpoints.score(step, 0.5)
        path = rng.choice(files(folder / str(step)))
        flipped = bytearray(path.read_bytes())
        flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        newest, (told,) = restored(tmp_path)
        assert newest == 1
        assert path.name in told
        assert f"Step {step} is set aside as {step}.damaged" in told
        assert (folder / f"{step}.damaged").is_dir()
        saved(tmp_path, [step])
        assert restored(tmp_path) == (step, [])
        shutil.rmtree(folder / str(step))


@pytest.mark.parametrize(
    "harm", [os.remove, lambda path: os.truncate(path, 1), lambda path: Path(path).write_bytes(b"")]
)
def test_every_file_of_a_checkpoint_is_needed(tmp_path, harm):
    folder = saved(tmp_path / "whole", [1, 2])
    for path in files(folder / "2"):
        shutil.copytree(tmp_path / "whole", tmp_path / "harmed")
        harm(tmp_path / "harmed" / path.relative_to(tmp_path / "whole"))
        newest, (told,) = restored(tmp_path / "harmed")
        assert newest == 1
        assert path.name in told
        shutil.rmtree(tmp_path / "harmed")


def test_a_score_that_became_a_folder_is_damage(tmp_path):
    folder = saved(tmp_path, [1, 2])
    (folder / "2" / "score.json").mkdir()
    newest, (told,) = restored(tmp_path)
    assert newest == 1
    assert "score.json cannot be read" in told


def test_nothing_begins_again_silently_when_all_are_damaged(tmp_path):
    folder = saved(tmp_path, [1, 2])
    for step in "12":
        os.remove(folder / step / "manifest.json")
    for _ in range(2):  # and it stays so
        with pytest.raises(InputError, match="begin again at step 0 with --start_over") as refused:
            restored(tmp_path)
        assert [line.split()[0] for line in refused.value.lines] == [f"{folder}/{s}/manifest.json" for s in "21"]
    with Checkpoints(tmp_path, keep=5) as checkpoints:
        checkpoints.set_all_aside()
        assert checkpoints.restore_newest(STATE, make_mesh(), print) is None
    assert sorted(path.name for path in folder.iterdir()) == ["1.set_aside", "2.set_aside"]


def test_a_reader_passes_over_what_is_damaged_and_renames_nothing(tmp_path, capsys):
    folder = saved(tmp_path, [1, 2])
    os.remove(folder / "2" / "manifest.json")
    assert float(restore_saved(tmp_path, STATE).params["w"]) == 1
    assert "step 2 is passed over" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


@pytest.mark.parametrize("name", ["verify", "_read"])
def test_a_reader_is_not_led_astray_by_what_is_removed_meanwhile(tmp_path, monkeypatch, name):
    folder = saved(tmp_path, [1, 2])
    original = getattr(module, name)

    def removed_first(path, *rest):
        if (folder / "2").is_dir():
            shutil.rmtree(folder / "2")
        return original(path, *rest)

    monkeypatch.setattr(module, name, removed_first)
    assert float(restore_saved(tmp_path, STATE).params["w"]) == 1


def test_a_save_that_failed_is_told_by_the_next_one_and_at_the_end(tmp_path, monkeypatch):
    saved(tmp_path, [1])

    def full(folder):
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr(module, "write_manifest", full)
    with pytest.raises(
        SaveFailed, match=r"step 2 could not be saved in .*checkpoints \(20 bytes, .* are free\): No space"
    ):
        saved(tmp_path, [2, 3])
    with pytest.raises(SaveFailed, match="the same command then goes on from step 1"):
        saved(tmp_path, [2])
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_file_in_the_way_of_a_save_is_told(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=5)
    (checkpoints.folder / ".saving-2").write_text("")
    checkpoints.save(state_at(2))
    with pytest.raises(SaveFailed, match=r"step 2 could not be saved"):
        checkpoints.wait()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_score_that_a_full_disk_refuses_is_told_with_path_and_bytes(tmp_path):
    told = r"checkpoints/1/score\.json cannot be written \(No space.*, [\d,]+ bytes are free\)"
    checkpoints = Checkpoints(tmp_path, keep=5)
    checkpoints.save(state_at(1))
    checkpoints.wait()
    (checkpoints.folder / "1" / ".score.part.json").symlink_to("/dev/full")
    with pytest.raises(SaveFailed, match=told):
        checkpoints.score(1, 0.5)
    assert [path.name for path in (tmp_path / "checkpoints" / "1").glob("*score*")] == []
    assert restored(tmp_path) == (1, [])


def test_what_tensorstore_says_at_length_is_told_in_a_few_words():
    said = "RESOURCE_EXHAUSTED: Error opening ... [os_error_code='28'] [tensorstore_spec='{...}']"
    assert module._reason(ValueError(said)) == os.strerror(28)
    assert len(module._reason(ValueError("x" * 5000))) < 400
    assert module._reason(KeyError()) == "KeyError"


def test_another_structure_is_refused_and_not_called_damage(tmp_path):
    saved(tmp_path, [1])
    other = init_state({"w": jnp.zeros(3), "b": jnp.zeros(2)}, optax.sgd(0.1))
    with pytest.raises(InputError, match="holds a state of another structure"):
        Checkpoints(tmp_path, keep=5).restore_newest(other, make_mesh(), print)


def test_what_a_killed_process_left_is_removed_at_the_next_start_and_not_by_readers(tmp_path):
    folder = saved(tmp_path, [1])
    for name in (".saving-2", ".removing-0"):
        (folder / name / "state").mkdir(parents=True)
    restore_saved(tmp_path, STATE)
    assert len(list(folder.iterdir())) == 3
    assert restored(tmp_path) == (1, [])
    assert [path.name for path in folder.iterdir()] == ["1"]


DYING = """
import os, sys
sys.path.insert(0, {tests!r})
from test_checkpoints import saved, Path
from test_checkpoints import Checkpoints, state_at
workdir, last = Path(sys.argv[1]), int(sys.argv[2])
WATCHED = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "open")
count = 0
def hook(event, arguments):
    global count
    if event in WATCHED and str(workdir) in str(arguments[0]):
        count += 1
        if count == last:
            os._exit(9)
with Checkpoints(workdir, keep=1) as checkpoints:
    sys.addaudithook(hook)
    checkpoints.save(state_at(2))
    checkpoints.score(2, 0.5)
print(count)
"""


def test_death_at_any_file_operation_leaves_the_old_or_the_new_state(tmp_path):
    code = DYING.format(tests=str(Path(__file__).parent))
    run = lambda workdir, last: subprocess.run(
        [sys.executable, "-c", code, str(workdir), str(last)], capture_output=True, text=True, check=False
    )
    saved(tmp_path / "first", [1])
    shutil.copytree(tmp_path / "first", tmp_path / "whole")
    operations = int(run(tmp_path / "whole", 0).stdout)
    assert operations > 10
    found = set()
    for last in np.linspace(1, operations, 6).astype(int):  # every one of them: experiments/faults
        workdir = tmp_path / str(last)
        shutil.copytree(tmp_path / "first", workdir)
        assert run(workdir, last).returncode == 9
        newest, said = restored(workdir)
        assert not said
        found.add(newest)
        assert {path.name for path in (workdir / "checkpoints").iterdir()} <= {"1", "2"}
    assert found == {1, 2}


def test_a_signal_while_a_save_is_waited_for_does_not_end_the_save(tmp_path, monkeypatch):
    write = module.write_manifest
    monkeypatch.setattr(module, "write_manifest", lambda folder: (time.sleep(1), write(folder)))

    def save_and_score():
        with StopRequests() as stops, Checkpoints(tmp_path, keep=5) as checkpoints:
            checkpoints.save(state_at(1))
            with stops.nothing_to_lose("step 1 is saved", checkpoints.wait):
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
                checkpoints.score(1, 0.5)

    with pytest.raises(Stopped, match="step 1 is saved"):
        save_and_score()
    assert restored(tmp_path) == (1, [])


def test_a_save_that_failed_is_told_although_the_run_was_asked_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write_manifest", lambda folder: os.open(folder / "nowhere", os.O_RDONLY))

    def save_and_stop():
        with Checkpoints(tmp_path, keep=5) as checkpoints:
            checkpoints.save(state_at(1))
            raise Stopped(signal.SIGTERM, "step 1 is saved")

    with pytest.raises(SaveFailed, match="step 1 could not be saved"):
        save_and_stop()


def test_an_error_of_reading_that_may_pass_is_not_called_damage(tmp_path, monkeypatch):
    folder = saved(tmp_path, [1, 2])

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(module, "verify", denied)
    with pytest.raises(PermissionError):
        restored(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2"]


ELSEWHERE = """
import sys
import threading
import time
sys.path.insert(0, {tests!r})
from test_checkpoints import *
from tweedie_diffusion.training.processes import place
whole = jax.sharding.NamedSharding(make_mesh(), jax.sharding.PartitionSpec())
state = place(drawn_state(), whole)
with Checkpoints(Path(sys.argv[1]), keep=1) as checkpoints:
    checkpoints.save(state)
print(jax.device_count(), state_digest(state))
"""


def drawn_state():
    draw = np.random.default_rng(0).normal
    params = {"w": jnp.asarray(draw(size=(65, 33)), jnp.float32), "b": jnp.asarray(draw(size=7), jnp.bfloat16)}
    return init_state(params, optax.adam(1e-3))


def test_a_state_of_eight_devices_is_the_same_on_one(tmp_path):
    code = ELSEWHERE.format(tests=str(Path(__file__).parent))
    eight = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=eight, capture_output=True, text=True, check=True
    )
    count, digest = done.stdout.split()
    assert count == "8"
    assert state_digest(restore_saved(tmp_path, drawn_state())) == digest
