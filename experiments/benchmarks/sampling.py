"""How fast images are drawn, by how many a device draws at a time: python -m experiments.benchmarks.sampling.

Networks of random weights: the time does not depend on them. The difference is the largest between an image and the
same one of the smallest batch.
"""

import time

import jax
import numpy as np

from configs import cifar10_noisy, digits_noisy
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training import trained
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts

NUM, ROWS = 1024, (64, 256, 1024)
STUDIES = {"digits": (digits_noisy, (8, 8, 1)), "cifar10": (cifar10_noisy, (32, 32, 3))}


def model_of(config, shape) -> trained.TrainedModel:
    """The network of a config without its mixture of patches."""
    config.model.patch_components = 0
    facts = DataFacts(shape, 0.5, 0.4, 0.4, 0, Scaling(0, 255, "uint8"), NUM, NUM)
    network = build_network(config.model, facts)
    params = init_params(jax.random.key(0), network, config.model, facts)
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda p: np.float32(p + 0.02 * noise.standard_normal(p.shape)), params)
    return trained.TrainedModel(config, facts, denoiser_maker(network, config.model, facts), params)


def main():
    names = ["digits"] if jax.default_backend() == "cpu" else list(STUDIES)
    print(f"{jax.local_device_count()} x {jax.devices()[0].device_kind}")
    print("\n| network | images a device | images/s | largest difference |\n|---|---|---|---|")
    for name in names:
        model, first = model_of(STUDIES[name][0].get_config(), STUDIES[name][1]), None
        for rows in ROWS:
            trained.rows_a_device = lambda _, rows=rows: rows
            images = model.sample(range(NUM))
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                model.sample(range(NUM))
                seconds.append(time.perf_counter() - start)
            first = images if first is None else first
            print(
                f"| {name} | {rows} | {NUM / np.median(seconds):.0f} | {np.abs(images - first).max():.1e} |", flush=True
            )


if __name__ == "__main__":
    main()
