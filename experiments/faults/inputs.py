"""Faults 16, 17, 20, 21, 23: images, settings and files that are wrong, change, or are made to harm."""

import io
import os
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from experiments.faults.numbers import driven
from experiments.faults.runs import (
    CONFIG,
    Outcome,
    command,
    environment,
    outcome,
    run,
    same_run,
    started,
    steps_done,
    training,
    wait_until,
)

SIDE, GOOD = 8, 40  # pixels, and images
OF_IMAGES = (
    "--config.model.channels=8",
    "--config.model.channel_multipliers=(1,)",
    "--config.model.patch_components=0",
    "--config.training.batch_size=8",
    "--config.training.save_every=5",
    "--config.training.log_every=5",
    "--config.consistency.weight=0.0",
    "--config.evaluation.num_images=6",
)
SECONDS = 20  # within which a wrong command ends, on a busy core


def on_images(source: Path, workdir: Path, *changes: str) -> list[str]:
    """Flags of main for a few steps of a tiny U-Net on the images of a folder or file."""
    place = f"--config.data.source={source}"
    return ["--config=configs/digits_noisy.py:quick", f"--workdir={workdir}", place, *OF_IMAGES, *changes]


def good_images(folder: Path) -> Path:
    """A folder of pictures that can be used."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(GOOD):
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)).save(folder / f"good{i:02}.png")
    return folder


def _spoil(folder: Path) -> list[str]:
    """Add a picture of each bad kind: their names."""
    grey = np.zeros((SIDE, SIDE), np.uint8)
    content = (folder / "good00.png").read_bytes()
    (folder / "truncated.png").write_bytes(content[: len(content) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "words.png").write_text("no image")
    Image.fromarray(grey).convert("CMYK").save(folder / "inks.jpg")
    Image.fromarray(grey).convert("LA").save(folder / "alpha.png")
    Image.fromarray(np.zeros((SIDE + 4, SIDE), np.uint8)).save(folder / "larger.png")
    Image.fromarray(grey).convert("RGB").save(folder / "colour.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "nowhere.png").symlink_to("nothing.png")
    (folder / "round").symlink_to(".", target_is_directory=True)
    return sorted(["truncated.png", "empty.png", "words.png", "inks.jpg", "alpha.png", "larger.png", "colour.png",
                   "loop.png", "nowhere.png"])  # fmt: skip


def bad_images(scratch: Path) -> Outcome:
    """A folder with pictures of each bad kind, and a link to itself.

    One start names every one, once, with code 2, and makes nothing. With data.lenient it trains without them, and what
    is left out is the same list after kill -9 and a restart; one more bad file then is other data, and refused.
    """
    folder, strict, lenient = good_images(scratch / "images"), scratch / "strict", scratch / "lenient"
    bad = _spoil(folder)
    done = run(command("main", *on_images(folder, strict)))
    named = [line.split()[0] for line in done.stderr.splitlines() if line.startswith("  ")]
    checks = [done.returncode == 2, sorted(named) == bad or f"named {named}", not strict.exists()]
    flags = on_images(folder, lenient, "--config.data.lenient=true")
    with started(command("main", *flags)) as process:
        saved = lenient / "checkpoints" / "5"
        checks.append(wait_until(saved.is_dir, process) or "not killed")
    before = (lenient / "excluded.csv").read_text()
    done = run(command("main", *flags))
    excluded = [line.split(",")[0] for line in before.splitlines()[1:]]
    checks += [done.returncode == 0 or done.stderr[-200:], excluded == bad or f"excluded {excluded}"]
    checks.append((lenient / "excluded.csv").read_text() == before or "excluded.csv changed")
    (folder / "good01.png").write_bytes(b"")
    done = run(command("main", *flags))
    checks += [done.returncode == 2, "the data is not what the run in" in done.stderr]
    return outcome(checks, f"{len(bad)} bad files")


def changed_file(scratch: Path) -> Outcome:
    """A file is rewritten, cut off, or removed while a run reads it: an error of a line names it, code 2.

    The same command is refused then, for it is other data, or a bad file; --accept_data goes on, unless it is bad.
    """

    def rewrite(path):
        Image.fromarray(np.full((SIDE, SIDE), 7, np.uint8)).save(path)

    def cut_off(path):
        os.truncate(path, path.stat().st_size // 2)

    checks = []
    for change in (rewrite, cut_off, Path.unlink):
        folder, workdir = good_images(scratch / change.__name__), scratch / f"run {change.__name__}"
        flags = on_images(folder, workdir, "--config.training.steps=4000", "--config.debug_trace=true")
        spied = [sys.executable, "-m", "experiments.faults.driven", '{"cache": 0}', *flags]  # as if they did not fit
        with started(spied) as process:
            checks.append(wait_until(lambda workdir=workdir: steps_done(workdir) > 20, process) or "ended early")
            for path in folder.iterdir():  # some of them are held out
                change(path)
            _, said = process.communicate(timeout=120)
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        told = ("has changed since", "cannot be read any more")
        checks += [
            process.returncode == 2 or f"{change.__name__}: code {process.returncode}",
            len(errors) == 1 and ".png" in errors[0] and any(t in errors[0] for t in told) or f"said {said[-200:]}",
            "Traceback" not in said,
        ]
    for name, accepted, mended in (("rewrite", 0, True), ("cut_off", 2, False), ("unlink", 2, False)):
        done = steps_done(scratch / f"run {name}")
        flags = on_images(scratch / name, scratch / f"run {name}", f"--config.training.steps=4000")
        checks.append(run(command("main", *flags)).returncode == 2 or f"{name}: went on with other data")
    return outcome(checks)


def _file(path: Path, lines: str) -> str:
    """A config file whose function does `lines` to the default config."""
    start = "from tweedie_diffusion.training.config import default_config\n\ndef get_config():\n"
    path.write_text(f"{start}    config = default_config()\n    {lines}\n    return config\n")
    return f"--config={path}"


def wrong_settings(scratch: Path) -> Outcome:
    """Wrong settings on the command line and in the config file: code 2, one line that names the setting and, where it
    is unknown, the nearest; before anything is made.
    """
    mixture, digits = f"--config={CONFIG}", "--config=configs/digits_noisy.py:quick"
    unlocked = "with config.unlocked(): config.training.lerning_rate = 1.0"
    cases = [
        ([mixture, "--config.training.lerning_rate=1"], "did you mean 'learning_rate'", None),
        ([mixture, "--config.modle.width=1"], "did you mean 'model'", None),
        ([mixture, "--wrokdir=x"], "Did you mean: workdir", None),
        ([_file(scratch / "a.py", "config.training.lerning_rate = 1.0")], "did you mean 'learning_rate'", None),
        ([_file(scratch / "b.py", unlocked)], "did you mean 'training.learning_rate'", None),
        ([_file(scratch / "c.py", "config.training.batch_size = 'many'")], "batch_size", None),
        ([_file(scratch / "d.py", "config.data.sigma_tn = -0.1")], "data.sigma_tn must be >= 0", None),
        ([mixture, "--config.training.batch_size=many"], "many", None),
        ([mixture, "--config.training.batch_size=1.5"], "1.5", None),
        ([mixture, "--config.data.sigma_tn=-1"], "data.sigma_tn must be >= 0", None),
        ([mixture, "--config.data.sigma_tn=nan"], "data.sigma_tn", None),
        ([mixture, "--config.training.batch_size=64"], "use a multiple of 3", 3),
        ([digits, "--config.model.channel_multipliers=(1,1,1,1,1)"], "cannot be halved 4 times", None),
    ]
    checks, slowest = [], 0.0
    for number, (flags, word, devices) in enumerate(cases):
        workdir, begun = scratch / f"run {number}", time.monotonic()
        simulated = f"--xla_force_host_platform_device_count={devices}" if devices else None
        done = run(command("main", f"--workdir={workdir}", *flags), XLA_FLAGS=simulated)
        slowest = max(slowest, time.monotonic() - begun)
        one_line = len(done.stderr.strip().splitlines()) == 1 and word in done.stderr
        checks += [
            done.returncode == 2 or f"{flags[-1]}: code {done.returncode}",
            one_line or f"{flags[-1]}: {done.stderr[-200:]}",
            not workdir.exists(),
        ]
    checks.append(slowest < SECONDS or f"took {slowest:.0f} s")
    return outcome(checks, f"{len(cases)} commands, the slowest in {slowest:.1f} s")


def changed_settings(scratch: Path) -> Outcome:
    """A killed run is resumed with another σ, network, learning rate: each is refused with code 2, and what differs is
    told; nothing is lost by it. Settings that may change are told, and it goes on, bit for bit.
    """
    reference, workdir = scratch / "reference", scratch / "run"
    run(training(reference))
    with started(training(workdir)) as process:
        checks = [wait_until(lambda: steps_done(workdir) > 220, process) or "not killed"]
    refused = {
        "data.sigma_tn": ("0.3", "0.4"),
        "model.width": ("8", "16"),
        "model.depth": ("1", "2"),
        "training.learning_rate": ("0.002", "0.001"),
        "seed": ("0", "1"),
    }
    several = [f"--config.{key}={new}" for key, (_, new) in refused.items()]
    for changes in [*([change] for change in several), several]:
        done = run(training(workdir, *changes))
        told = [f"{key}: {old} -> {new}" for key, (old, new) in refused.items() if f"--config.{key}={new}" in changes]
        checks += [done.returncode == 2 or f"{changes}: code {done.returncode}"]
        checks += [text in done.stderr or f"{text} is not in {done.stderr[-200:]}" for text in told]
    allowed = ("log_every=20", "save_every=90", "keep_checkpoints=3")
    done = run(training(workdir, *(f"--config.training.{a}" for a in allowed), "--config.evaluation.num_images=16"))
    said = done.stdout + done.stderr
    checks += [done.returncode == 0 or said[-200:], same_run(reference, workdir)]
    for told in ("log_every: 50 -> 20", "save_every: 100 -> 90", "keep_checkpoints: 2 -> 3", "num_images: 32 -> 16"):
        checks.append(told in said or f"{told} is not said")
    return outcome(checks)
