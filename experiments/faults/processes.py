"""Faults 1 and 3: processes that die, or are told to stop; and the small runs that other rows copy."""

import atexit
import contextlib
import functools
import itertools
import random
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from experiments.faults.runs import (
    Outcome,
    command,
    leftovers,
    outcome,
    run,
    same_run,
    started,
    steps_done,
    training,
    wait_until,
)
from tweedie_diffusion.training.manifest import Damaged, verify

KILLS, KILLS_A_RUN = 50, 10
SAVE_EVERY, LAST = 100, 600  # of the small run
KEPT = (200, 300)  # what the run has saved when it is half done
SIGNALS = {signal.SIGINT: 130, signal.SIGTERM: 143}
AT_ONCE, PATIENT = 5, 30  # seconds to leave in, before the first step or while compiling; and anywhere else

MANY = 200_000  # images that take some ten seconds to draw
SLOW = (  # steps of seconds
    "--config.data.num_examples=20000",
    "--config.model.width=1024",
    "--config.model.depth=4",
    "--config.training.batch_size=4096",
    "--config.refresh.capacity=4096",
)


_MAKING = threading.RLock()


def _once(make):
    """Made when it is first asked for, by one row, while others wait."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def made():
        with _MAKING:
            return cached()

    return made


@_once
def reference() -> Path:
    """The workdir of a run that nothing happened to. Its compilations are there for all others."""
    folder = Path(tempfile.mkdtemp(prefix="fault reference "))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    whole = run(training(folder / "run"))
    if whole.returncode:
        raise RuntimeError(f"a run that nothing happens to fails: {whole.stderr[-500:]}")
    return folder / "run"


@_once
def _length() -> float:
    """Seconds that such a run takes when it is compiled."""
    reference()
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        run(training(Path(folder) / "run"))
        return time.monotonic() - begun


@_once
def partial_run() -> Path:
    """The workdir of a run that was killed once the last of KEPT was saved and scored: make copies of it."""
    workdir = reference().with_name("partial")
    with started(training(workdir)) as process:
        wait_until(lambda: tuple(scored(workdir)) == KEPT and not unfinished(workdir), process)
        process.kill()
        process.wait()
    assert tuple(checkpoints_of(workdir)) == KEPT
    return workdir


def one_line(process: subprocess.CompletedProcess, *words: str) -> str:
    """The line on stderr that a program that failed ends with; empty if it did not, or is not one that has a word."""
    lines = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    good = process.returncode and len(lines) == 1 and "Traceback" not in process.stderr
    return lines[0] if good and any(word in lines[0] for word in words) else ""


def ended(workdir: Path, *, arguments: list[str] | None = None, **more: str) -> list[bool | str]:
    """Run the command to its end: whether it went on as if nothing had happened, and left nothing unfinished."""
    done = run(arguments or training(workdir), **more)
    if done.returncode:
        return [f"{workdir.name}: exit code {done.returncode}: {' '.join(done.stderr.split())[-300:]}"]
    left = leftovers(workdir)
    return [same_run(reference(), workdir), not left or f"{workdir.name}: {left} are left"]


def checkpoints_of(workdir: Path) -> list[int]:
    """The steps that are saved."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def all_whole(workdir: Path) -> bool | str:
    """Whether no checkpoint has a file that is not what was written."""
    try:
        for step in checkpoints_of(workdir):
            verify(workdir / "checkpoints" / str(step))
    except Damaged as error:
        return str(error)
    return True


def killed_at_random(scratch: Path) -> Outcome:
    """kill -9 at a random moment of each start, while it compiles, trains, saves, and after, until the run is done.

    It does the same steps, redoes one save interval at most a kill, and leaves nothing unfinished.
    """
    rng, aims, kills = random.Random(0), itertools.cycle([_anywhere, _while_saving, _when_saved]), []
    checks: list[bool | str] = []
    _length()
    for number in itertools.count(1):
        workdir = scratch / f"run {number}"
        more = {"JAX_COMPILATION_CACHE_DIR": str(scratch / "compiled")} if number == 1 else {}  # nothing is compiled
        for _ in range(KILLS_A_RUN):
            aim = _anywhere if number == 1 else next(aims)
            where, problem = _killed(workdir, aim, rng, more)
            if problem:
                checks.append(problem)
            if not where:
                break
            kills.append(where)
        checks += ended(workdir, **more)
        checks.append(_most_redone(workdir) <= SAVE_EVERY or f"{_most_redone(workdir)} steps were done again")
        if len(kills) >= KILLS:
            break
    checks.append({"before a step", "in training", "mid-save"} <= set(kills) or "not everywhere")
    lost = [check for check in checks if check is not True]
    words = ", ".join(f"{kills.count(where)} {where}" for where in sorted(set(kills)))
    return Outcome(len(kills), len(kills) - len(lost), "; ".join([f"{number} runs: {words}", *map(str, lost[:3])]))


def _killed(workdir: Path, aim, rng, more) -> tuple[str, str]:
    """Start and kill: when that was, empty if the process was faster, and what was wrong."""
    before, done = unfinished(workdir), steps_done(workdir)
    with started(training(workdir), **more) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            aim(workdir, process, rng)
        if process.poll() is not None:
            return "", f"exit code {process.returncode}" * (process.returncode != 0)
        process.kill()
        process.communicate()
    if unfinished(workdir) - before:
        return "mid-save", ""
    if steps_done(workdir) == done:
        return "before a step", ""
    return "in training", f"{before & unfinished(workdir)} outlived a start" * bool(before & unfinished(workdir))


def unfinished(workdir: Path) -> set[str]:
    return {path.name for path in (workdir / "checkpoints").glob(".*")}


def _anywhere(workdir, process, rng):
    process.wait(rng.uniform(0.1, 0.9) * _length())


