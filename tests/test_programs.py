import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
MIXTURE = f"--config={ROOT}/configs/mixture_2d.py:quick"
SMALL = ["--config.data.num_examples=400", "--config.model.width=8", "--config.training.batch_size=16"]


@pytest.fixture
def program(tmp_path_factory):
    """program(name, *arguments): run it to its end, from the root of the project."""
    cache = tmp_path_factory.getbasetemp().parent / "compiled"

    def run(name, *arguments):
        return subprocess.run(command(name, *arguments), **settings(cache), text=True, capture_output=True, check=False)

    return run


def command(name, *arguments):
    return [sys.executable, "-m", f"tweedie_diffusion.{name}", *map(str, arguments)]


def settings(cache):
    jax_settings = {"COMPILATION_CACHE_DIR": str(cache), "PLATFORMS": "cpu", "DISABLE_MOST_OPTIMIZATIONS": "1"}
    return {"cwd": ROOT, "env": os.environ | {f"JAX_{name}": value for name, value in jax_settings.items()}}


def test_train_then_the_commands_it_prints(program, tmp_path):
    digits = f"--config={ROOT}/configs/digits_noisy.py:quick"
    small = ["--config.model.channels=8", "--config.model.channel_multipliers=(1,)"]
    small += ["--config.training.steps=4", "--config.consistency.start=2"]
    workdir = f"--workdir={tmp_path}/run"
    trained = program("main", digits, workdir, *small)
    assert trained.returncode == 0, trained.stderr
    again = program("main", digits, workdir, *small)
    assert again.returncode == 0
    assert "finished already" in again.stdout

    commands = [line.split() for line in trained.stdout.splitlines() if line.strip().startswith("python -m")]
    (_, _, sample, *sample_flags), (_, _, denoise, *denoise_flags), evaluate = commands
    assert evaluate == ["python", "-m", "tweedie_diffusion.evaluate", workdir]
    sample_flags[-1] = f"--out={tmp_path}/samples.png"
    denoise_flags[-1] = tmp_path / "denoised.npz"
    assert program(sample.split(".")[1], *sample_flags).returncode == 0
    assert program(denoise.split(".")[1], *denoise_flags).returncode == 0
    with Image.open(tmp_path / "samples.png") as grid:
        assert grid.size == (402, 402)  # 8 tiles of 48, and gaps of 2
    denoised = np.load(tmp_path / "denoised.npz")["images"]
    assert denoised.shape == (64, 8, 8, 1)
    assert 0 <= denoised.min() <= denoised.max() <= 16

    arrays = program("sample", workdir, "--num=3", "--mode=truncated", f"--out={tmp_path}/samples.npz")
    assert arrays.returncode == 0
    images = np.load(tmp_path / "samples.npz")["images"]
    assert images.shape == (3, 8, 8, 1)
    assert 0 <= images.min() <= images.max() <= 16


