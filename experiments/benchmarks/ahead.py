"""What XLA makes of our train step for an accelerator that is not here: counts and bounds, for nothing is run.

    pip install "jax[cuda12]"
    python -m experiments.benchmarks.ahead --target=h100

XLA compiles for a device that is only described. The rows are those of `train_step` on a GPU, in bfloat16.
experiments/benchmarks/README.md says what the columns mean.
"""

import os
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh

from experiments.benchmarks.contestants import ROWS, our_step
from experiments.benchmarks.flops import matrix_flops
from experiments.benchmarks.traffic import kernels
from experiments.report import provenance_lines
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError

SMALL = 2**20
HEAD = "| U-Net | batch | to compile, s | needs, GiB | kernels | small | TFLOP | ms | between, GiB | ms | at most |"
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84929347584 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 12 minor: 9 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Target(NamedTuple):
    """A device: what `get_topology_desc` is told, and what its maker states of it."""

    described: dict[str, Any]
    platform: str
    tflops: float  # bfloat16, dense
    bandwidth: float  # bytes a second
    options: dict[str, Any]
    environment: dict[str, str]
    install: str


TARGETS = {
    "h100": Target(
        {"platform": "cuda", "topology_name": "", "target_config": H100, "topology": "1x1x1"},
        "cuda",
        989.0,
        3.35e12,
        {"xla_gpu_autotune_level": 0},  # there is nothing to try kernels on
        {"JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"},
        'pip install "jax[cuda12]"',
    ),
    "v5e": Target(
        {"platform": "tpu", "topology_name": "v5e:2x2"},
        "tpu",
        197.0,
        0.82e12,
        {},
        {
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": "v5litepod-4",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "TPU_WORKER_ID": "0",
        },
        'pip install "jax[tpu]"',
    ),
}
_TARGET = flags.DEFINE_enum("target", "h100", list(TARGETS), "For what is compiled.")
_ROWS = flags.DEFINE_list("rows", ["17M-32", "123M-64"], f"Of {', '.join(ROWS['gpu'])}.")
_BATCH = flags.DEFINE_integer("batch", 0, "Another than that of the row.", lower_bound=0)


def described_device(target: Target) -> Any:
    """The first of the devices that are described.

    Raises:
        InputError: if what compiles for them is not installed.
    """
    os.environ.update(target.environment)
    try:
        return topologies.get_topology_desc(**target.described).devices[0]
    except (RuntimeError, NotImplementedError) as error:
        raise InputError(f"nothing here compiles for {target.platform} ({error}): {target.install}") from error


def line_of(name: str, target: Target, device: Any) -> str:
    """Compiles a row for a device, and counts."""
    row = ROWS["gpu"][name]
    row = row._replace(batch=_BATCH.value or row.batch)
    mesh = Mesh(np.array([device]).reshape(1, 1), ("data", "shard"))
    step, first_state, rows = our_step(row, dtype="bfloat16", mesh=mesh)
    state = jax.eval_shape(first_state)
    traced = step.trace(state, rows)
    begun = time.perf_counter()
    compiled = traced.lower(lowering_platforms=(target.platform,)).compile(compiler_options=target.options)
    seconds = time.perf_counter() - begun
    needs, found = compiled.memory_analysis(), kernels(compiled.as_text())
    own = [kernel for kernel in found if not kernel.library]
    tflop = matrix_flops(traced.jaxpr) / 1e12
    products, between = tflop / target.tflops * 1e3, sum(kernel.bytes for kernel in own)
    moving = between / target.bandwidth * 1e3
    cells = [
        name,
        row.batch,
        f"{seconds:.0f}",
        f"{needs.argument_size_in_bytes / 2**30:.2f} + {needs.temp_size_in_bytes / 2**30:.2f}",
        len(found),
        sum(kernel.bytes < SMALL for kernel in own),
        f"{tflop:.1f}",
        f"{products:.1f}",
        f"{between / 2**30:.1f}",
        f"{moving:.1f}",
        f"{products / (products + moving):.0%}",
    ]
    return f"| {' | '.join(map(str, cells))} |"


def main(arguments: list[str]) -> None:
    """Print a line for each row."""
    if arguments:
        raise InputError(f"unexpected argument {arguments[0]!r}: flags are --target, --rows, --batch")
    if unknown := set(_ROWS.value) - set(ROWS["gpu"]):
        raise InputError(f"no row {', '.join(sorted(unknown))}: rows are {', '.join(ROWS['gpu'])}")
    jax.config.update("jax_enable_compilation_cache", False)  # what is compiled for no device cannot be read back
    target = TARGETS[_TARGET.value]
    device = described_device(target)
    print(f"{provenance_lines()}\n* target: {device.device_kind}; jax {jax.__version__}\n")
    print(f"{HEAD}\n|{'---|' * HEAD.count(' | ')}---|", flush=True)
    for name in _ROWS.value:
        print(line_of(name, target, device), flush=True)


if __name__ == "__main__":
    program.run(main)
