"""Faults 14, 15, 18, 19, 22: bad numbers, and numbers that must be the same again."""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from experiments.faults.runs import (
    CONFIG,
    Outcome,
    leftovers,
    outcome,
    run,
    same_run,
    started,
    steps_done,
    training,
    wait_until,
)
from tweedie_diffusion.training.trace import Trace, read_trace

HUGE = 1e17  # times a batch: its loss is finite, and the gradient overflows
SKIPPED, FIRST = 20, 250  # steps that end a run, and the first of them here
EPOCH = 28  # batches: of 392 training images, 14 at a time


def driven(what: dict, workdir: Path, *changes: str) -> list[str]:
    """The command of `training`, with something done to it from inside."""
    return [sys.executable, "-m", "experiments.faults.driven", json.dumps(what), *training(workdir, *changes)[3:]]


def not_finite(scratch: Path) -> Outcome:
    """Batches that are NaN or of infinite gradient: around a save, alone, and last; then 20 in a row.

    Each is skipped and counted, and every state that was saved is finite. The 20 end the run with code 2, and
    skipped.json names their images and no others.
    """
    nan = [40, *range(95, 105), 310, 599]
    changes = ("--config.training.keep_checkpoints=1000",)
    once = scratch / "once"
    done = run(driven({"poison": {"nan": nan, str(HUGE): [60]}}, once, *changes))
    said = done.stdout + done.stderr
    states = dict(_states(once))
    checks = [
        done.returncode == 0 or f"code {done.returncode}: {said[-200:]}",
        "step 41: the loss is nan: it is skipped" in said,
        "step 61: the norm of the gradient is inf: it is skipped" in said,
        100 not in states or "a state amid skipped steps was saved",
        max(states) == 600 and int(states[600]["skipped"]) == len(nan) + 1,
        *(_finite(state) or f"step {step} is not finite" for step, state in states.items()),
    ]
    row = scratch / "row"
    for _ in range(2):  # the same command fails the same way
        done = run(driven({"poison": {"nan": list(range(FIRST, 600))}}, row, *changes))
        named = json.loads((row / "skipped.json").read_text())["images of the skipped steps"]
        expected = {step + 1: index for step, index in enumerate(_indices(row, FIRST, SKIPPED), FIRST)}
        checks += [
            done.returncode == 2 or f"code {done.returncode}",
            {int(step): images for step, images in named.items()} == expected or "skipped.json names other images",
            "Traceback" not in done.stderr,
            max(dict(_states(row))) == 200,
            all(_finite(state) for _, state in _states(row)),
        ]
    return outcome(checks, f"{len(nan) + 1} bad batches, then {SKIPPED} in a row")


def _states(workdir: Path) -> Iterator[tuple[int, dict]]:
    """(step, its arrays) of all checkpoints, as they lie on the disk."""
    import orbax.checkpoint as ocp

    for path in (workdir / "checkpoints").iterdir():
        if path.name.isdigit():
            yield int(path.name), ocp.StandardCheckpointer().restore(path.absolute() / "state")


def _finite(state) -> bool:
    import jax

    return all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(state))


