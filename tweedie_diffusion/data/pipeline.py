"""Batches as a pure function of the step: nothing to save, and a resumed run sees what it would have seen."""

from collections.abc import Iterator
from typing import Any, cast

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
    ordered = grain.MapDataset.source(cast(Any, noisy)).seed(seed).shuffle().repeat()
    if flip:
        ordered = ordered.random_map(_flip_half)
    batched = ordered.batch(batch_size)
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    return iter(batched[start:].to_iter_dataset(options))


def _flip_half(example, rng: np.random.Generator):
    if rng.random() < 0.5:
        return example
    return example | {"x_tn": example["x_tn"][:, ::-1]}
