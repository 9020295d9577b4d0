"""Faults 26 to 28: sampling that is killed, surroundings that lack something, and a very long run."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np

from experiments.faults.numbers import EIGHT, driven
from experiments.faults.runs import (
    Outcome,
    command,
    leftovers,
    outcome,
    run,
    same_run,
    started,
    training,
    wait_until,
)
from tweedie_diffusion.training.config import default_config

PARTS, PART = 24, 1024  # of a long sampling, and the images of one
KILLS = 6


def sampling_killed(scratch: Path) -> Outcome:
    """kill -9, several times, in a long sampling: it goes on at the missing part, and ends with the same bits.

    Image i is the same whatever the number asked for, and on 8 simulated devices.
    """
    workdir = scratch / "run"
    run(training(workdir))

    def sampled(out: str, num: int = PARTS * PART, **more):
        return command("sample", f"--workdir={workdir}", f"--num={num}", "--steps=200", f"--out={scratch / out}", *more)

    checks: list[bool | str] = [run(sampled("whole.npz")).returncode == 0]
    whole = _images(scratch / "whole.npz")
    checks += [len(whole) == PARTS * PART, len(np.unique(whole, axis=0)) == len(whole)]
    folder, rng, counts = scratch / "killed.npz.parts", random.Random(0), [0]
    parts = lambda: len(list(folder.glob("part_*")))
    for _ in range(KILLS):
        goal = min(counts[-1] + rng.randint(1, 3), PARTS - 1)
        with started(sampled("killed.npz")) as process:
            reached = wait_until(lambda goal=goal: parts() >= goal, process)
        checks += [reached or "ended before it was killed", parts() >= counts[-1] or "parts were lost"]
        counts.append(parts())
    other = run(sampled("killed.npz", num=PARTS * PART - 1))
    checks += [other.returncode == 2 or "goes on with another request", parts() == counts[-1]]
    done = run(sampled("killed.npz"))
    said = f"going on: {counts[-1]} of {PARTS} parts were drawn before"
    checks += [done.returncode == 0, said in done.stderr or f"{said}: not said", not folder.exists()]
    checks += [np.array_equal(_images(scratch / "killed.npz"), whole) or "other images", not leftovers(scratch)]
    for name, num, devices in (("few.npz", 100, 1), ("eight.npz", 3000, 8)):
        done = run(sampled(name, num=num), XLA_FLAGS=EIGHT if devices == 8 else None)
        checks.append(
            (done.returncode == 0 and np.array_equal(_images(scratch / name), whole[:num])) or f"{name} differs"
        )
    return outcome(checks, f"{KILLS} kills, after {counts[1:]} parts")


def _images(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["images"]


NOWHERE = "/proc/nowhere"  # where not even root can make a directory


def poor_environment(scratch: Path) -> Outcome:
    """No HOME, or one that cannot be written; caches, metrics and TensorBoard that cannot be; no network; and all.

    The run is the same, bit for bit, ends with code 0, and at most one line warns, of what is lost.
    """
    reference = scratch / "reference"
    checks = [run(training(reference)).returncode == 0]
    bare = {"HOME": None, "XDG_CACHE_HOME": None, "JAX_COMPILATION_CACHE_DIR": None}
    under_a_file = str(scratch / "file" / "cache")
    (scratch / "file").write_text("")
    alone = ["unshare", "-n"]
    has_unshare = shutil.which("unshare") and not subprocess.run([*alone, "true"], check=False).returncode
    cases = {
        "no home": (bare, False, []),
        "unwritable home": (bare | {"HOME": NOWHERE}, False, []),
        "unwritable cache": (bare | {"XDG_CACHE_HOME": under_a_file}, False, []),
        "unwritable compilation cache": ({"JAX_COMPILATION_CACHE_DIR": under_a_file}, False, []),
        "unwritable logs": ({}, True, []),
        "no network": ({}, False, alone if has_unshare else []),
        "all of it": (bare | {"HOME": NOWHERE, "MPLCONFIGDIR": None}, True, alone if has_unshare else []),
    }
    for name, (settings, no_logs, before) in cases.items():
        workdir = scratch / name
        if no_logs:
            (workdir / "metrics.jsonl").mkdir(parents=True)
            (workdir / "tensorboard").write_text("")
        done = run([*before, *training(workdir)], **settings)
        warnings = [line for line in (done.stdout + done.stderr).splitlines() if "warn" in line.lower()]
        ours = [line for line in warnings if "metrics" in line or "cache" in line.lower()]
        most = 1 + (no_logs and bool(settings))
        checks += [
            done.returncode == 0 or f"{name}: code {done.returncode}, {done.stderr[-300:]}",
            same_run(reference, workdir),
            len(ours) <= most or f"{name}: {ours}",
            not no_logs or len(ours) >= 1 or f"{name}: nothing is said",
        ]
    return outcome(checks, "" if has_unshare else "no network could not be tried here")


STEPS, EVERY = 100_000, 5_000
WARM = 20_000  # steps after which nothing grows
GROWTH = 0.02  # of the memory, whose ups and downs are 1 %; a KiB lost each step would be 14 %
KEPT = default_config().training.keep_checkpoints + 2  # the best too, and one that is being written
TINY = (
    f"--config.training.steps={STEPS}",
    f"--config.training.save_every={EVERY - 700}",  # a save under way would be in the sample
    "--config.training.log_every=1000",
    "--config.training.batch_size=8",
    "--config.refresh.weight=0.0",
    "--config.debug_trace=false",
)


def soak(scratch: Path) -> Outcome:
    """100 000 small steps in one process: memory, descriptors and threads stay, and the disk grows by metrics alone.

    The bytes of a checkpoint are not compared: how well its pieces are packed differs from one save to the next."""
    done = run(driven({"sample_every": EVERY}, scratch / "run", *TINY), timeout=1200)
    lines = [json.loads(line) for line in (scratch / "samples.jsonl").read_text().splitlines()]
    kept = [line for line in lines if line["step"] > WARM]
    column = lambda name: np.array([line[name] for line in kept], float)
    memory, threads, saves = column("memory"), column("threads"), column("checkpoints")
    grown = float(np.polyfit(column("step"), memory, 1)[0] * (STEPS - WARM) / memory.mean())
    third = len(kept) // 3
    more = lambda values: float(values[-third:].mean() - values[:third].mean())
    rate = (lines[-1]["step"] - lines[0]["step"]) / (lines[-1]["seconds"] - lines[0]["seconds"])
    checks = [
        done.returncode == 0,
        len(kept) == (STEPS - WARM) // EVERY,
        grown < GROWTH or f"memory grows by {100 * grown:.1f} %",
        more(column("descriptors")) == 0 or f"{more(column('descriptors'))} more descriptors",
        more(threads) < 1 or f"{more(threads):.1f} more threads",
        more(column("bytes")) == 0 or f"the disk grows by {more(column('bytes')):.0f} bytes",
        float(saves.max()) <= KEPT or f"{saves.max():.0f} checkpoints",
    ]
    word = f"{rate:.0f} steps/s, memory {memory.mean() / 2**20:.0f} MiB and {100 * grown:+.2f} %, "
    word += f"{column('descriptors').max():.0f} descriptors, {threads.max():.0f} threads"
    return outcome(checks, word)
