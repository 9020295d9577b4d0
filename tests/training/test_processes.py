import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.manifest import verify
from tweedie_diffusion.training.processes import (
    Agreement,
    check_same,
    first_process_first,
    on_first_process,
    on_one_device,
    place,
)
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.trace import read_trace

ROOT = Path(__file__).parents[2]
SETTINGS = (
    "data.num_examples=400",
    "model.width=8",
    "model.depth=1",
    "model.patch_components=0",
    "training.batch_size=16",
    "training.steps=100000",
    "training.save_every=100000",
    "consistency.weight=0",
    "refresh.weight=0",
    "debug_trace=true",
)


@pytest.fixture
def two_starting(tmp_path, tmp_path_factory):
    """Two processes of one training."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    cache = tmp_path_factory.getbasetemp().parent / "compiled"
    settings = {"COORDINATOR_ADDRESS": address, "NUM_PROCESSES": "2", "PLATFORMS": "cpu"}
    settings |= {"COMPILATION_CACHE_DIR": str(cache), "DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "tweedie_diffusion.main", "--config=configs/mixture_2d.py:quick", "--distributed"]
    command += [f"--workdir={tmp_path}", *(f"--config.{setting}" for setting in SETTINGS)]
    both = []
    for number in "01":
        more = {f"JAX_{name}": value for name, value in (settings | {"PROCESS_ID": number}).items()}
        pipe = subprocess.PIPE
        both.append(subprocess.Popen(command, cwd=ROOT, env=os.environ | more, stdout=pipe, stderr=pipe, text=True))
    yield both
    for process in both:
        process.kill()
        process.communicate()


@pytest.fixture
def two(two_starting, tmp_path):
    """Some steps under way."""
    wait_for(lambda: "\n" in read(tmp_path / "trace.txt"), two_starting[0])
    return two_starting


def wait_for(there, process):
    while process.poll() is None and not there():
        time.sleep(0.05)


def read(path):
    return path.read_text() if path.is_file() else ""


def test_a_signal_at_one_of_two_stops_both_at_one_step_which_is_saved(two, tmp_path):
    two[1].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=60) for process in two]
    assert [process.returncode for process in two] == [143, 143], said
    (step,) = Checkpoints(tmp_path, keep=None).steps()
    assert all(f"stopped at step {step} of 100000, which is saved" in out for out, _ in said)
    verify(tmp_path / "checkpoints" / str(step))
    assert max(read_trace(tmp_path).steps) == step - 1


def test_a_signal_at_both_before_the_first_step_is_obeyed_at_once(two_starting, tmp_path):
    wait_for((tmp_path / "data.json").is_file, two_starting[0])
    for process in two_starting:
        process.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    said = [process.communicate(timeout=60)[0] for process in two_starting]
    assert [process.returncode for process in two_starting] == [143, 143]
    assert time.monotonic() - begun < 10
    assert all("nothing to save" in out for out in said)


def test_a_process_that_is_left_alone_ends_and_says_why(two):
    two[1].kill()
    _, errors = two[0].communicate(timeout=60)
    assert two[0].returncode == 2
    assert "error: another process of the training has ended or does not answer" in errors


def test_a_process_alone_agrees_with_itself():
    agreed = Agreement(make_mesh())
    assert [agreed(number) for number in (0, 15, 0)] == [0, 15, 0]
    check_same("the step", 5)
    with first_process_first():
        assert on_first_process()


def test_copies_on_one_device_are_what_all_hold():
    whole = jax.sharding.NamedSharding(make_mesh(), jax.sharding.PartitionSpec())
    tree = {"a": np.arange(3.0, dtype=np.float32)}
    np.testing.assert_array_equal(on_one_device(place(tree, whole))["a"], tree["a"])
