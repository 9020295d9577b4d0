"""How fast batches come: python -m experiments.benchmarks.batches."""

import time

import numpy as np

from tweedie_diffusion.data import noisy
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import in_memory

BATCH, COUNT = 128, 40


def images_per_second(iterator) -> float:
    next(iterator)
    start = time.perf_counter()
    for _ in range(COUNT):
        next(iterator)
    return BATCH * COUNT / (time.perf_counter() - start)


def main():
    print("| images | first epoch (noise drawn) | later epochs (from memory) |\n|---|---|---|")
    for side, channels in [(8, 1), (32, 3), (64, 3)]:
        stored = np.random.default_rng(0).integers(0, 256, (BATCH * (COUNT + 8), side, side, channels)).astype(np.uint8)
        images = in_memory(stored, Scaling(0, 255, "uint8"))
        noisy.CACHE_BYTES = 2**30
        dataset = open_dataset(images, NoiseModel(0.2), held_out=0.01, split_seed=0)
        noisy.CACHE_BYTES = 0
        uncached = open_dataset(images, NoiseModel(0.2), held_out=0.01, split_seed=0)
        first = images_per_second(batches(uncached.train, batch_size=BATCH, seed=0))
        for i in range(len(dataset.train)):
            dataset.train[i]
        later = images_per_second(batches(dataset.train, batch_size=BATCH, seed=0))
        print(f"| {side}×{side}×{channels} | {first:.0f}/s | {later:.0f}/s |")


if __name__ == "__main__":
    main()
