"""Small runs of the programs, in processes of their own, to be killed, starved and lied to."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

from tweedie_diffusion.training.trace import first_difference, read_trace

ROOT = Path(__file__).parents[2]
CONFIG = "configs/mixture_2d.py:quick"
SMALL = (
    "--config.data.num_examples=400",
    "--config.model.width=8",
    "--config.model.depth=1",
    "--config.model.patch_components=0",
    "--config.training.batch_size=16",
    "--config.training.steps=600",
    "--config.training.log_every=50",
    "--config.training.save_every=100",
    "--config.refresh.start=300",
    "--config.refresh.capacity=64",
    "--config.refresh.num_steps=4",
    "--config.evaluation.num_images=32",
    "--config.debug_trace=true",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one fault: how often it was tried, how often nothing was lost, and a word on it."""

    tried: int
    survived: int
    word: str = ""


def outcome(checks: Sequence[bool | str], word: str = "") -> Outcome:
    """Of checks that are True, or False or a text where something was lost."""
    lost = [str(check) for check in checks if check is not True]
    return Outcome(len(checks), len(checks) - len(lost), "; ".join([*([word] if word else []), *lost[:3]]))


def command(program: str, *arguments) -> list[str]:
    """python -m tweedie_diffusion.PROGRAM."""
    return [sys.executable, "-m", f"tweedie_diffusion.{program}", *map(str, arguments)]


def training(workdir: Path, *changes: str) -> list[str]:
    """The command that trains a small model with all terms, some 600 steps."""
    return command("main", f"--config={CONFIG}", f"--workdir={workdir}", *SMALL, *changes)


def environment(**more: str | None) -> dict[str, str]:
    """Of the processes: one thread each, compilations that all of them share, and large pages only once they have asked
    for them. None removes a name.
    """
    settings = {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLIBC_TUNABLES": None, **more}
    return {name: value for name, value in (os.environ | settings).items() if value is not None}


def run(arguments: Sequence[str], *, timeout: float = 300, **more: str | None) -> subprocess.CompletedProcess:
    """A process, to its end."""
    return subprocess.run(
        list(arguments), cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=timeout, check=False
    )


@contextmanager
def started(arguments: Sequence[str], **more: str | None):
    """A process that is killed, if it still runs, when the context ends."""
    pipe = subprocess.PIPE
    with subprocess.Popen(list(arguments), cwd=ROOT, env=environment(**more), stdout=pipe, stderr=pipe, text=True) as p:
        try:
            yield p
        finally:
            if p.poll() is None:
                p.send_signal(signal.SIGKILL)


def wait_until(true: Callable[[], bool], process: subprocess.Popen, timeout: float = 120) -> bool:
    """Until it is, or the process has ended, or time is up: whether it is."""
    end = time.monotonic() + timeout
    while not true() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def steps_done(workdir: Path) -> int:
    """The last step in a trace, 0 without one."""
    path = workdir / "trace.txt"
    return path.read_text(errors="replace").count("\n") if path.is_file() else 0


def same_run(one: Path, other: Path) -> bool | str:
    """Whether two runs did the same steps and ended in the same state, bit for bit; where not, if not."""
    first, second = read_trace(one), read_trace(other)
    last = max(first.states, default=-1)
    if difference := first_difference(first, second):
        return f"{other.name}: {difference}"
    return last in second.states or f"{other.name} has no state at step {last}"


def leftovers(workdir: Path) -> list[str]:
    """Names of what a killed process left unfinished."""
    names = [path.name for path in workdir.rglob("*")]
    return [name for name in names if name.startswith((".saving", ".removing")) or ".part" in name or "tmp" in name]
