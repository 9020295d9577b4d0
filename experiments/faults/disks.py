"""Faults 2 and 5 to 10: files that are lost, damaged, or cannot be written."""

import contextlib
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from experiments.faults.dying import save, state_at
from experiments.faults.processes import KEPT, all_whole, checkpoints_of, ended, one_line, partial_run, reference
from experiments.faults.runs import (
    ROOT,
    Outcome,
    environment,
    leftovers,
    outcome,
    run,
    same_run,
    started,
    steps_done,
    training,
    wait_until,
)
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.sharding import make_mesh

FLIPS = 200
KIB = 1024
FREE = (0, 4, 12, 40, 120, 200)  # KiB left on a disk that fills


def died_in_a_save(scratch: Path) -> Outcome:
    """Death before every file operation of a save, and at many moments of it, in processes of their own.

    The next start finds the old checkpoint or the new one, whole, and leaves nothing unfinished.
    """
    died = run([sys.executable, "-m", "experiments.faults.dying", str(scratch)], timeout=600)
    if died.returncode:
        return Outcome(1, 0, died.stderr[-300:])
    checks, found = [], []
    for workdir in [*scratch.glob("at *"), *scratch.glob("after *")]:
        newest, said = _newest(workdir)
        found.append(newest)
        checks.append((newest in (1, 2) and not said) or f"{workdir.name}: step {newest}, {said}")
        left = leftovers(workdir) + [path.name for path in (workdir / "checkpoints").glob("*.*")]
        if left or not set(checkpoints_of(workdir)) <= {1, 2}:
            checks[-1] = f"{workdir.name}: {left}, {checkpoints_of(workdir)}"
    operations = len(list(scratch.glob("at *")))
    word = f"{operations} operations, {len(checks) - operations} moments; old {found.count(1)}, new {found.count(2)}"
    return outcome([*checks, set(found) == {1, 2} or "one of the two was never found"], word)


def _newest(workdir: Path) -> tuple[int | None, list[str]]:
    """What the next start goes on from, and says; it scores what was not scored, as training does."""
    said: list[str] = []
    with Checkpoints(workdir, keep=5) as checkpoints:
        state = checkpoints.restore_newest(state_at(0), make_mesh(), said.append)
        if state is None:
            return None, said
        step = int(state.step)
        if not checkpoints.is_scored(step):
            checkpoints.score(step, 1 / step)
    whole = bool((state.params["w"] == step).all()) and all_whole(workdir) is True
    return step if whole else -1, said


def _small(folder: Path) -> Path:
    """A workdir with steps 1 and 2 of a small state."""
    save(folder, 1)
    with Checkpoints(folder, keep=5) as checkpoints:
        checkpoints.save(state_at(2))
        checkpoints.score(2, 0.5)
    return folder


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _flip(path: Path, rng: random.Random) -> None:
    """One bit of a file."""
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _falls_back(original: Path, path: Path, harm: Callable[[Path], object]) -> bool | str:
    """Whether a copy of which one file of step 2 is harmed is found out, set aside, and step 1 is used."""
    workdir = original.with_name("harmed")
    shutil.copytree(original, workdir)
    harm(workdir / path.relative_to(original))
    newest, said = _newest(workdir)
    aside = (workdir / "checkpoints" / "2.damaged").is_dir()
    shutil.rmtree(workdir)
    good = newest == 1 and aside and len(said) == 1 and path.name in said[0]
    return good or f"{path.name}: step {newest}, {said}"


def flipped_bits(scratch: Path) -> Outcome:
    """One bit of a file of the newest checkpoint: of arrays, manifest, score. All are found out, and set aside.

    So they are by the program, which goes on from the older one and does the same steps.
    """
    rng, original = random.Random(0), _small(scratch / "small")
    files = [path for path in _files(original / "checkpoints" / "2") if path.stat().st_size]
    flip = lambda path: _flip(path, rng)
    checks = [_falls_back(original, files[i % len(files)], flip) for i in range(FLIPS)]
    for pattern in ("state/d/*", "state/_METADATA", "manifest.json", "score.json"):
        checks += _program_falls_back(scratch / f"flipped {Path(pattern).parts[-2:][0]}", pattern, flip)
    return outcome(checks, f"{FLIPS} bits of {len(files)} files; 4 of a whole run")


