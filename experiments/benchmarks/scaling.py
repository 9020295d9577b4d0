"""A model of a step's time and memory on 1 to 1024 devices, from one device's measured speed and the speed of links.

    python -m experiments.benchmarks.scaling --config=configs/celeba_noisy.py --tflops=… --device_gb=80

A step computes its share of the batch at the rate that one device was measured to reach (`train_step` prints it), and
adds up gradients around a ring: 2(n − 1)/n of them pass each link. Of a sharded state weights are gathered once, within
their group of s devices: (s − 1)/s of them. The best case hides that behind the computation, the worst does not. Memory
is that of the state, in parts or not, of whole gradients, of the weights in the network's own type, and of what the
backward pass keeps of the device's images, before XLA fuses any of it.
"""

import math
from typing import NamedTuple

import jax
from absl import flags
from ml_collections import config_flags

from experiments.benchmarks.flops import matrix_flops
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training.config import Config, check_config
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.memory import kept_bytes
from tweedie_diffusion.training.objective import make_objective

_CONFIG = config_flags.DEFINE_config_file("config", "configs/celeba_noisy.py", "Settings.")
_SIDE = flags.DEFINE_integer("side", 64, "Of the images, in pixels.", lower_bound=4)
_TFLOPS = flags.DEFINE_float("tflops", None, "TFLOP/s that a step reaches on one device, as measured.", required=True)
_DEVICE_GB = flags.DEFINE_float("device_gb", 80.0, "Memory of a device, 10⁹ bytes.", lower_bound=0)
_LINK = flags.DEFINE_float("link_gb_s", 450.0, "Of a device to the others of its host, each way, 10⁹ bytes a second.")
_NETWORK = flags.DEFINE_float("network_gb_s", 50.0, "Of a device to those of other hosts.")
_A_HOST = flags.DEFINE_integer("a_host", 8, "Devices of a host.", lower_bound=1)
CHANNELS, FLOAT = 3, 4
COPIES = 4  # of the weights, that a group holds once: weights, their average, two moments of Adam
HEAD = "| devices | images each | step, ms | images/s | of n times one | GB | step, sharded, ms | GB, sharded |"
DEVICES = [2**k for k in range(11)]


class Work(NamedTuple):
    """What a step is, whatever computes it."""

    parameters: int
    flops: float  # of an image
    kept: float  # bytes of an image, for the backward pass
    fixed: float  # bytes that it keeps whatever the images


class Machine(NamedTuple):
    """What devices and links do: FLOP/s as measured, bytes a second, and devices of a host."""

    rate: float
    link: float
    network: float
    a_host: int


def work_of(config: Config, side: int) -> Work:
    """Counted from the trace of ambient score matching, nothing of which is run."""
    config.model.patch_components = 0  # its share of the work is not the network's
    shape = (side, side, CHANNELS)
    facts = DataFacts(shape, 0.5, 0.2, 0.2, 0, Scaling(-1.0, 1.0, "float32"), 1000, 100)
    network, array = build_network(config.model, facts), jax.ShapeDtypeStruct
    params = jax.eval_shape(lambda: init_params(jax.random.key(0), network, config.model, facts))
    objective = make_objective(config, denoiser_maker(network, config.model, facts), facts.sigma_data)
    batch = lambda rows: {
        "x_tn": array((rows, *shape), "float32"),
        "sigma_tn": array((rows,), "float32"),
        "label": array((rows,), "int32"),
    }
    loss = lambda params, batch: objective(params, None, jax.random.key(0), batch, 0)[0]
    parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(params))
    one, two = (kept_bytes(loss, params, batch(rows)) for rows in (1, 2))
    return Work(parameters, matrix_flops(jax.make_jaxpr(jax.grad(loss))(params, batch(1))), two - one, 2 * one - two)


def seconds(work: Work, machine: Machine, batch: int, devices: int, *, shards: int) -> tuple[float, float]:
    """(best, worst) of a step, as gradients are added up behind the computation, or after it."""
    computing = work.flops * batch / devices / machine.rate
    slowest = machine.link if devices <= machine.a_host else machine.network
    size = FLOAT * work.parameters
    moving = 2 * (devices - 1) / devices * size / slowest + (shards - 1) / shards * size / machine.link
    return max(computing, moving), computing + moving


def memory(work: Work, batch: int, devices: int, *, shards: int) -> float:
    """Bytes of a device: its part of the state, whole gradients, gathered weights, and what it keeps of its images."""
    size, gathered = FLOAT * work.parameters, shards > 1
    return COPIES * size / shards + (1 + gathered) * size + work.fixed + work.kept * batch / devices


def main(arguments: list[str]) -> None:
    """Print the work, and a line for each number of devices."""
    if arguments:
        raise InputError(f"unknown: {' '.join(arguments)}")
    config = _CONFIG.value
    check_config(config)
    batch, work = config.training.batch_size, work_of(config, _SIDE.value)
    machine = Machine(_TFLOPS.value * 1e12, _LINK.value * 1e9, _NETWORK.value * 1e9, _A_HOST.value)
    an_image = f"{work.flops / 1e9:.0f} GFLOP and {work.kept / 2**20:.0f} MiB an image"
    print(f"{work.parameters / 1e6:.1f} M parameters, {an_image}, {batch} images a step\n")
    print(f"{HEAD}\n|{'---|' * HEAD.count(' | ')}---|")
    for devices in [n for n in DEVICES if n <= batch]:
        shards = min(devices, machine.a_host)
        cells = [devices, batch // devices]
        for mode in (1, shards):
            best, worst = seconds(work, machine, batch, devices, shards=mode)
            size = memory(work, batch, devices, shards=mode) / 1e9
            fits = "" if size <= _DEVICE_GB.value else " (too much)"
            cells.append(f"{best * 1e3:.1f} to {worst * 1e3:.1f}")
            if mode == 1 and len(cells) == 3:
                efficiency = work.flops * batch / devices / machine.rate / worst
                cells += [f"{batch / worst:.0f} to {batch / best:.0f}", f"{efficiency:.0%}"]
            cells.append(f"{size:.1f}{fits}")
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    program.run(main)