def _train_batches(workdir: Path, start: int = 0, **settings) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a run, made here from what it has saved."""
    from tweedie_diffusion.data.pipeline import batches
    from tweedie_diffusion.training.config import from_json
    from tweedie_diffusion.training.loop import open_data

    config = from_json((workdir / "config.json").read_text())
    size = config.training.batch_size
    return batches(open_data(config.data).train, batch_size=size, seed=config.seed, start=start, **settings)


def _indices(workdir: Path, first: int, count: int) -> list[list[int]]:
    return [rows["index"].tolist() for rows in islice(_train_batches(workdir, first), count)]


def spike(scratch: Path) -> Outcome:
    """A batch × 1e4: the spike is logged, and a run killed before, after, and long after it goes on bit for bit."""
    what = {"poison": {"1e4": [150]}}
    reference = scratch / "reference"
    done = run(driven(what, reference))
    lines = [json.loads(line) for line in (reference / "metrics.jsonl").read_text().splitlines()]
    spikes = [line["loss_spike"] for line in lines if line.get("loss_spike") and line["step"] == 151]
    said = "warning: step 151: the loss," in done.stdout + done.stderr
    checks = [done.returncode == 0, (len(spikes) == 1 and spikes[0] > 1e3) or "no spike in metrics.jsonl", said]
    for kill_at in (140, 155, 180, 330, 599):
        workdir = scratch / f"killed at {kill_at}"
        with started(driven(what, workdir)) as process:
            reached = wait_until(lambda workdir=workdir, at=kill_at: steps_done(workdir) >= at, process)
        checks.append(reached or f"not killed at {kill_at}")
        again = run(driven(what, workdir))
        checks += [again.returncode == 0, same_run(reference, workdir), not leftovers(workdir)]
    return outcome(checks, f"{spikes[0]:.0f} times the median, 5 kills" if spikes else "")


SHORT = (
    "--config.data.num_examples=400",
    "--config.training.batch_size=14",
    f"--config.training.steps={3 * EPOCH}",
    "--config.refresh.weight=0.0",
)


def order(scratch: Path) -> Outcome:
    """A run killed and restarted one batch before, at, and one after the end of an epoch, with 0, 1 and 4 threads.

    The batches are those of the run that was never stopped, and each epoch has every image once.
    """
    reference = scratch / "reference"
    run(training(reference, *SHORT))
    steps = read_trace(reference).steps
    made = list(islice(_train_batches(reference), 3 * EPOCH))
    epochs = np.reshape([rows["index"] for rows in made], (3, -1))
    once = [sorted(set(epoch)) == sorted(epoch) == sorted(epochs[0]) for epoch in epochs.tolist()]
    checks: list[bool | str] = [*once, [Trace.digest(rows) for rows in made] == [steps[k][2] for k in sorted(steps)]]
    for threads in (0, 1, 4):
        for end in (EPOCH - 1, EPOCH, EPOCH + 1):
            workdir = scratch / f"{threads} threads, {end}"
            command = driven({"threads": threads}, workdir, *SHORT, f"--config.training.save_every={end}")
            saved = workdir / "checkpoints" / str(end)
            with started(command) as process:
                checks.append(wait_until(saved.is_dir, process) or "not killed")
            done = run(command)
            checks += [done.returncode == 0, _same_steps(reference, workdir)]
    return outcome(checks, "9 restarts")


def _same_steps(one: Path, other: Path) -> bool | str:
    """Whether the steps of two runs are the same ones, to the last bit, wherever they saved."""
    first, second = read_trace(one), read_trace(other)
    if second.different:
        return f"{other.name}: {second.different[0]}"
    return first.steps == second.steps or f"{other.name}: other steps"


HASHES = """
import hashlib, itertools, json, sys
from tweedie_diffusion.data import noisy
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.training.config import from_json
from tweedie_diffusion.training.loop import open_data
import jax
cache, threads, start = map(int, sys.argv[2:])
noisy.CACHE_BYTES = cache
config, found = from_json(open(sys.argv[1]).read()), {}
train = open_data(config.data).train
stream = batches(train, batch_size=config.training.batch_size, seed=config.seed, threads=threads, start=start)
for rows in itertools.islice(stream, 3 * -(-len(train) // config.training.batch_size)):
    for i, x_tn in zip(rows["index"].tolist(), rows["x_tn"]):
        found.setdefault(i, set()).add(hashlib.sha256(x_tn.tobytes()).hexdigest())
print(json.dumps([jax.device_count(), {i: sorted(f) for i, f in found.items()}]))
"""
EIGHT = "--xla_force_host_platform_device_count=8"


def noise(scratch: Path) -> Outcome:
    """Three epochs in processes of 0, 1 and 4 threads, 1 and 8 devices, from the start and from later, noise drawn once
    or anew each time: every image has one and the same noise in all of them.
    """
    workdir = scratch / "run"
    run(training(workdir, "--config.training.steps=2"))
    checks, seen = [], {}
    for devices in (1, 8):
        for cache, threads, start in ((2**30, 0, 0), (2**30, 4, 17), (0, 0, 5), (0, 1, 0), (0, 4, 17)):
            asked = [sys.executable, "-c", HASHES, workdir / "config.json", cache, threads, start]
            done = run([str(a) for a in asked], XLA_FLAGS=EIGHT if devices == 8 else None)
            count, found = json.loads(done.stdout.splitlines()[-1])
            for i, hashed in found.items():
                seen.setdefault(i, set()).update(hashed)
            checks += [count == devices, len(found) == 392]
    several = sum(len(hashed) > 1 for hashed in seen.values())
    different = {hashed for group in seen.values() for hashed in group}
    checks += [several == 0 or f"{several} images have several noises", len(different) == len(seen)]
    return outcome(checks, "10 processes, 392 images each")


def round_trip(scratch: Path) -> Outcome:
    """Training by the config.json of a workdir does the same steps, ends in the same state, and writes that file."""
    first, second = scratch / "first", scratch / "second"
    checks: list[bool | str] = [run(training(first)).returncode == 0]
    saved = first / "config.json"
    again = run([*driven({"config": str(saved)}, second)[:4], f"--config={CONFIG}", f"--workdir={second}"])
    checks += [again.returncode == 0 or again.stderr[-200:], same_run(first, second)]
    checks.append(saved.read_text() == (second / "config.json").read_text() or "config.json differs")
    return outcome(checks)
