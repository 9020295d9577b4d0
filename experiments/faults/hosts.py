"""Faults 4, 24, 25: several processes with jax.distributed, and other numbers of devices."""

import contextlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.faults import processes
from experiments.faults.runs import (
    Outcome,
    outcome,
    run,
    same_run,
    started,
    steps_done,
    training,
    wait_until,
)
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.manifest import verify
from tweedie_diffusion.training.trace import read_trace

TWO = ("--distributed", "--config.consistency.weight=0", "--config.refresh.weight=0", "--config.training.steps=300")


@contextlib.contextmanager
def _two(workdir: Path, **environment: str):
    """Two processes of one training, killed when the context ends."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(started(training(workdir, *TWO), **more, **environment)) for more in _names()]


def _names() -> list[dict[str, str]]:
    """The environments by which two processes find each other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    return [{"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(i)} for i in range(2)]


def _finish(both: Sequence[subprocess.Popen], timeout: float = 240) -> list[tuple[int, str]]:
    """Exit codes, and what was said on stderr."""
    said = [process.communicate(timeout=timeout)[1] for process in both]
    return [(process.returncode, text) for process, text in zip(both, said, strict=True)]


def _whole(workdir: Path) -> bool:
    """Whether there is a checkpoint, and all are what was written."""
    checkpoints = Checkpoints(workdir, keep=None)
    for step in checkpoints.steps():
        verify(checkpoints.folder / str(step))
    return bool(checkpoints.steps())


def stopped_at_one_of_two(scratch: Path) -> Outcome:
    """SIGTERM or SIGINT at one of two: both stop at one step with its exit code, and the next start ends as ever.
    At both while they compile: they leave in time.
    """
    with _two(scratch / "reference") as both:
        checks: list[bool | str] = [code == 0 for code, _ in _finish(both)]
    for number, which in ((signal.SIGTERM, 1), (signal.SIGINT, 0)):
        workdir = scratch / f"{number.name} at {which}"
        with _two(workdir) as both:
            wait_until(lambda workdir=workdir: steps_done(workdir) > 130, both[0])
            both[which].send_signal(number)
            checks += [code == 128 + number or f"exit code {code}" for code, _ in _finish(both, timeout=30)]
        last = Checkpoints(workdir, keep=None).latest_step()
        checks += [_whole(workdir), last == max(read_trace(workdir).steps) + 1 or f"saved {last}, not the current step"]
        with _two(workdir) as both:
            checks += [code == 0 or f"exit code {code}: {said[-300:]}" for code, said in _finish(both)]
        checks.append(same_run(scratch / "reference", workdir))
    for number, code in processes.SIGNALS.items():
        workdir = scratch / f"{number.name} compiling"
        with _two(workdir, JAX_COMPILATION_CACHE_DIR=str(workdir / "compiled")) as both:
            wait_until(processes.compiling(workdir), both[0])
            for process in both:
                process.send_signal(number)
            begun = time.monotonic()
            checks += [left == code or f"exit code {left}: {said[-300:]}" for left, said in _finish(both)]
        took = time.monotonic() - begun
        checks += [took < processes.AT_ONCE or f"{took:.1f} s to leave", steps_done(workdir) == 0 or "not compiling"]
    return outcome(checks)


def lost_or_late(scratch: Path) -> Outcome:
    """A process killed, or stopped for good, in the middle of training, or never started: the other ends within two
    minutes, not with 0, and says why; the checkpoints are whole.
    """
    checks: list[bool | str] = []
    harms: list[tuple[str, Callable[[subprocess.Popen], None], int]] = [
        ("killed", lambda process: process.kill(), 1),
        ("killed first", lambda process: process.kill(), 0),
        ("hung", lambda process: process.send_signal(signal.SIGSTOP), 1),
    ]
    for name, harm, which in harms:
        workdir = scratch / name
        with _two(workdir) as both:
            wait_until(lambda workdir=workdir: steps_done(workdir) > 130, both[0])
            harm(both[which])
            ((code, said),) = _finish([both[1 - which]], timeout=120)
        checks.append(code != 0 or f"{name}: exit code 0")
        checks.append("another process" in said or "another task died" in said or f"{name}: {said[-300:]}")
        checks.append(_whole(workdir))
    code = "from tweedie_diffusion import program; from tweedie_diffusion.training import processes as p; "
    code += "p.JOINING = 5; program.run(lambda _: p.join_others())"
    late = run([sys.executable, "-c", code], **_names()[0])
    checks.append(late.returncode == 2 or f"late: exit code {late.returncode}")
    checks.append("started within 5 s" in late.stderr)
    return outcome(checks)


CODE = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.processes import place
from tweedie_diffusion.training.sharding import make_mesh
from tweedie_diffusion.training.step import init_state
from tweedie_diffusion.training.trace import state_digest

draw = np.random.default_rng(int(sys.argv[2])).normal
params = {"w": jnp.asarray(draw(size=(65, 33)), jnp.float32), "b": jnp.asarray(draw(size=7), jnp.bfloat16)}
state = init_state(params, optax.adam(1e-3))
if sys.argv[2] == "1":
    with Checkpoints(Path(sys.argv[1]), keep=1) as checkpoints:
        checkpoints.save(place(state, NamedSharding(make_mesh(), PartitionSpec())))
else:
    state = Checkpoints(Path(sys.argv[1]), keep=None).restore(0, state, make_mesh())
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)} == {jax.device_count()}
print(jax.device_count(), state_digest(state))
"""


def other_devices(scratch: Path) -> Outcome:
    """A state saved on 8 simulated devices and restored on 1, 2, 4 and 8: the same bits, on all of them."""

    def digest(devices, seed):
        flags = f"--xla_force_host_platform_device_count={devices}"
        done = run([sys.executable, "-c", CODE, str(scratch), str(seed)], XLA_FLAGS=flags)
        return done.stdout.split() or [done.stderr[-300:]]

    _, saved = digest(8, 1)
    return outcome([digest(n, 2) == [str(n), saved] or f"{n} devices: {digest(n, 2)}" for n in (1, 2, 4, 8)])
