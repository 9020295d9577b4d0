"""A training as a person starts it, watched from outside until its first step is done."""

import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tweedie_diffusion.data.errors import InputError

# Of what training and JAX_LOG_COMPILES print, the first line that says that a phase has begun.
PHASES = {
    "modules and data": "",
    "fit of the mixture": "fitting a mixture",
    "fresh weights, checkpoints, first batch": "Finished tracing init for jit",
    "the first step: compilation, run": "step 0: compiling",
}
COMPILED = re.compile(r"Finished XLA compilation of (?:jit\()?([^ )]+)\)? in ([\d.e-]+) sec")


class Start(NamedTuple):
    """What a start took.

    Attributes:
        seconds: from the call of Python until the first step was done.
        phases: {phase: seconds}, of those that there were.
        compiled: {program: seconds to compile, or to read from the cache}, the same names summed.
    """

    seconds: float
    phases: dict[str, float]
    compiled: dict[str, float]


def start(config: str, cache: Path) -> Start:
    """Start to train --config with a cache of compiled programs; the process is ended after its first step.

    Raises:
        InputError: with the last line that it printed, if it ends before.
    """
    # As a person starts it: this process has its large pages already, for which a program starts twice.
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_LOG_COMPILES": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        workdir = Path(scratch) / "run"
        command = [sys.executable, "-u", "-m", "tweedie_diffusion.main", f"--config={config}", f"--workdir={workdir}"]
        begun, lines = time.perf_counter(), []
        process = subprocess.Popen(
            [*command, "--config.training.log_every=1"],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        reader = threading.Thread(target=_read, args=(process.stdout, begun, lines))
        reader.start()
        try:
            seconds = _wait_for(workdir / "metrics.jsonl", process, begun)
        finally:
            process.kill()
            process.wait()
            reader.join()
    if seconds is None:
        raise InputError(f"training ended before its first step: {lines[-1][1] if lines else 'it said nothing'}")
    lines = [(at, text) for at, text in lines if at <= seconds]
    return Start(seconds, phases_of(lines, seconds), compiled_of(lines))


def _read(pipe, begun: float, lines: list[tuple[float, str]]) -> None:
    """Lines with the seconds at which they came."""
    lines.extend((time.perf_counter() - begun, line.strip()) for line in pipe if line.strip())


def _wait_for(file: Path, process: subprocess.Popen, begun: float) -> float | None:
    """Seconds until something is in a file; None if the process ends before."""
    while process.poll() is None:
        if file.is_file() and file.stat().st_size:
            return time.perf_counter() - begun
        time.sleep(0.01)
    return None


def phases_of(lines: list[tuple[float, str]], end: float) -> dict[str, float]:
    """{phase: seconds} of lines (seconds, text), from the line with which each phase begins to that of the next."""
    begins = {
        name: next((at for at, text in lines if mark in text), None) if mark else 0.0 for name, mark in PHASES.items()
    }
    found = [(name, at) for name, at in begins.items() if at is not None]
    ends = [at for _, at in found[1:]] + [end]
    return {name: until - at for (name, at), until in zip(found, ends, strict=True)}


def compiled_of(lines: list[tuple[float, str]]) -> dict[str, float]:
    """{program: seconds} of what JAX says that it compiled."""
    found: dict[str, float] = {}
    for _, text in lines:
        if match := COMPILED.search(text):
            found[match[1]] = found.get(match[1], 0.0) + float(match[2])
    return found