HARMS: dict[str, Callable[[Path], object]] = {
    "deleted": os.remove,
    "emptied": lambda path: path.write_bytes(b""),
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


def broken_files(scratch: Path) -> Outcome:
    """Every file of the newest checkpoint deleted, emptied, truncated, zeroed, or a folder: as with a flipped bit.

    A score alone that is missing is no damage: the step is scored again.
    """
    checks, original = [], _small(scratch / "small")
    for path in _files(original / "checkpoints" / "2"):
        for name, harm in HARMS.items():
            if path.stat().st_size == 0 and name in ("emptied", "truncated", "zeroed"):
                continue  # it stays what it was
            if (path.name, name) == ("score.json", "deleted"):
                continue
            checks.append(_falls_back(original, path, harm))
    for name, pattern in [("deleted", "state/d/*"), ("truncated", "state/manifest.ocdbt"), ("zeroed", "manifest.json")]:
        checks += _program_falls_back(scratch / f"{name} {Path(pattern).parts[-2:][0]}", pattern, HARMS[name])
    workdir = _copy(scratch / "without a score")
    (workdir / "checkpoints" / str(KEPT[-1]) / "score.json").unlink()
    checks += ended(workdir)
    return outcome(checks, "4 of a whole run")


def _copy(workdir: Path) -> Path:
    """A workdir of a run that was killed."""
    shutil.copytree(partial_run(), workdir)
    return workdir


def _program_falls_back(workdir: Path, pattern: str, harm: Callable[[Path], object]) -> list[bool | str]:
    """A file of the newest of three checkpoints of a run is harmed, and the command given again."""
    newest = _copy(workdir) / "checkpoints" / str(KEPT[-1])
    harm(next(newest.glob(pattern)))
    went = run(training(workdir))
    told = f"Step {KEPT[-1]} is set aside as {KEPT[-1]}.damaged" in went.stdout
    aside = newest.with_name(f"{KEPT[-1]}.damaged").is_dir()
    good = went.returncode == 0 and told and aside and all_whole(workdir) is True
    return [
        good or f"{workdir.name}: exit code {went.returncode}, told {told}, aside {aside}, {all_whole(workdir)}",
        same_run(reference(), workdir),
    ]


def all_bad(scratch: Path) -> Outcome:
    """No checkpoint is whole: nothing begins again unless --start_over says so, and nothing is touched."""
    workdir = _copy(scratch / "run")
    rng, checks, harmed = random.Random(0), [], []
    for step, pattern in zip(KEPT, ("manifest.json", "state/d/*"), strict=True):
        harmed.append(next((workdir / "checkpoints" / str(step)).glob(pattern)))
        _flip(harmed[-1], rng)
    before = _contents(workdir)
    for _ in range(2):
        refused = run(training(workdir))
        named = all(str(path) in refused.stderr for path in harmed) and "--start_over" in refused.stderr
        quiet = "Traceback" not in refused.stderr
        checks.append((refused.returncode == 2 and named and quiet) or refused.stderr[-300:])
        checks.append(_contents(workdir) == before or "something was touched")
    again = run([*training(workdir), "--start_over"])
    checks.append(again.returncode == 0 or again.stderr[-300:])
    aside = all((workdir / "checkpoints" / f"{step}.set_aside").is_dir() for step in KEPT)
    checks.append(aside or "the old checkpoints are gone")
    return outcome([*checks, all_whole(workdir), *ended(workdir)])


def _contents(workdir: Path) -> dict[str, str]:
    files = [path for path in _files(workdir) if path.name != ".lock"]
    return {str(path.relative_to(workdir)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fell_back(scratch: Path) -> Outcome:
    """The newest checkpoint is bad, and the run that went on from an older one is killed: later saves are there."""
    checks = []
    for name in ("deleted", "zeroed"):
        workdir = _copy(scratch / name)
        folder = workdir / "checkpoints"
        HARMS[name](next((folder / str(KEPT[-1])).glob("state/d/*")))
        after = KEPT[-1] + KEPT[-1] - KEPT[-2]
        with started(training(workdir)) as process:
            wait_until((folder / str(after) / "score.json").is_file, process)
            process.kill()
            process.wait()
        saved = {KEPT[-1], after} <= set(checkpoints_of(workdir))
        checks.append(saved or f"{name}: saved are {checkpoints_of(workdir)}")
        checks += [all_whole(workdir), *ended(workdir), all_whole(workdir)]
    return outcome(checks)


@contextlib.contextmanager
def _disk(folder: Path, *options: str):
    """A disk of memory, of 8 MiB."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(["size=8m", *options]), "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _fill(folder: Path, free: int) -> Path:
    """A file that leaves so many bytes."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while shutil.disk_usage(folder).free > free:
            file.write(bytes(min(4 * KIB, shutil.disk_usage(folder).free - free)))
    return path


def disk_full(scratch: Path) -> Outcome:
    """A small disk fills, before the run, and in it at many levels: one line names path and bytes.

    Nothing saved is lost, and once there is space the same command does the same steps.
    """
    checks, words = [], []
    for i, (trace, free) in enumerate([*((True, free) for free in FREE), (False, 0), (False, 40)]):
        with _disk(scratch / f"disk {i}") as disk:
            workdir = _copy(disk / "run")
            filler = _fill(disk, free * KIB)
            full = run(training(workdir, f"--config.debug_trace={trace}"))
            line = one_line(full, "cannot be written", "could not be saved")
            path_and_bytes = str(disk) in line and re.search(r"[\d,]+ (bytes )?are free", line)
            if full.returncode or free < FREE[-1]:
                checks.append(bool(path_and_bytes) or f"{free} KiB: exit code {full.returncode}: {full.stderr[-300:]}")
            saved = all_whole(workdir) if max(checkpoints_of(workdir), default=0) >= KEPT[-1] else "the last is gone"
            words.append(f"{free} KiB: step {max(checkpoints_of(workdir), default=0)}")
            filler.unlink()
            checks += [saved, *ended(workdir)]
    with _disk(scratch / "new disk") as disk:
        filler = _fill(disk, 0)
        full = run(training(disk / "run"))
        checks.append("cannot be written" in one_line(full, "cannot be written") or full.stderr[-300:])
        filler.unlink()
        checks += ended(disk / "run")
    return outcome(checks, ", ".join(words))


NAMES = ("with a space", "ünïcode 日本", "-dash", 'it\'s a "quote" $HOME `x`', "100% #1 {c};&|")
PATTERNS = ("[a-b]", "a*b", "a?b", "a\\b")  # of which a checkpoint could not be read back


def odd_workdirs(scratch: Path) -> Outcome:
    """A workdir that cannot be written is refused before the first step, in a line; odd names work.

    With those the run is stopped, and the command it prints, pasted into a shell, ends it.
    """
    checks = []
    (scratch / "file").write_text("")
    patterns = [scratch / name for name in PATTERNS]
    with _disk(scratch / "read-only", "ro") as disk:
        for workdir in (*patterns, disk, disk / "run", scratch / "file", scratch / "file" / "run"):
            refused = run(training(workdir))
            good = refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
            checks.append((good and str(workdir) in refused.stderr) or f"{workdir}: {refused.stderr[-300:]}")
    return outcome([*checks, *(check for name in NAMES for check in _pasted(scratch, name))])


def _pasted(scratch: Path, name: str) -> list[bool | str]:
    """Stop a run in a folder of this name, and paste what it says into a shell."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    arguments = [a.replace("--config=", f"--config={ROOT}/") for a in training(Path(name))]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": scratch}
    with subprocess.Popen(arguments, env=environment(), **pipes) as process:
        wait_until(lambda: steps_done(scratch / name) > 20, process)
        process.terminate()
        shown, errors = process.communicate(timeout=100)
    resume = re.search(r"Go on with:\n  (.+)", shown)
    if not resume:
        return [f"{name}: exit code {process.returncode}: {errors[-200:]}"]
    pasted = subprocess.run(["bash", "-c", resume[1]], env=environment(PATH=path), timeout=300, check=False, **pipes)
    if pasted.returncode:
        return [f"{name}: {pasted.stderr[-300:]}"]
    left = leftovers(scratch / name)
    return [same_run(reference(), scratch / name), not left or f"{name}: {left}"]
