"""What a train step costs: python -m experiments.benchmarks.train_step --config=configs/digits_noisy.py.

Compiles the step without and with the consistency term, on noise of the shape of the config's data, and prints
compile time, step time, images/s, and the cost of the term as a ratio.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import config_flags

from tweedie_diffusion import program
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.models.patch_mixture import fit_patch_mixture
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.objective import make_objective
from tweedie_diffusion.training.step import init_state, make_mesh, make_optimizer, make_train_step

_CONFIG = config_flags.DEFINE_config_file("config", "configs/digits_noisy.py", "Settings.")
_SHAPE = flags.DEFINE_list("shape", ["8", "8", "1"], "Of one image.")
_REPEATS = flags.DEFINE_integer("repeats", 30, "Steps timed.")


def main(arguments):
    config, shape = _CONFIG.value, tuple(int(n) for n in _SHAPE.value)
    jax.config.update("jax_enable_compilation_cache", False)
    sigma_tn = config.data.sigma_tn
    facts = DataFacts(shape, 0.5, sigma_tn, sigma_tn, 0, Scaling(-1, 1, "float32"), 1, 1)
    network, mesh, optimizer = build_network(config.model, facts), make_mesh(), make_optimizer(config.training)
    params = init_params(jax.random.key(0), network, config.model, facts)
    batch_size = config.training.batch_size
    x_tn = jax.random.normal(jax.random.key(1), (batch_size, *shape))
    components, side = config.model.patch_components, config.model.patch_side
    fit = lambda: fit_patch_mixture(np.asarray(x_tn), sigma_tn=sigma_tn, components=components, side=side)
    make_denoise = denoiser_maker(network, config.model, facts, fit() if components else None)
    batch = {"x_tn": x_tn, "sigma_tn": jnp.full(batch_size, sigma_tn), "label": jnp.zeros(batch_size, int)}
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec("data")))
    print(f"{jax.devices()[0].device_kind} × {mesh.size}, batch {batch_size} of {shape}")
    print("| step | compile, s | step, s | images/s |\n|---|---|---|---|")
    medians = []
    for name, with_consistency in [("ambient", False), ("ambient + consistency", True)]:
        objective = make_objective(config, make_denoise, facts.sigma_data, with_consistency=with_consistency)
        step = make_train_step(objective, optimizer, ema_decay=0.99, seed=0, mesh=mesh)
        state = init_state(jax.tree.map(jnp.copy, params), optimizer)
        state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
        start = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        compiled, seconds = time.perf_counter() - start, []
        for _ in range(_REPEATS.value):
            start = time.perf_counter()
            state, _ = jax.block_until_ready(step(state, batch))
            seconds.append(time.perf_counter() - start)
        medians.append(sorted(seconds)[len(seconds) // 2])
        print(f"| {name} | {compiled:.1f} | {medians[-1]:.4f} | {batch_size / medians[-1]:.0f} |")
    print(f"\nthe consistency term makes a step {medians[1] / medians[0]:.2f} times as long")


if __name__ == "__main__":
    program.run(main)
