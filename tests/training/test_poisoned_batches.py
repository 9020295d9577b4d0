"""Batches of bad numbers in a real training, the numbers that must be the same again, and what must not grow."""

import itertools
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from tweedie_diffusion.training import loop
from tweedie_diffusion.training.config import from_json
from tweedie_diffusion.training.guard import SKIPS, Diverged
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.stopping import Stopped
from tweedie_diffusion.training.trace import first_difference, read_trace

pytestmark = pytest.mark.usefixtures("only_training")


@pytest.fixture
def config(config):
    config.training.steps = 40
    config.training.save_every = 10
    config.training.log_every = 10
    config.training.batch_size = 8
    config.consistency.weight = 0.0
    config.debug_trace = True
    return config


@pytest.fixture
def poison(monkeypatch):
    """poison({step: factor}, stop): batches times factors, and SIGINT before the batch of step `stop`."""
    make = loop.batches

    def arrange(factors, stop=None):
        def batches(*arguments, start=0, **settings):
            for step, batch in enumerate(make(*arguments, start=start, **settings), start):
                if step == stop:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch | {"x_tn": batch["x_tn"] * np.float32(factors.get(step, 1))}

        monkeypatch.setattr(loop, "batches", batches)

    return arrange


@pytest.fixture
def last_state(monkeypatch):
    """The states that were saved, the last of them last."""
    saved, save = [], loop.Checkpoints.save

    def spied(self, state):
        saved.append(jax.tree.map(np.array, state))
        save(self, state)

    monkeypatch.setattr(loop.Checkpoints, "save", spied)
    return saved


def test_bad_batches_are_skipped_and_never_saved(config, tmp_path, poison, last_state, capsys):
    poison({5: np.nan, 9: np.nan, 17: 1e17, 39: np.inf})
    assert train(config, tmp_path)
    assert [int(state.step) for state in last_state] == [11, 20, 30, 40]  # not amid skipped ones, but after them
    assert int(last_state[-1].skipped) == 4
    assert all(np.isfinite(leaf).all() for state in last_state for leaf in jax.tree.leaves(state))
    shown = capsys.readouterr().out
    assert "step 6: the loss is nan: it is skipped" in shown
    assert "step 18: the norm of the gradient is inf: it is skipped" in shown


def test_twenty_in_a_row_end_it_and_name_their_images(config, tmp_path, poison):
    poison(dict.fromkeys(range(15, 40), np.nan))
    with pytest.raises(Diverged):
        train(config, tmp_path)
    named = json.loads((tmp_path / "skipped.json").read_text())["images of the skipped steps"]
    stream = loop.batches(loop.open_data(config.data).train, batch_size=8, seed=config.seed, start=15)
    expected = [rows["index"].tolist() for rows in itertools.islice(stream, SKIPS)]
    assert list(named.items()) == [(str(step), images) for step, images in enumerate(expected, 16)]


def test_a_spike_is_logged_and_resuming_is_still_bit_for_bit(config, tmp_path, poison, capsys):
    poison({25: 1e4})
    train(config, tmp_path / "whole")
    assert "warning: step 26: the loss," in capsys.readouterr().out
    assert '{"step": 26, "loss_spike": ' in (tmp_path / "whole" / "metrics.jsonl").read_text()
    poison({25: 1e4}, stop=27)
    with pytest.raises(Stopped):
        train(config, tmp_path / "stopped")
    poison({25: 1e4})
    train(config, tmp_path / "stopped")
    assert first_difference(*(read_trace(tmp_path / name) for name in ("whole", "stopped"))) is None


def test_the_saved_config_trains_the_same_model(config, tmp_path):
    train(config, tmp_path / "first")
    train(from_json((tmp_path / "first" / "config.json").read_text()), tmp_path / "second")
    one, other = (read_trace(tmp_path / name) for name in ("first", "second"))
    assert first_difference(one, other) is None
    assert one.states == other.states


def test_allowed_settings_are_told_and_change_no_step(config, tmp_path, poison, capsys):
    train(config, tmp_path / "whole")
    poison({}, stop=22)
    with pytest.raises(Stopped):
        train(config, tmp_path / "run")
    poison({})
    config.training.log_every = 5
    config.evaluation.num_images = 32
    train(config, tmp_path / "run")
    said = capsys.readouterr().out
    assert "going on with other settings: evaluation.num_images: 64 -> 32, training.log_every: 10 -> 5" in said
    assert first_difference(*(read_trace(tmp_path / name) for name in ("whole", "run"))) is None


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="/proc")
def test_descriptors_and_threads_do_not_grow(config, tmp_path, monkeypatch):
    held, make = [], loop.batches

    def counted(*arguments, **settings):
        for step, batch in enumerate(make(*arguments, **settings)):
            if step % 50 == 25:
                held.append((len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))))
            yield batch

    monkeypatch.setattr(loop, "batches", counted)
    config.training.steps = 600
    config.training.save_every = 50
    config.debug_trace = False
    train(config, tmp_path)
    descriptors, threads = zip(*held, strict=True)
    assert max(descriptors[6:]) <= max(descriptors[2:6])
    assert max(threads[6:]) <= max(threads[2:6]) + 2  # idle ones come and go
