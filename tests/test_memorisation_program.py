import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training.conftest import patch_results, small_config

from tweedie_diffusion.training.loop import train

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two runs of the same points, clean and noisy."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch_results(patch)
        for name, sigma_tn in (("clean", 0.0), ("noisy", 0.3)):
            config = small_config()
            config.data.num_examples = 60
            config.data.sigma_tn = sigma_tn
            config.consistency.weight = 0.0
            config.training.steps = 2
            train(config, folder / name)
    return folder


def memorisation(folder, cache, *arguments):
    settings = {"COMPILATION_CACHE_DIR": str(cache), "PLATFORMS": "cpu", "DISABLE_MOST_OPTIMIZATIONS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tweedie_diffusion.memorisation", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | {f"JAX_{name}": value for name, value in settings.items()},
        text=True,
        capture_output=True,
        check=False,
    )


def test_one_command_one_table_one_picture(folder, tmp_path_factory):
    cache = tmp_path_factory.getbasetemp().parent / "compiled"
    few = ["--num=5", "--attacked=4", "--sigmas=1", "--mask_sigmas=0"]
    run = memorisation(folder, cache, "--workdir=clean,noisy", "--out=page.html,numbers.json", *few)
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("|  | held-out images | clean | noisy |\n")
    assert "| trained on |  | clean images | σ_tn = 0.3 |" in run.stdout
    assert run.stdout.endswith("\nLook at page.html\n")
    assert "<table>" in (folder / "page.html").read_text()
    found = json.loads((folder / "numbers.json").read_text())
    assert [len(found["runs"][name]["samples"]["similarities"]) for name in ("clean", "noisy")] == [5, 5]
    assert sorted(path.name for path in folder.iterdir()) == ["clean", "noisy", "numbers.json", "page.html"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--workdir is missing"),
        (["--workdir=nowhere"], "there is no run in nowhere"),
        (["--workdir=clean", "--sigmas=0,1"], "--sigmas must be noise levels > 0 (got 0,1)"),
        (["--workdir=clean", "--hidden=0.2"], "hides 0 of the 2 values"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(folder, tmp_path_factory, arguments, message):
    run = memorisation(folder, tmp_path_factory.getbasetemp().parent / "compiled", *arguments)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ")
    assert message in run.stderr
    assert len(run.stderr.strip().splitlines()) == 1