def _while_saving(workdir, process, rng):
    old = unfinished(workdir)
    wait_until(lambda: bool(unfinished(workdir) - old), process)
    process.wait(rng.uniform(0, 0.1))


def _when_saved(workdir, process, rng):
    last = max(checkpoints_of(workdir), default=0)
    wait_until(lambda: max(checkpoints_of(workdir), default=0) > last, process)
    process.wait(rng.uniform(0.001, 0.2))


def steps_of(workdir: Path) -> list[int]:
    """The steps in a trace, as they were done."""
    path = workdir / "trace.txt"
    text = path.read_text(errors="replace") if path.is_file() else ""
    return [int(line) for line in re.findall(r"^(\d+) \S+ \S+ [0-9a-f]{64}$", text, re.MULTILINE)]


def _most_redone(workdir: Path) -> int:
    """The most steps that one restart did again."""
    return max((a + 1 - b for a, b in itertools.pairwise(steps_of(workdir))), default=0)


def stopped_by_signals(scratch: Path) -> Outcome:
    """SIGINT and SIGTERM at the start, while compiling, in training, saving, scoring, drawing results and samples.

    The process leaves in time, by the documented code, and says how to go on; the same command then does the same
    steps. A second signal ends it at once.
    """
    reference()
    checks: list[bool | str] = []
    for number in SIGNALS:
        workdir = scratch / f"{number.name} run"
        for name, (reached, seconds) in MOMENTS.items():
            more = {"JAX_COMPILATION_CACHE_DIR": str(scratch / f"{number.name} {name}")} if "compil" in name else {}
            checks.append(_stopped(training(workdir), number, reached(workdir), seconds, name, **more))
        checks.append(_most_redone(workdir) <= 0 or f"{number.name}: {_most_redone(workdir)} steps were done again")
        checks += [*ended(workdir), *_stopped_sampling(scratch, number), _stopped_twice(scratch, number)]
    return outcome(checks)


def scored(workdir: Path) -> list[int]:
    return [step for step in checkpoints_of(workdir) if (workdir / "checkpoints" / str(step) / "score.json").is_file()]


def _at_start(workdir):
    return (workdir / ".lock").is_file


def compiling(workdir):
    boards = lambda: len(list(workdir.glob("tensorboard/*")))
    old = boards()
    return lambda: boards() > old and not time.sleep(0.5)


def _compiling_refresh(workdir):
    return lambda: 299 in steps_of(workdir)[-1:] and not time.sleep(0.5)


def _training(workdir):
    old = steps_done(workdir)
    return lambda: steps_done(workdir) > old + 20


def _saving(workdir):
    return lambda: bool(unfinished(workdir))


def _scoring(workdir):
    old = checkpoints_of(workdir)
    return lambda: bool(set(checkpoints_of(workdir)) - {*scored(workdir), *old})


def _drawing_results(workdir):
    return lambda: LAST in scored(workdir) and not time.sleep(0.2)


MOMENTS = {  # in the order in which a run comes to them: (what makes a question of a workdir, seconds to leave in)
    "at the start": (_at_start, AT_ONCE),
    "compiling": (compiling, AT_ONCE),
    "in training": (_training, PATIENT),
    "saving": (_saving, PATIENT),
    "scoring": (_scoring, PATIENT),
    "compiling refresh": (_compiling_refresh, AT_ONCE),
    "drawing results": (_drawing_results, PATIENT),
}


def _stopped(arguments, number, reached, seconds, name, **more) -> bool | str:
    """Signal a process once it is there: whether it left as it should."""
    with started(arguments, **more) as process:
        there = wait_until(reached, process)
        if process.poll() is not None or not there:
            return f"{number.name} {name}: it was never there"
        process.send_signal(number)
        begun = time.monotonic()
        shown, errors = process.communicate(timeout=120)
        took = time.monotonic() - begun
    resume = re.search(r"Go on with:\n  (.+)", shown)
    told = resume and shlex.split(resume[1])[1:] == list(arguments)[1:]
    problems = [f"exit code {process.returncode}: {errors[-200:]}"] * (process.returncode != SIGNALS[number])
    problems += [f"{took:.0f} s"] * (took > seconds) + ["no command to go on with"] * (not told)
    return not problems or f"{number.name} {name}: {', '.join(problems)}"


def _stopped_sampling(scratch: Path, number) -> list[bool | str]:
    """Signal while images are drawn; then the same command ends."""
    out = scratch / f"{number.name} samples.npz"
    arguments = command("sample", f"--workdir={reference()}", f"--num={MANY}", f"--out={out}")
    begun = time.monotonic()
    parts = out.with_name(out.name + ".parts")
    reached = lambda: any(parts.glob("part*")) or time.monotonic() > begun + 5
    stopped = _stopped(arguments, number, reached, PATIENT, "sampling")
    done = run(arguments)
    return [stopped, (done.returncode == 0 and out.is_file()) or f"{number.name} sampling again: {done.stderr[-200:]}"]


def _stopped_twice(scratch: Path, number) -> bool | str:
    """Two signals while a step takes seconds: the second ends the process at once."""
    workdir = scratch / f"{number.name} slow"
    with started(training(workdir, *SLOW)) as process:
        wait_until(lambda: steps_done(workdir) > 0, process, timeout=200)
        process.send_signal(number)
        time.sleep(0.7)  # two that come within half a second may be one
        alive = process.poll() is None
        process.send_signal(number)
        begun = time.monotonic()
        shown, _ = process.communicate(timeout=120)
    took = time.monotonic() - begun
    good = alive and process.returncode == SIGNALS[number] and took < 2 and "second signal" in shown
    return good or f"{number.name} twice: alive {alive}, exit code {process.returncode}, {took:.1f} s: {shown[-100:]}"
