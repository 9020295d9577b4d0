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

from experiments.faults.runs import (
    CONFIG,
    Outcome,
    command,
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
LONG = ("--config.training.steps=1000", "--config.training.save_every=100", "--config.debug_trace=true")
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
        pixels = np.random.default_rng(list(path.name.encode())).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
        Image.fromarray(pixels).save(path)

    def cut_off(path):
        os.truncate(path, path.stat().st_size // 2)

    checks = []
    for change in (rewrite, cut_off, Path.unlink):
        folder, workdir = good_images(scratch / change.__name__), scratch / f"run {change.__name__}"
        flags = on_images(folder, workdir, *LONG)
        spied = [sys.executable, "-m", "experiments.faults.driven", '{"cache": 0}', *flags]  # as if they did not fit
        with started(spied) as process:
            saved = workdir / "checkpoints" / "100"
            checks.append(wait_until(saved.is_dir, process) or "ended early")
            for path in folder.iterdir():  # some of them are held out
                change(path)
            _, said = process.communicate(timeout=120)
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        told = ("has changed since", "cannot be read any more")
        checks += [
            process.returncode == 2 or f"{change.__name__}: code {process.returncode}",
            (len(errors) == 1 and ".png" in errors[0] and any(t in errors[0] for t in told)) or f"said {said[-200:]}",
            "Traceback" not in said,
        ]
    for name in ("rewrite", "cut_off", "unlink"):
        flags = on_images(scratch / name, scratch / f"run {name}", *LONG)
        checks.append(run(command("main", *flags)).returncode == 2 or f"{name}: went on with other data")
        accepted = run(command("main", *flags, "--accept_data"))
        checks.append(accepted.returncode == (0 if name == "rewrite" else 2) or accepted.stderr[-200:])
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


def _trap(marker: Path) -> bytes:
    """What runs os.mkdir(marker) when it is unpickled: written by hand."""
    return b"cos\nmkdir\n(V" + str(marker).encode("raw_unicode_escape") + b"\ntR."


def _header(descr: str, shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _packed(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _png(side: int) -> bytes:
    """A picture of a few bytes whose header states another side."""
    chunk = lambda name, data: struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        chunk(b"IDAT", zlib.compress(bytes(9))),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def _hostile(marker: Path, good: bytes) -> dict[str, bytes]:
    """Files made to harm, by name."""
    trap, huge = _trap(marker), _header("<f8", (10**5, 10**5, 10**5)) + b"few"
    objects = _header("|O", (4,)) + trap
    stated = struct.pack("<Q", 2**62) + b"{}"
    return {
        "objects.npy": objects,
        "trap.npy": trap,
        "objects.npz": _zipped({"images.npy": objects}),
        "trap.npz": _zipped({"images.pkl": trap}),
        "up.npz": _zipped({"../../images.npy": _header("|u1", (20, 8, 8)) + bytes(1280)}),
        "huge.npy": huge,
        "huge.npz": _zipped({"images.npy": huge}),
        "huge.png": _png(10**6),
        "up.tar": _packed({"../../up.png": good}),
        "objects.tar": _packed({"a.npy": objects, "b.npy": trap}),
        "trap.png": trap,
        "trap.tif": trap,
        "huge.safetensors": stated,
        "trap.safetensors": trap,
        "trap.h5": trap,
        "trap.fits": trap,
        "trap.mrc": trap,
    }


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("memory", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""
MORE = 2**17  # KiB that a refusal may take more than one of a harmless file
IGNORED = (".safetensors",)  # no format of images: never opened


def hostile_files(scratch: Path) -> Outcome:
    """Planted pickles, `../` names, headers of terabytes: as data, each beside good pictures and alone, and in the
    workdir of a run. Nothing in them is run, nothing is written elsewhere, and refusing takes no memory.
    """
    marker, inside = scratch / "sprung", scratch / "inside" / "deep"
    inside.mkdir(parents=True)
    planted = scratch / "planted"
    planted.write_bytes(_trap(marker))
    run([sys.executable, "-c", "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))", str(planted)])
    checks: list[bool | str] = [marker.is_dir() or "the trap would not work"]
    marker.rmdir()
    harmless = good_images(inside / "harmless")
    good = (harmless / "good00.png").read_bytes()
    (harmless / "bad.png").write_bytes(good[:40])
    _, usual = _refusal(harmless, inside)
    files = _hostile(marker, good)
    beside = good_images(inside / "beside")
    for name, content in files.items():
        (beside / name).write_bytes(content)
    outside = _outside(scratch, inside)
    said, memory = _refusal(beside, inside)
    expected = [name for name in files if not name.endswith(IGNORED)]
    checks += [f"\n  {name}" in said or f"{name} is not named" for name in expected]
    checks += [f"\n  {name}" not in said for name in files if name.endswith(IGNORED)]
    checks.append(memory < usual + MORE or f"took {memory - usual} KiB more")
    for name in files:
        said, memory = _refusal(beside / name, inside)
        checks += [said.startswith("error:") or f"{name}: {said[-200:]}"]
        checks += [memory < usual + MORE or f"{name} took {memory - usual} KiB more"]
    checks += _in_a_workdir(inside / "run", files, marker)
    checks += [not marker.exists() or "something was run", _outside(scratch, inside) == outside or "written elsewhere"]
    return outcome(checks, f"{len(files)} files")


def _outside(scratch: Path, inside: Path) -> list[Path]:
    return [path for path in sorted(scratch.rglob("*")) if not path.is_relative_to(inside)]


def _refusal(source: Path, folder: Path) -> tuple[str, int]:
    """What is said of a source that is refused, and the memory it took, in KiB; '' if it is not refused."""
    workdir = folder / "none"
    done = run([sys.executable, "-c", MEASURED, *command("main", *on_images(source, workdir))])
    refused = done.returncode == 2 and not workdir.exists() and "Traceback" not in done.stderr
    return done.stderr if refused else "", int(done.stdout.split()[-1])


def _in_a_workdir(workdir: Path, files: dict[str, bytes], marker: Path) -> list[bool | str]:
    """Traps among the checkpoints, in place of one, and as the mixture of patches of a run."""
    mixture = ("--config.model.patch_components=8", "--config.data.num_examples=1000", "--config.training.steps=200")
    run(training(workdir, *mixture))
    checks: list[bool | str] = []
    checkpoints = workdir / "checkpoints"
    for name, content in files.items():
        (checkpoints / name).write_bytes(content)
    for step in (300, 400):  # newer ones
        (checkpoints / str(step) / "state").mkdir(parents=True)
        for name in ("_METADATA", "checkpoint", "trap.pkl"):
            (checkpoints / str(step) / "state" / name).write_bytes(files["trap.npy"])
    (checkpoints / "400" / "manifest.json").write_bytes(files["trap.npy"])
    (checkpoints / "200" / "score.json").write_bytes(files["trap.npy"])
    sampled = command("sample", f"--workdir={workdir}", "--num=2", f"--out={workdir}/out.npz")
    done = run(sampled)
    checks.append((done.returncode in (0, 2) and "Traceback" not in done.stderr) or f"sample: {done.stderr[-200:]}")
    done = run(training(workdir, *mixture))
    said = done.stdout + done.stderr
    checks += [done.returncode == 0 or said[-200:], "300.damaged" in said, "400.damaged" in said]
    for name in ("objects.npz", "trap.npy", "up.npz", "huge.npz"):
        (workdir / "patch_mixture.npz").write_bytes(files[name])
        done = run(sampled)
        one_line = done.stderr.startswith("error:") and len(done.stderr.splitlines()) == 1
        checks.append((done.returncode == 2 and one_line) or f"{name} as mixture: {done.stderr[-200:]}")
    for name in ("config.json", "data.json"):
        kept = (workdir / name).read_bytes()
        (workdir / name).write_bytes(files["trap.npy"])
        done = run(training(workdir, *mixture))
        checks.append((done.returncode == 2 and "Traceback" not in done.stderr) or f"{name}: {done.stderr[-200:]}")
        (workdir / name).write_bytes(kept)
    checks.append(not marker.exists() or "something in the workdir was run")
    return checks