def test_ctrl_c_saves_and_the_same_command_goes_on(program, tmp_path, tmp_path_factory):
    arguments = [
        MIXTURE,
        *SMALL,
        f"--workdir={tmp_path}/run",
        "--config.training.steps=3000",
        "--config.training.log_every=1",
    ]
    cache = tmp_path_factory.getbasetemp().parent / "compiled"
    with subprocess.Popen(
        command("main", *arguments), **settings(cache), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as running:
        lines = tmp_path / "run" / "metrics.jsonl"
        while running.poll() is None and not (lines.exists() and lines.stat().st_size):
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        shown, _ = running.communicate(timeout=100)
    assert running.returncode == 130
    assert "of 3000, which is saved. Go on with:\n" in shown
    assert list((tmp_path / "run" / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def mixture_run(tmp_path_factory):
    """The workdir of a few steps on the 2-D mixture."""
    workdir = tmp_path_factory.mktemp("mixture") / "run"
    arguments = [MIXTURE, *SMALL, f"--workdir={workdir}", "--config.training.steps=4", "--config.consistency.start=2"]
    arguments += ["--config.data.held_out=0.25"]
    cache = tmp_path_factory.getbasetemp().parent / "compiled"
    subprocess.run(command("main", *arguments), **settings(cache), capture_output=True, check=True)
    return workdir


def stopped_once_there_are(parts, number, arguments, cache):
    """Sample until so many parts are in OUT.parts, and send a signal: the exit code, and what was shown."""
    folder = arguments[-1].removeprefix("--out=") + ".parts"
    with subprocess.Popen(
        command("sample", *arguments), **settings(cache), stdout=subprocess.PIPE, text=True
    ) as running:
        while running.poll() is None and len(list(Path(folder).glob("part_*"))) < parts:
            time.sleep(0.01)
        running.send_signal(number)
        shown, _ = running.communicate(timeout=100)
    return running.returncode, shown


def test_sampling_that_is_stopped_or_killed_goes_on(program, mixture_run, tmp_path, tmp_path_factory):
    arguments = [f"--workdir={mixture_run}", "--num=7000", "--steps=300"]
    once, out = tmp_path / "once.npz", tmp_path / "samples.npz"
    assert program("sample", *arguments, f"--out={once}").returncode == 0
    cache, arguments = tmp_path_factory.getbasetemp().parent / "compiled", [*arguments, f"--out={out}"]

    code, shown = stopped_once_there_are(2, signal.SIGTERM, arguments, cache)
    assert code == 128 + signal.SIGTERM
    assert re.search(rf"stopped while (sampling|writing).* kept in {out}\.parts\. Go on with:\n", shown)
    assert shlex.split(shown.splitlines()[-1])[1:] == ["-m", "tweedie_diffusion.sample", *arguments]
    kept = len(list(Path(f"{out}.parts").glob("part_*")))
    code, shown = stopped_once_there_are(kept + 1, signal.SIGKILL, arguments, cache)
    assert (code, shown) == (-signal.SIGKILL, "")
    assert not out.exists()

    other = program("sample", *arguments, "--seed=1")
    assert other.returncode == 2
    assert (
        other.stderr == f"error: {out}.parts is of another request (seed differ): remove it, or choose another --out\n"
    )
    last = program("sample", *arguments)
    assert (last.returncode, last.stdout) == (0, f"7000 images in {out}\n")
    assert re.search(r"going on: [2-7] of 7 parts were drawn before", last.stderr)
    assert out.read_bytes() == once.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["once.npz", "samples.npz"]


def test_samples_on_any_grid_and_what_is_none(program, mixture_run, tmp_path):
    grid = [f"--workdir={mixture_run}", "--num=3", "--sigmas=20,2,.5,.1", "--step=midpoint"]
    assert program("sample", *grid, f"--out={tmp_path}/samples.npy").returncode == 0
    assert np.load(tmp_path / "samples.npy").shape == (3, 2)
    for flags, message in (
        (["--sigmas=1,2"], "sigmas must go down and end above 0"),
        (["--steps=1"], "steps must be at least 2 (got 1)"),
        (["--guidance=2"], "guidance needs classes, and the model has none"),
        (["--out=images/"], "the model of [2] draws vectors, not images: write an .npz or .npy"),
    ):
        run = program("sample", f"--workdir={mixture_run}", f"--out={tmp_path}/x.npz", *flags)
        assert (run.returncode, len(run.stderr.splitlines())) == (2, 1)
        assert message in run.stderr


def test_an_evaluation_is_written_as_numbers_and_a_page(program, mixture_run, tmp_path):
    workdir = shutil.copytree(mixture_run, tmp_path / "run")
    done = program("evaluate", f"--workdir={workdir}", "--num=70", "--draws=3", "--features=pixels")
    assert done.returncode == 0, done.stderr
    assert f"Look at {workdir}/report.html" in done.stdout
    numbers = json.loads((workdir / "evaluation.json").read_text())
    for name in ("mse", "frechet", "kid", "precision", "recall", "density", "coverage", "proximal"):
        assert {"n", "seed"} <= numbers[name].keys()
        assert name == "mse" or numbers[name]["floor"] is not None
    page = (workdir / "report.html").read_text()
    assert page.count("<h2>") == 7
    assert not re.search(r"https?:|<script|src=\"(?!data:)", page)
    assert not list(workdir.glob("*.parts"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num=1"], "--num must be at least 6"),
        (["--features=pca:40"], "2 principal components (asked for 40)"),
        (["--features=pixel"], "did you mean pixels?"),
        (["--features=inception:x.pth"], "the data is vectors: use pixels or pca"),
        (["--reference=digits"], "digits has a size and a range of its own"),
        (["--clean_trained=nowhere"], "there is no run in nowhere"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_in_one_line(program, mixture_run, arguments, message):
    refused = program("evaluate", f"--workdir={mixture_run}", *arguments)
    assert refused.returncode == 2, refused.stderr
    (line,) = refused.stderr.strip().splitlines()
    assert message in line


def test_sigterm_ends_any_program_with_the_command_to_go_on_with():
    code = "import time; from tweedie_diffusion import program; "
    code += "program.run(lambda arguments: print('ready', flush=True) or time.sleep(60))"
    odd = ["a b", "it's", '"$HOME"', "ü*"]
    arguments = [sys.executable, "-c", code, "--", *odd]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        shown, errors = running.communicate(timeout=20)
    assert (running.returncode, errors) == (143, "")
    again = shown.split("Go on with:\n")[1]
    pasted = subprocess.run(["bash", "-c", f"printf '%s\\n' {again}"], text=True, capture_output=True, check=True)
    assert pasted.stdout.splitlines()[-4:] == odd


def large_pages_on_request():
    told = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return told.is_file() and "[madvise]" in told.read_text()


@pytest.mark.skipif(not large_pages_on_request(), reason="Linux gives large pages to all, or to none")
@pytest.mark.parametrize(("before", "after"), [("", "hugetlb=1"), ("hugetlb=0", "hugetlb=0")])
def test_a_program_has_large_pages_unless_told_otherwise(before, after):
    code = "import os; print(os.getpid(), flush=True); from tweedie_diffusion import program; "
    code += "program.run(lambda arguments: print(os.environ['GLIBC_TUNABLES'], *arguments))"
    tunables = before and f"glibc.malloc.{before}"
    command = [sys.executable, "-c", code, "--", "a b", "--odd"]
    ran = subprocess.run(
        command, env=os.environ | {"GLIBC_TUNABLES": tunables}, cwd=ROOT, text=True, capture_output=True, check=True
    )
    *pids, said = ran.stdout.splitlines()
    assert said == f"glibc.malloc.{after} a b --odd"
    assert len(set(pids)) == 1  # of the process that was started, which others may wait for or signal


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_workdir_that_cannot_be_is_refused_in_one_line(program, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    run = program("main", MIXTURE, *SMALL, f"--workdir={tmp_path}/{name}")
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1
    assert f"{tmp_path}/{name}" in run.stderr
    assert (tmp_path / "file").read_text() == "mine"


def test_images_are_inspected_as_text_page_and_json(program, tmp_path, rng):
    np.save(tmp_path / "images.npy", rng.standard_normal((300, 12, 12)).astype(np.float32))
    text = program("inspect_data", tmp_path, f"--html={tmp_path}/page.html")
    assert text.returncode == 0, text.stderr
    assert "The method holds" in text.stdout
    assert text.stdout.splitlines()[-1] == f"Look at {tmp_path}/page.html"
    assert "The method holds" in (tmp_path / "page.html").read_text()
    found = json.loads(program("inspect_data", tmp_path, "--json").stdout)
    assert {"shape", "dtype", "sigma_scaled", "sigma_interval", "gain", "clipped_fraction", "unreadable"} <= set(found)
    assert (found["count"], found["verdict"]) == (300, "holds")
    assert found["sigma"] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("main", [], "--workdir is missing"),
        ("main", ["--workdir=W", "--config=nowhere.py"], "the config file nowhere.py does not exist"),
        ("main", ["--workdir=W", MIXTURE + "er"], "unknown variant 'quicker'"),
        (
            "main",
            ["--workdir=W", MIXTURE, "--config.data.sigma=1"],
            "unknown setting 'sigma': did you mean 'sigma_tn'?",
        ),
        ("main", ["--workdir=W", MIXTURE, "--config.data.sigma_tn=-1"], "data.sigma_tn must be >= 0"),
        ("main", ["--workdir=W", MIXTURE, "--config.data.sigma_tn=big"], "could not convert string to float: 'big'"),
        ("main", ["--workdir=W", MIXTURE, "--wrokdir=W"], "Did you mean: workdir"),
        ("main", ["--workdir=W", MIXTURE, "extra"], "unexpected argument 'extra'"),
        ("main", ["--workdir=W", MIXTURE, "--config.data.source=nowhere.npz"], "nowhere.npz does not exist"),
        ("main", ["--workdir=W", MIXTURE, "--config.model.network=unet"], "use the MLP for vectors"),
        ("main", ["--workdir=W", "--config.model.channel_multipliers=(1,1,1,1,1)"], "cannot be halved 4 times"),
        ("sample", ["--workdir=W"], "there is no run in"),
        ("sample", ["--workdir=W", "--num=0"], "--num must be at least 1"),
        ("sample", ["--workdir=W", "--out=samples.jpg"], "must end in .png or .npz"),
        (
            "sample",
            ["--workdir=W", "--sigmas=80,low"],
            "--sigmas must be some numbers with commas between (got 80,low)",
        ),
        ("sample", ["--workdir=W", "--guidance_interval=1"], "--guidance_interval must be 2 numbers"),
        ("denoise", ["--workdir=W", "only_one.npz"], "name what to denoise and where to write"),
        ("inspect_data", [], "name the images, a folder or file or pattern"),
        ("inspect_data", ["nowhere"], "nowhere does not exist"),
        ("inspect_data", ["nowhere", "--html=page.txt"], "page.txt must end in .html"),
    ],
)
def test_bad_input_ends_in_one_line_and_code_2(program, tmp_path, name, arguments, message):
    run = program(name, *[a.replace("--workdir=W", f"--workdir={tmp_path}/run") for a in arguments])
    assert run.returncode == 2
    assert message in run.stderr
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"])
def test_a_cache_that_cannot_be_written_is_told_in_one_line(tmp_path, name):
    (tmp_path / "file").write_text("")
    others = {
        key: value for key, value in os.environ.items() if key not in ("XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    }
    place = {"cwd": ROOT, "env": others | {"JAX_PLATFORMS": "cpu", name: str(tmp_path / "file" / "in")}}
    run = subprocess.run(command("main"), **place, text=True, capture_output=True, check=False)
    warning, error = run.stderr.splitlines()
    assert warning.startswith(f"warning: {tmp_path}/file/in")
    assert "cannot be written (Not a directory): every program compiles anew" in warning
    assert error.startswith("error: --workdir is missing")


def bad_config(folder):
    path = folder / "bad.py"
    path.write_text(
        "from tweedie_diffusion.training.config import default_config\n"
        "def get_config():\n    config = default_config()\n    config['nonsense'] = 1\n    return config\n"
    )
    return [f"--config={path}"], "unknown setting 'nonsense'"


def broken_config(folder):
    (folder / "broken.py").write_text("def get_config(:\n")
    return [f"--config={folder}/broken.py"], "broken.py, line 1: invalid syntax"


def not_a_number(folder):
    np.save(folder / "x.npy", np.full((20, 8, 8), np.nan, np.float32))
    return [f"--config.data.source={folder}/x.npy"], "NaN"


def empty_folder(folder):
    (folder / "images").mkdir()
    return [f"--config.data.source={folder}/images"], "there is no image in"


def unreadable_image(folder):
    (folder / "images").mkdir()
    for i in range(20):
        (folder / "images" / f"{i}.png").write_bytes(b"not an image")
    return [f"--config.data.source={folder}/images"], "is not a readable picture"


def other_run(folder):
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text('{"seed": 7}')
    return [], "holds a run with other settings"


@pytest.mark.parametrize(
    "arrange", [bad_config, broken_config, not_a_number, empty_folder, unreadable_image, other_run]
)
def test_bad_files_end_in_one_line_and_code_2(program, tmp_path, arrange):
    arguments, message = arrange(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    run = program("main", f"--workdir={tmp_path}/run", *arguments)
    assert run.returncode == 2
    assert message in run.stderr
    assert run.stderr.startswith("error: ")
    lines = run.stderr.strip().splitlines()
    assert len(lines) == 1 or lines[1:] == sorted(set(lines[1:]))  # one, and one a bad file
    assert [p for p in sorted(tmp_path.rglob("*")) if "__pycache__" not in p.parts] == before
