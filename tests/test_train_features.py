import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tweedie_diffusion.evaluation.features import open_features
from tweedie_diffusion.training.config import default_config, to_json
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.loop import open_data

ROOT = Path(__file__).parents[1]


@pytest.fixture
def program(tmp_path_factory):
    """program(*arguments): run it to its end."""
    cache = tmp_path_factory.getbasetemp().parent / "compiled"
    names = {"COMPILATION_CACHE_DIR": str(cache), "PLATFORMS": "cpu", "DISABLE_MOST_OPTIMIZATIONS": "1"}
    env = os.environ | {f"JAX_{name}": value for name, value in names.items()}

    def run(*arguments):
        command = [sys.executable, "-m", "tweedie_diffusion.train_features", *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, check=False)

    return run


def test_features_of_a_run(program, tmp_path):
    config = default_config()
    (tmp_path / "config.json").write_text(to_json(config))
    (tmp_path / "data.json").write_text(facts_of(open_data(config.data)).to_json())
    out = tmp_path / "f.safetensors"
    run = program(f"--workdir={tmp_path}", f"--out={out}", "--steps=2")
    assert run.returncode == 0, run.stderr
    assert "(10 classes), after 1497 clean training images" in run.stdout
    images = np.zeros((3, 8, 8, 1), np.float32)
    assert open_features(f"classifier:{out}", reference=images)(images).shape == (3, 64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir=nowhere", "--out=f.npz"], "f.npz must end in .safetensors"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(program, arguments, message):
    run = program(*arguments)
    assert run.returncode == 2
    assert message in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
