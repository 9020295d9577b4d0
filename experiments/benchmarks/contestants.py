"""Two train steps for `experiments.benchmarks.train_step`, each in a process of its own that takes steps when told.

    python -m experiments.benchmarks.contestants ours "1.3M-32" cpu

Forward, backward, Adam and the average of the weights, of a U-Net: ours as training compiles it, and that of diffusers
in PyTorch. The first line printed is what was built; each number of steps on stdin is answered by what they took.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """A line of the table: images, and the two networks, of as many parameters."""

    resolution: int
    batch: int
    ours: dict[str, Any]  # of config.model
    peer: dict[str, Any]  # of UNet2DModel


def _row(resolution, batch, channels, multipliers, blocks, attention, peer_widths, groups=32) -> Row:
    """Both with as many blocks a resolution, and attention at the same heights; the peer's widths make up for what our
    resampling and modulation have in weights.
    """
    ours = {
        "channels": channels,
        "channel_multipliers": multipliers,
        "blocks_per_resolution": blocks,
        "attention_resolutions": attention,
    }
    attends = [resolution // 2**level in attention for level in range(len(multipliers))]
    peer = {
        "block_out_channels": peer_widths,
        "layers_per_block": blocks,
        "norm_num_groups": groups,
        "down_block_types": tuple("AttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
    }
    return Row(resolution, batch, ours, peer)


ROWS = {  # by parameters, and side of the images
    "cpu": {
        "1.3M-32": _row(32, 8, 32, (1, 2, 2), 1, (), (32, 64, 80), groups=16),
        "17M-32": _row(32, 8, 96, (1, 2, 2), 2, (16,), (96, 192, 224)),
    },
    "gpu": {
        "17M-32": _row(32, 256, 96, (1, 2, 2), 2, (16,), (96, 192, 224)),
        "60M-32": _row(32, 256, 128, (2, 2, 2), 4, (16,), (256, 256, 256)),
        "60M-64": _row(64, 128, 128, (1, 2, 2, 2), 4, (16,), (128, 256, 256, 288)),
        "123M-64": _row(64, 128, 192, (1, 2, 2, 2), 3, (16,), (192, 384, 384, 480)),
    },
}
CHANNELS, EMA_DECAY, LEARNING_RATE = 3, 0.999, 1e-4
UNCOUNTED = (
    2  # steps at the start of a turn: the other side has had the memory that this one gives back after each step
)


def our_step(row: Row, *, dtype: str, mesh) -> tuple[Any, Callable[[], Any], dict[str, Any]]:
    """(train step, function that makes its state, shapes of a batch). Nothing is computed."""
    import jax

    from tweedie_diffusion.data.scaling import Scaling
    from tweedie_diffusion.training.config import default_config
    from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
    from tweedie_diffusion.training.facts import DataFacts
    from tweedie_diffusion.training.objective import make_objective
    from tweedie_diffusion.training.step import init_state, make_optimizer, make_train_step

    config = default_config()
    config.model.update(row.ours)
    config.model.dtype = dtype
    shape, array = (row.resolution, row.resolution, CHANNELS), jax.ShapeDtypeStruct
    facts = DataFacts(shape, 0.5, 0.2, 0.2, 0, Scaling(-1.0, 1.0, "float32"), 1000, 100)
    optimizer, network = make_optimizer(config.training), build_network(config.model, facts)
    objective = make_objective(config, denoiser_maker(network, config.model, facts), facts.sigma_data, mesh=mesh)
    first_state = lambda: init_state(init_params(jax.random.key(0), network, config.model, facts), optimizer)
    rows = {"x_tn": array((row.batch, *shape), "float32"), "sigma_tn": array((row.batch,), "float32")}
    step = make_train_step(objective, optimizer, ema_decay=EMA_DECAY, seed=0, mesh=mesh)
    return step, first_state, rows | {"label": array((row.batch,), "int32")}


def ours(row: Row, device: str) -> tuple[dict[str, Any], Callable[[], None], Callable[[], None], Callable[[], int]]:
    """(what was built, take a step, wait for all of them, peak bytes of the device)."""
    import jax
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from experiments.benchmarks.flops import matrix_flops
    from tweedie_diffusion.training.processes import place
    from tweedie_diffusion.training.sharding import make_mesh

    mesh = make_mesh()
    step, first_state, shapes = our_step(row, dtype="float32" if device == "cpu" else "bfloat16", mesh=mesh)
    state = place(first_state(), NamedSharding(mesh, PartitionSpec()))
    split = NamedSharding(mesh, PartitionSpec("data"))
    rows = {"x_tn": np.random.default_rng(0).uniform(-1, 1, shapes["x_tn"].shape).astype(np.float32)}
    rows |= {"sigma_tn": np.full(row.batch, 0.2, np.float32), "label": np.full(row.batch, -1, np.int32)}
    begun = time.perf_counter()
    traced = step.trace(state, rows)
    compiled = traced.lower().compile()
    about = {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "flops": matrix_flops(traced.jaxpr),
        "seconds to compile": time.perf_counter() - begun,
        "device": jax.devices()[0].device_kind,
        "versions": f"jax {jax.__version__}",
    }

    def take():
        nonlocal state
        state, _ = compiled(state, place(rows, split))

    memory = lambda: (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return about, take, lambda: jax.block_until_ready(state.params), memory


def peer(row: Row, device: str) -> tuple[dict[str, Any], Callable[[], None], Callable[[], None], Callable[[], int]]:
    """The same of diffusers in PyTorch: eager on a CPU; on a GPU compiled, in bfloat16, channels last."""
    try:
        import diffusers
        import torch
        from torch.utils.flop_counter import FlopCounterMode
    except ImportError as error:
        sys.exit(f'{error.name} is not installed: pip install -e ".[bench]"')

    torch.manual_seed(0)
    on_gpu = device != "cpu"
    place = torch.device("cuda" if on_gpu else "cpu")
    build = lambda: diffusers.UNet2DModel(
        sample_size=row.resolution, in_channels=CHANNELS, out_channels=CHANNELS, **row.peer
    )
    model = build().to(place)
    weights, batch = list(model.parameters()), (row.batch, CHANNELS, row.resolution, row.resolution)
    x_0 = torch.rand(batch, device=place) * 2 - 1
    if on_gpu:
        model, x_0 = model.to(memory_format=torch.channels_last), x_0.contiguous(memory_format=torch.channels_last)
        torch.set_float32_matmul_precision("high")
    averages = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE, fused=True)
    network = torch.compile(model) if on_gpu else model

    def take():
        level = torch.randint(0, 1000, (row.batch,), device=place)
        x_t = x_0 + torch.randn_like(x_0)
        with torch.autocast(place.type, torch.bfloat16, enabled=on_gpu):
            loss = torch.nn.functional.mse_loss(network(x_t, level).sample.float(), x_0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(averages, weights, 1 - EMA_DECAY)

    with torch.device("meta"), FlopCounterMode(display=False) as counted:  # nothing is computed
        build()(torch.empty(batch), torch.zeros(row.batch)).sample.sum().backward()
    begun = time.perf_counter()
    take()
    about = {
        "parameters": sum(weight.numel() for weight in weights),
        "flops": counted.get_total_flops(),
        "seconds to compile": time.perf_counter() - begun,
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "versions": f"torch {torch.__version__}, diffusers {diffusers.__version__}",
    }
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    return about, take, wait, lambda: torch.cuda.max_memory_allocated() if on_gpu else 0


def serve(build: Callable[..., Any], row: Row, device: str) -> None:
    """Build, say what, and take as many steps as each line of stdin asks for."""
    about, take, wait, peak = build(row, device)
    take()
    wait()
    _forget_peak()
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        for _ in range(UNCOUNTED):
            take()
        wait()
        begun = time.perf_counter()
        for _ in range(int(line)):
            take()
        wait()
        print(json.dumps({"seconds": time.perf_counter() - begun, "peak": peak() or _peak_resident()}), flush=True)


def _forget_peak() -> None:
    """What building took is not what steps take."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")


def _peak_resident() -> int:
    """Bytes that this process has held at once."""
    if sys.platform == "linux":
        line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    which, name, on = sys.argv[1:]
    serve({"ours": ours, "peer": peer}[which], ROWS[on][name], on)
