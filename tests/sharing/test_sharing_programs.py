import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tweedie_diffusion.training.trained import load_run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def program(tmp_path_factory, tmp_path):
    """program(name, *arguments): run it to its end, in an empty folder."""
    cache = tmp_path_factory.getbasetemp().parent / "compiled"
    settings = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PLATFORMS": "cpu"}

    def run(name, *arguments):
        command = [sys.executable, "-m", f"tweedie_diffusion.{name}", *map(str, arguments)]
        options = {"cwd": tmp_path, "env": os.environ | settings, "text": True, "capture_output": True}
        return subprocess.run(command, **options, check=False)

    return run


def test_export_and_what_it_says(program, run, x_t, tmp_path):
    done = program("export", f"--workdir={run}", "--to=shared/digits", "--licence=cc0-1.0")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "exported: tweedie_diffusion.load('shared/digits')\n"
    denoise = load_run(tmp_path / "shared" / "digits").denoise
    np.testing.assert_array_equal(denoise(x_t, 0.3), load_run(run).denoise(x_t, 0.3))


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("export", ["--workdir=run"], "--to is missing"),
        ("export", ["--workdir=run", "--to=hub:me"], "names no model of the Hub"),
        ("import_edm", ["edm.npz", "out"], "edm.npz does not exist"),
    ],
)
def test_wrong_commands_end_in_one_line(program, name, arguments, told):
    done = program(name, *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
