import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training import loop
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.guard import Diverged
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.stopping import Stopped
from tweedie_diffusion.training.trace import first_difference, read_trace
from tweedie_diffusion.training.trained import load_run


def contents(workdir):
    files = sorted(p for p in workdir.rglob("*") if p.is_file())
    return {str(p.relative_to(workdir)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def weights(workdir):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(load_run(workdir).params)]


def assert_equal_weights(one, other):
    assert all(np.array_equal(a, b) for a, b in zip(weights(one), weights(other), strict=True))


@pytest.fixture
def interrupt_at(monkeypatch):
    """interrupt_at(n): the n-th batch is followed by SIGINT."""

    def arrange(number):
        whole = loop.batches

        def interrupted(*arguments, **keywords):
            for i, batch in enumerate(whole(*arguments, **keywords), start=1):
                if i == number:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

        monkeypatch.setattr(loop, "batches", interrupted)

    return arrange


def test_a_run_writes_what_it_promises(config, tmp_path):
    assert train(config, tmp_path) is True
    expected = {"config.json", "data.json", "metrics.jsonl", "denoising_curve.json", "held_out_noisy.npz"}
    pictures = {"samples.png", "samples_truncated.png", "denoised.png", "denoising_curve.png"}
    assert expected | pictures <= {p.name for p in tmp_path.iterdir()}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [line for line in lines if "loss" in line]
    assert [line["step"] for line in logged] == [3, 6, 9, 12]
    assert "consistency_loss" not in logged[1]
    assert logged[2]["consistency_loss"] != 0


@pytest.mark.usefixtures("only_training")
@pytest.mark.parametrize(("stop", "expected"), [(0, [1, 0, 1, 0]), (10, [1, 0, 0, 0])])  # at the steps 8 to 11
def test_refresh_fills_its_buffer_once_and_replaces_a_row_at_every_second_step(
    config, tmp_path, monkeypatch, stop, expected
):
    with_refresh(config)
    config.refresh.stop = stop
    config.training.save_every = 1
    config.training.keep_checkpoints = 12
    seen = {}
    keep = lambda _, state: seen.update({int(state.step): jax.tree.map(np.array, state.buffer)})
    monkeypatch.setattr(loop.Checkpoints, "save", keep)
    train(config, tmp_path)
    assert not seen[7].x_0.any()  # empty before step 7
    assert seen[8].x_0.any(axis=1).all()
    changed = [(seen[i].x_0 != seen[i + 1].x_0).any(axis=1).sum() for i in range(8, 12)]
    assert changed == expected
    assert np.std(seen[12].log_weight) > 0


@pytest.mark.usefixtures("only_training")
def test_a_finished_run_is_left_alone(config, tmp_path):
    train(config, tmp_path)
    before = contents(tmp_path)
    assert train(config, tmp_path) is False
    assert contents(tmp_path) == before


def with_refresh(config):
    """The config with posterior refresh from step 7 on, of one row at every second step."""
    config.refresh.weight, config.refresh.start, config.refresh.every = 1.0, 7, 2
    config.refresh.capacity, config.refresh.rows, config.refresh.num_steps = 48, 1, 2
    config.refresh.relaxation = 1.5


@pytest.mark.parametrize(("at", "saved"), [(2, 2), (9, 8), (12, 12)])  # step 9 is the first to replace a row: compiled
@pytest.mark.usefixtures("only_training")
def test_an_interrupted_run_goes_on_bit_for_bit(config, tmp_path, interrupt_at, monkeypatch, at, saved):
    with_refresh(config)
    config.debug_trace = True
    with monkeypatch.context():
        interrupt_at(at)
        with pytest.raises(Stopped, match=f"step {saved} of 12"):
            train(config, tmp_path / "two")
    monkeypatch.undo()
    assert train(config, tmp_path / "two") is True
    train(config, tmp_path / "one")
    one, two = read_trace(tmp_path / "one"), read_trace(tmp_path / "two")
    assert first_difference(one, two) is None
    assert list(one.steps) == list(range(12))
    assert one.states[12] == two.states[12]


TRAINING = """
import runpy, sys
from pathlib import Path
import jax, pytest
runpy.run_path(Path(sys.argv[1]).parent / "conftest.py")
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
sys.path.insert(0, sys.argv[1])
from conftest import patch_results, small_config
from test_loop import longer, train
patch_results(pytest.MonkeyPatch())
train(longer(small_config()), Path(sys.argv[2]))
"""


def longer(config):
    """The config with 400 plain steps, of which every hundredth is saved, and a trace."""
    config.training.steps, config.training.save_every, config.debug_trace = 400, 100, True
    config.consistency.weight = 0.0
    return config


@pytest.mark.usefixtures("only_training")
def test_kill_9_and_a_second_writer_change_nothing(config, tmp_path):
    longer(config)
    trace = tmp_path / "two" / "trace.txt"
    cache = jax.config.jax_compilation_cache_dir
    arguments = [sys.executable, "-c", TRAINING, str(Path(__file__).parent), str(tmp_path / "two"), cache]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as running:
        while running.poll() is None and not (trace.exists() and trace.read_text().count("\n") > 110):
            time.sleep(0.005)
        running.send_signal(signal.SIGSTOP)
        with pytest.raises(InputError, match=f"process {running.pid} on .* trains in"):
            train(config, tmp_path / "two")
        running.kill()
        running.communicate()
    train(config, tmp_path / "two")
    train(config, tmp_path / "one")
    one, two = read_trace(tmp_path / "one"), read_trace(tmp_path / "two")
    assert first_difference(one, two) is None
    assert one.states[400] == two.states[400]
    assert 0 < two.redone <= 100
    assert not [path for path in (tmp_path / "two" / "checkpoints").iterdir() if not path.name.isdigit()]


@pytest.mark.usefixtures("only_training")
def test_a_workdir_of_another_config_is_refused_and_kept(config, tmp_path):
    train(config, tmp_path)
    before = contents(tmp_path)
    config.data.sigma_tn = 0.25
    with pytest.raises(InputError, match=r"other settings \(data.sigma_tn: 0.3 -> 0.25\): choose another --workdir"):
        train(config, tmp_path)
    assert contents(tmp_path) == before


def test_another_config_is_refused_before_the_first_save_too(config, tmp_path):
    (tmp_path / "config.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="holds a run with other settings"):
        train(config, tmp_path)
    assert contents(tmp_path).keys() == {"config.json"}
    assert (tmp_path / "config.json").read_text() == '{"mine": 1}'


@pytest.mark.usefixtures("only_training")
def test_a_setting_that_an_older_run_did_not_have_is_not_slipped_in(config, tmp_path):
    train(config, tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    del saved["consistency.ridge"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with pytest.raises(InputError, match=r"consistency.ridge: None -> 0.3"):
        train(config, tmp_path)


@pytest.mark.usefixtures("only_training")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_on_a_full_disk_training_goes_on_without_metrics_and_results_are_drawn_later(config, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    (tmp_path / ".denoising_curve.part.json").symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"the results cannot be written in .* bytes are free\)\. All steps are saved"):
        train(config, tmp_path)
    assert capsys.readouterr().out.count("metrics cannot be written (No space left on device)") == 1
    assert not list(tmp_path.glob(".*.part*"))
    assert train(config, tmp_path) is True


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a\\b"])
def test_a_workdir_whose_checkpoints_could_not_be_found_again_is_refused(config, tmp_path, name):
    with pytest.raises(InputError, match="in its path, as a pattern has: choose another --workdir"):
        train(config, tmp_path / name / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "key", "value", "message"),
    [
        ("data", "flip", True, "data.flip mirrors images, and the data is vectors"),
        ("model", "dropout", 0.1, "model.dropout, remat and noise_units are of the unet"),
        ("model", "noise_units", True, "model.dropout, remat and noise_units are of the unet"),
        ("consistency", "sigma_min", 0.4, "consistency.sigma_min=0.4 must lie below the noise of the data, 0.3"),
        ("data", "sigma_tn", 0.0, "consistency works below the noise of the data, and no image is noisy"),
    ],
)
def test_settings_that_do_not_suit_the_data_are_refused(config, tmp_path, part, key, value, message):
    config[part][key] = value
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("only_training")
def test_changed_data_is_refused(config, tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (60, 2)).astype(np.float32)
    np.save(tmp_path / "points.npy", images)
    config.data.source = str(tmp_path / "points.npy")
    train(config, tmp_path / "run")
    np.save(tmp_path / "points.npy", 0.5 * images)
    with pytest.raises(InputError, match="the data is not what the run"):
        train(config, tmp_path / "run")


def test_what_devices_cannot_share_is_refused_before_anything_is_written(config, tmp_path):
    config.training.shards = jax.device_count() + 1
    with pytest.raises(InputError, match=r"training.shards=.* does not divide the number of devices"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("only_training")
def test_starting_over_sets_all_aside_and_forgets_the_results(config, tmp_path, interrupt_at):
    train(config, tmp_path)
    before = weights(tmp_path)
    interrupt_at(9)
    with pytest.raises(Stopped, match="step 9 of 12"):
        train(config, tmp_path, start_over=True)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["12.set_aside", "6", "6.set_aside", "9"]
    assert not (tmp_path / "denoising_curve.json").exists()
    assert train(config, tmp_path) is True
    for a, b in zip(before, weights(tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.usefixtures("only_training")
def test_changed_data_is_accepted_if_one_says_so_unless_it_has_another_shape(config, tmp_path):
    images = np.random.default_rng(0).uniform(-1, 1, (60, 2)).astype(np.float32)
    np.save(tmp_path / "points.npy", images)
    config.data.source = str(tmp_path / "points.npy")
    train(config, tmp_path / "run")
    (tmp_path / "run" / "denoising_curve.json").unlink()
    np.save(tmp_path / "points.npy", 0.9 * images)
    with pytest.raises(InputError, match="go on all the same by --accept_data"):
        train(config, tmp_path / "run")
    assert train(config, tmp_path / "run", accept_data=True) is True
    known = (tmp_path / "run" / "data.json").read_text()
    np.save(tmp_path / "points.npy", np.repeat(images, 2, axis=1))
    with pytest.raises(InputError, match="shape: "):
        train(config, tmp_path / "run", accept_data=True)
    assert (tmp_path / "run" / "data.json").read_text() == known


@pytest.mark.usefixtures("only_training")
def test_a_diverging_loss_stops_training(config, tmp_path):
    config.training.learning_rate = 1e30
    config.training.max_grad_norm = 1e30
    config.training.steps = 40
    with pytest.raises(Diverged, match=r"the loss is nan at step 2., as in the 19 steps before it"):
        train(config, tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.usefixtures("only_training")
def test_fine_tuning_starts_from_the_averaged_weights(config, tmp_path):
    train(config, tmp_path / "first")
    config.init_from = str(tmp_path / "first")
    config.training.learning_rate = 1e-12
    train(config, tmp_path / "second")
    for a, b in zip(weights(tmp_path / "first"), weights(tmp_path / "second"), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.usefixtures("only_training")
def test_fine_tuning_another_network_is_refused(config, tmp_path):
    train(config, tmp_path / "first")
    config.init_from = str(tmp_path / "first")
    config.model.width = 24
    with pytest.raises(InputError, match="has another shape"):
        train(config, tmp_path / "second")


@pytest.mark.usefixtures("only_training")
def test_a_refused_first_attempt_leaves_the_workdir_free(config, tmp_path):
    train(config, tmp_path / "first")
    config.init_from = str(tmp_path / "first")
    config.model.width = 24
    with pytest.raises(InputError, match="has another shape"):
        train(config, tmp_path / "second")
    config.model.width = 16
    assert train(config, tmp_path / "second") is True


@pytest.mark.usefixtures("only_training")
def test_fine_tuning_resumes_without_the_run_it_came_from(config, tmp_path, interrupt_at, monkeypatch):
    train(config, tmp_path / "first")
    config.init_from = str(tmp_path / "first")
    with monkeypatch.context():
        interrupt_at(3)
        with pytest.raises(Stopped):
            train(config, tmp_path / "second")
    monkeypatch.undo()
    (tmp_path / "first").rename(tmp_path / "elsewhere")
    assert train(config, tmp_path / "second") is True


def test_a_run_that_lost_its_results_writes_them_again(config, tmp_path):
    train(config, tmp_path)
    (tmp_path / "denoising_curve.json").unlink()  # as if stopped while they were drawn: it is written last
    assert train(config, tmp_path) is True
    assert (tmp_path / "denoising_curve.json").exists()


def test_a_model_that_has_learned_its_noisy_images_by_heart_is_not_the_one_used(config, tmp_path, monkeypatch, capsys):
    config.training.save_every = 4
    config.training.keep_checkpoints = 3
    scores, shown = iter([0.5, 0.3, 0.9]), []
    monkeypatch.setattr(loop, "held_out_health", lambda *_: {"score": next(scores)})
    monkeypatch.setattr(loop, "write_results", lambda workdir, model, dataset: shown.append(model.params))
    train(config, tmp_path)
    assert "step 12: held-out noisy images score 0.9, a fifth worse than at step 8:" in capsys.readouterr().out
    with Checkpoints(tmp_path, keep=None) as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.model_step()) == (12, 8)
    for leaf, used in zip(weights(tmp_path), jax.tree.leaves(shown[0]), strict=True):
        np.testing.assert_array_equal(used, leaf)


def test_a_stop_where_the_model_is_scored_is_made_up_for(config, tmp_path, interrupt_at, monkeypatch):
    config.training.save_every = 4
    with monkeypatch.context():
        interrupt_at(4)
        with pytest.raises(Stopped, match="stopped at step 4"):
            train(config, tmp_path)
    monkeypatch.undo()
    train(config, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "score" in line] == [4, 8, 12]


@pytest.mark.parametrize("part", ["ambient", "sampling"])
def test_levels_below_the_noise_of_the_data_are_refused(config, tmp_path, part, rng):
    np.savez(tmp_path / "noisy.npz", images=9 * rng.normal(size=(80, 2)), sigma_tn=np.full(80, 5.0))
    config.data.source = str(tmp_path / "noisy.npz")
    config.data.noisy_already = True
    config[part].sigma_max = 4.0
    with pytest.raises(InputError, match=rf"{part}.sigma_max=4 must exceed the noise of the data, which reaches 5"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("only_training")
def test_reading_a_run_leaves_a_save_in_progress_alone(config, tmp_path):
    train(config, tmp_path)
    unfinished = tmp_path / "checkpoints" / "13.orbax-checkpoint-tmp"
    unfinished.mkdir()
    load_run(tmp_path)
    assert unfinished.is_dir()


def test_images_noisy_already_train_and_are_judged_above_their_noise(config, tmp_path, rng):
    np.savez(tmp_path / "noisy.npz", images=rng.normal(size=(80, 2)).astype(np.float32), sigma_tn=np.full(80, 0.2))
    config.data.source = str(tmp_path / "noisy.npz")
    config.data.noisy_already = True
    train(config, tmp_path / "run")
    curve = json.loads((tmp_path / "run" / "denoising_curve.json").read_text())
    assert curve["sigma"] == [0.5]


@pytest.mark.usefixtures("only_training")
def test_clean_and_noisy_images_mix_in_one_run(config, tmp_path):
    config.data.clean_fraction = 0.25
    assert train(config, tmp_path) is True
