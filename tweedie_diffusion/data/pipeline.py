"""Batches as a pure function of the step: nothing to save, and a resumed run sees what it would have seen."""

import os
from collections.abc import Callable, Iterator

import grain
import numpy as np

from tweedie_diffusion.data.noisy import NoisyImages

MANY = 2**31 - 1  # batches
SigmaLaw = Callable[[np.ndarray, float], np.ndarray]  # (uniform draws, least level) -> σ_t above it


def batches(
    noisy: NoisyImages,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    flip: bool = False,
    turn: bool = False,
    law: SigmaLaw | None = None,
    threads: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {x_tn [B, ...], sigma_tn [B], label [B], index [B]}, from number `start` on.

    Every epoch is shuffled anew from (seed, epoch). A batch may span two epochs, so that none is smaller. With a law,
    there are no epochs: each row draws its σ_t first, then any image with less noise, and batches hold `sigma_t` too.
    Images are moved on their grid only: whatever interpolates, or changes contrast, would colour the noise or change
    its level.

    Args:
        noisy: the examples.
        batch_size: B.
        seed: of the order, the squares cut from larger images, flips and turns.
        start: the number of the first batch.
        flip: mirror half of the images left to right.
        turn: by a random number of quarter turns; images must be square.
        law: of σ_t.
        threads: that make batches, the same ones however many; 0 for none beside the caller, None for those of a CPU.
    """
    # Indices go through the pipeline one by one, images a batch at a time: Python costs less than the copies.
    if law:
        batched = grain.MapDataset.range(MANY).seed(seed).random_map(_sigma_first(noisy, batch_size, law))
    else:
        order = grain.MapDataset.range(len(noisy)).seed(seed).shuffle().repeat().batch(batch_size)
        batched = order.random_map(noisy.rows) if noisy.cropped else order.map(noisy.rows)
    if flip:
        batched = batched.random_map(_flip_half)
    if turn:
        batched = batched.random_map(_turn)
    if threads is None:
        threads = min(16, os.cpu_count() or 1)  # a batch each: decoding lets other threads run
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(batched[start:].to_iter_dataset(options))


def _sigma_first(noisy, batch_size, law):
    """(number, rng) -> a batch whose images are drawn evenly from those with less noise than its σ_t."""
    order = np.argsort(noisy.sigma_tn, kind="stable")
    levels = noisy.sigma_tn[order]

    def draw(_, rng: np.random.Generator):
        sigma_t = law(rng.random(batch_size), float(levels[0])).astype(np.float32)
        admissible = np.maximum(np.searchsorted(levels, sigma_t, side="left"), 1)
        rows = noisy.rows(order[(rng.random(batch_size) * admissible).astype(int)], rng)
        return rows | {"sigma_t": np.maximum(sigma_t, np.nextafter(rows["sigma_tn"], np.float32(np.inf)))}

    return draw


def _flip_half(batch, rng: np.random.Generator):
    flipped = rng.random(len(batch["x_tn"])) < 0.5
    mirrored = flipped.reshape(-1, *[1] * (batch["x_tn"].ndim - 1))
    return batch | {"x_tn": np.where(mirrored, batch["x_tn"][:, :, ::-1], batch["x_tn"])}


def _turn(batch, rng: np.random.Generator):
    turns, x_tn = rng.integers(4, size=len(batch["x_tn"])), batch["x_tn"].copy()
    for quarter in (1, 2, 3):
        x_tn[turns == quarter] = np.rot90(x_tn[turns == quarter], quarter, axes=(1, 2))
    return batch | {"x_tn": x_tn}
