"""Real processes train one model: on the data of one process, to its losses, whole or in parts."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tweedie_diffusion.training.trace import read_trace

STEPS = 12
CODE = """
import shutil, sys
from pathlib import Path
import jax
sys.path.insert(0, {tests!r})
from conftest import patch_results, small_config
import pytest
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.processes import first_process_first, join_others, on_first_process

if {several}:
    join_others()
with pytest.MonkeyPatch.context() as patch:
    patch_results(patch)
    for shards, step in {runs}:
        config = small_config()
        config.model.width, config.model.patch_components = 64, 0
        config.debug_trace = True
        config.training.shards = shards
        workdir = Path(sys.argv[1]) / f"{{jax.process_count()}} {{shards if step == 0 else 2 - shards}}"
        with first_process_first():
            if step and on_first_process():
                shutil.rmtree(workdir / "checkpoints" / "12")
        train(config, workdir)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of the runs `PROCESSES SHARDS`; two processes then take the last steps again with the other shards."""
    folder = tmp_path_factory.mktemp("runs")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    cache = tmp_path_factory.getbasetemp().parent / "compiled"
    settings = {"PLATFORMS": "cpu", "COMPILATION_CACHE_DIR": str(cache), "DISABLE_MOST_OPTIMIZATIONS": "1"}
    several = {"COORDINATOR_ADDRESS": address, "NUM_PROCESSES": "2"}
    both = ((0, 0), (2, 0), (2, 6), (0, 6))  # shards, and the step from which on
    starts = [(False, ((0, 0),), {}), *((True, both, several | {"PROCESS_ID": number}) for number in "01")]
    started = []
    for many, trained, more in starts:
        code = CODE.format(tests=str(Path(__file__).parent), several=many, runs=trained)
        environment = os.environ | {f"JAX_{name}": value for name, value in (settings | more).items()}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", code, str(folder)]
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    said = [process.communicate(timeout=170)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], "\n".join(said)
    return folder


@pytest.mark.parametrize("several", ["2 0", "2 2"])
def test_two_processes_take_the_steps_of_one_on_the_batches_of_one(runs, several):
    alone, both = read_trace(runs / "1 0").steps, read_trace(runs / several).steps
    assert list(alone) == list(both) == list(range(STEPS))
    assert [step[2] for step in both.values()] == [step[2] for step in alone.values()]  # images, noise and labels
    numbers = lambda steps: [[float.fromhex(x) for x in step[:2]] for step in steps.values()]
    np.testing.assert_allclose(numbers(both), numbers(alone), rtol=1e-5)


@pytest.mark.parametrize("several", ["2 0", "2 2"])
def test_a_run_goes_on_from_its_checkpoint_in_parts_or_whole_bit_for_bit(runs, several):
    trace = read_trace(runs / several)
    assert (trace.redone, trace.different) == (6, ())
