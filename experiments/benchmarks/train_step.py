"""Our train step beside the one a user would take instead: UNet2DModel of diffusers, in PyTorch.

    pip install -e ".[bench]"
    python -m experiments.benchmarks.train_step --device=cpu

Forward, backward, Adam and the average of the weights, at as many parameters. Each side has a process of its own, and
they take turns, so that what else the machine does meets both; the ratio is the median over the turns. Eager PyTorch on
a CPU; on a GPU torch.compile, bfloat16 and channels last. A side that fails leaves its cells empty; the rest goes on.
"""

import json
import os
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
from absl import flags

from experiments.benchmarks.contestants import ROWS
from experiments.report import provenance
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError

_DEVICE = flags.DEFINE_enum("device", "cpu", list(ROWS), "Whose rows. Those of a CPU are not compared with a GPU's.")
_ROWS = flags.DEFINE_list("rows", [], "Names of rows; all by default.")
_TURNS = flags.DEFINE_integer("turns", 5, "Of each side; the median counts.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "That a turn takes, about.", lower_bound=0.1)
PRODUCTS = 10  # the device has the next at hand while it computes one, as in a step
HEAD = (
    "| U-Net | side | parameters | GFLOP a step | images/s | TFLOP/s | of the matrix rate | peak memory, GiB | ratio |"
)


class Failed(Exception):  # noqa: N818
    """What a contestant said before it ended."""


class Contestant:
    """A process that takes steps of one side when told."""

    def __init__(self, side: str, row: str, device: str):
        """Starts to build, in the background."""
        command = [sys.executable, "-m", "experiments.benchmarks.contestants", side, row, device]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.steps = 1

    def answer(self) -> dict:
        """The next line it prints."""
        assert self._process.stdout
        assert self._process.stderr
        line = self._process.stdout.readline()
        if not line:
            said = self._process.stderr.read().strip().splitlines()
            raise Failed(said[-1] if said else f"ended with code {self._process.wait()}")
        return json.loads(line)

    def turn(self) -> dict:
        """What `steps` steps take."""
        assert self._process.stdin
        try:
            self._process.stdin.write(f"{self.steps}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `answer` says why
        found = self.answer()
        return found | {"each": found["seconds"] / self.steps}

    def end(self) -> None:
        """At once."""
        self._process.kill()
        self._process.communicate()


def matrix_rate(size: int, dtype) -> float:
    """FLOP/s of `PRODUCTS` of square matrices in a row on the first device: the median of several times."""
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)  # of ones it is faster: a chip at less power
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        products = [product(matrix, matrix) for _ in range(PRODUCTS)]
        jax.block_until_ready(products)
        seconds.append(time.perf_counter() - begun)
    return 2 * size**3 * PRODUCTS / statistics.median(seconds)


def compare(name: str, device: str) -> tuple[dict[str, dict], dict[str, list[dict]]]:
    """What each side of a row is, and its turns; a side that fails is {"failed": why}."""
    abouts, turns, sides = {}, {"ours": [], "peer": []}, {}
    try:
        for side in turns:  # one after the other: what builds does not wait for what runs
            sides[side] = Contestant(side, name, device)
            try:
                abouts[side] = sides[side].answer()
            except Failed as failed:
                abouts[side] = {"failed": str(failed)}
        going = [side for side in turns if "failed" not in abouts[side]]
        for turn in range(_TURNS.value + 1):
            for side in list(going):
                try:
                    found = sides[side].turn()
                except Failed as failed:
                    abouts[side] |= {"failed": str(failed)}
                    going.remove(side)
                    continue
                if turn:
                    turns[side].append(found)
                else:  # the first says how many steps a turn has
                    sides[side].steps = max(1, round(_SECONDS.value / found["each"]))
    finally:
        for contestant in sides.values():
            contestant.end()
    return abouts, turns


def report(name: str, device: str, rate: float) -> float | None:
    """Print the lines of a row; the ratio of images a second, ours over the peer's."""
    abouts, turns = compare(name, device)
    batch, ratio = ROWS[device][name].batch, None
    if turns["ours"] and turns["peer"]:
        ratio = statistics.median(b["each"] / a["each"] for a, b in zip(turns["ours"], turns["peer"], strict=False))
    for side, label in (("ours", "ours"), ("peer", "diffusers")):
        about, found = abouts[side], turns[side]
        if "failed" in about:
            print(f"| {name} | {label} | {about['failed']} | | | | | | |", flush=True)
            continue
        seconds = statistics.median(one["each"] for one in found)
        speed, peak = about["flops"] / seconds, max(one["peak"] for one in found)
        cells = [f"{about['parameters']:,}", f"{about['flops'] / 1e9:.1f}", f"{batch / seconds:.2f}"]
        cells += [f"{speed / 1e12:.3f}", f"{speed / rate:.0%}", f"{peak / 2**30:.2f}"]
        cells += [f"{ratio:.2f}" if ratio and side == "ours" else ""]
        print(f"| {name} | {label} | {' | '.join(cells)} |", flush=True)
    return ratio


def main(arguments: list[str]) -> None:
    """Print the table, and the least ratio."""
    device = _DEVICE.value
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # of a GPU that the sides share
    if arguments or (unknown := [name for name in _ROWS.value if name not in ROWS[device]]):
        raise InputError(f"no such rows: {arguments or unknown}; there are {', '.join(ROWS[device])}")
    if (device == "cpu") != (jax.default_backend() == "cpu"):
        raise InputError(f"--device={device}, and JAX sees {jax.default_backend()}: name that, or set JAX_PLATFORMS")
    rate = matrix_rate(2048, jnp.float32) if device == "cpu" else matrix_rate(8192, jnp.bfloat16)
    kind = "float32" if device == "cpu" else "bfloat16"
    print("\n".join(f"* {what}: {value}" for what, value in provenance().items()))
    print(f"* matrix rate, {kind}: {rate / 1e12:.3f} TFLOP/s\n\n{HEAD}\n|{'---|' * HEAD.count(' | ')}---|", flush=True)
    ratios = [report(name, device, rate) for name in _ROWS.value or ROWS[device]]
    known = [ratio for ratio in ratios if ratio is not None]
    print(f"ratio: {min(known):.2f}" if len(known) == len(ratios) else "ratio: unknown, a side is missing")


if __name__ == "__main__":
    program.run(main)
