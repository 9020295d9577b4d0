"""Batches as a pure function of the step: nothing to save, and a resumed run sees what it would have seen."""

from collections.abc import Iterator

import grain
import numpy as np

from tweedie_diffusion.data.noisy import NoisyImages


def batches(
    noisy: NoisyImages, *, batch_size: int, seed: int, start: int = 0, flip: bool = False
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {x_tn [B, ...], sigma_tn [B], label [B]}, from number `start` on.

    Every epoch is shuffled anew from (seed, epoch). A batch may span two epochs, so that none is smaller.

    Args:
        noisy: the examples.
        batch_size: B.
        seed: of the order and the flips.
        start: the number of the first batch.
        flip: mirror half of the images left to right; white noise stays white.
    """
    # Indices go through the pipeline one by one, images a batch at a time: Python costs less than the copies.
    order = grain.MapDataset.range(len(noisy)).seed(seed).shuffle().repeat().batch(batch_size)
    batched = order.map(noisy.rows)
    if flip:
        batched = batched.random_map(_flip_half)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(batched[start:].to_iter_dataset(options))


def _flip_half(batch, rng: np.random.Generator):
    flipped = rng.random(len(batch["x_tn"])) < 0.5
    mirrored = flipped.reshape(-1, *[1] * (batch["x_tn"].ndim - 1))
    return batch | {"x_tn": np.where(mirrored, batch["x_tn"][:, :, ::-1], batch["x_tn"])}
