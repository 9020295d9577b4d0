"""How fast images are drawn, and how much of that time the network takes.

    python -m experiments.benchmarks.sampling

The reverse process of a run's config as `sample` has it, and, in turns with it, as many calls of the compiled denoiser
alone, on as many images a call. Networks of fresh weights and a mixture of no data: neither changes the time.
"""

import math
import statistics
import time

import jax
import jax.numpy as jnp
from absl import flags

from configs import cifar10_noisy, digits_noisy
from experiments.benchmarks.network_calls import network_calls
from experiments.benchmarks.turns import in_turns, ratio
from experiments.benchmarks.untrained import described, fresh_weights
from experiments.report import provenance_lines
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS
from tweedie_diffusion.training.spread import devices_for
from tweedie_diffusion.training.trained import TrainedModel, rows_a_device

STUDIES = {"digits": (digits_noisy, (8, 8, 1)), "cifar10": (cifar10_noisy, (32, 32, 3))}
CPU_IMAGES, IMAGES = 64, 1024
AIM = 0.95

_NETWORK = flags.DEFINE_multi_enum("network", None, list(STUDIES), "Of these configs; on a CPU digits, else all.")
_TURNS = flags.DEFINE_integer("turns", 5, "Of process and calls; the median counts.", lower_bound=1)
HEAD = (
    "| network | images a call | a call, s | images/s of a call | calls | process, s | images/s | share of the calls |"
)


def seconds_of_calls(model: TrainedModel, size: int, calls: int):
    """() -> seconds of so many calls of the denoiser, each on what the one before returned."""
    forward = jax.jit(lambda params, x_t, sigma: model.make_denoise(params)(x_t, sigma))
    x_init, sigma = jnp.ones((size, *model.facts.shape)), jnp.ones(size)

    def run():
        begun, x_t = time.perf_counter(), x_init
        for _ in range(calls):
            x_t = forward(model.params, x_t, sigma)
        x_t.block_until_ready()
        return time.perf_counter() - begun

    return run


def seconds_of_process(model: TrainedModel, num: int):
    """() -> seconds of drawing `num` images."""

    def run():
        begun = time.perf_counter()
        model.sample(range(num))
        return time.perf_counter() - begun

    return run


def report(name: str, num: int) -> float:
    """Print the line of a network; the share of its calls in the process."""
    study, shape = STUDIES[name]
    model = described(study.get_config(), shape)
    model = model.with_params(fresh_weights(model))
    size = rows_a_device(shape)
    batches = math.ceil(num / (size * devices_for(num, size)))
    sigmas, _ = model.check_sampling()
    calls = batches * network_calls(REVERSE_STEPS[model.config.sampling.step], sigmas)
    kinds = {"calls": seconds_of_calls(model, size, calls), "process": seconds_of_process(model, num)}
    found = in_turns(kinds, turns=_TURNS.value)
    one, process = statistics.median(found["calls"]) / calls, statistics.median(found["process"])
    share = ratio(found["calls"], found["process"])
    cells = [f"{size}", f"{one:.5f}", f"{size / one:.0f}", f"{calls}", f"{process:.3f}", f"{num / process:.1f}"]
    print(f"| {name} | {' | '.join(cells)} | {share:.3f} |", flush=True)
    return share


def main(arguments: list[str]) -> None:
    """Print a line a network, and the least share."""
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are --network, --turns")
    on_cpu = jax.default_backend() == "cpu"
    num = CPU_IMAGES if on_cpu else IMAGES
    names = _NETWORK.value or (["digits"] if on_cpu else list(STUDIES))
    print(f"{provenance_lines()}\n* images: {num}\n\n{HEAD}\n|{'---|' * HEAD.count(' | ')}---|", flush=True)
    print(f"least share: {min(report(name, num) for name in names):.3f} (aim {AIM})")


if __name__ == "__main__":
    program.run(main)
