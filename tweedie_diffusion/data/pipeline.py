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
    part: slice | np.ndarray = slice(None),
    threads: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches {x_tn [B, ...], sigma_tn [B], label [B], index [B]}, from number `start` on; or a part of each.

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
        part: of the rows, the only ones that are read; `index` is that of all. Rows are the same, whatever the part.
        threads: that make batches, the same ones however many; 0 for none beside the caller, None for those of a CPU.
    """
    # Indices go through the pipeline one by one, images a batch at a time: Python costs less than the copies.
    if law:
        batched = grain.MapDataset.range(MANY).seed(seed).random_map(_sigma_first(noisy, batch_size, law, part))
    else:
        order = grain.MapDataset.range(len(noisy)).seed(seed).shuffle().repeat().batch(batch_size)
        read = lambda indices, rng=None: _read(noisy, indices, part, rng)
        batched = order.random_map(read) if noisy.cropped else order.map(read)
    if flip:
        batched = batched.random_map(lambda batch, rng: _flip_half(batch, part, rng))
    if turn:
        batched = batched.random_map(lambda batch, rng: _turn(batch, part, rng))
    if threads is None:
        threads = min(16, os.cpu_count() or 1)  # a batch each: decoding lets other threads run
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(batched[start:].to_iter_dataset(options))


def _read(noisy, indices, part, rng):
    """The part of a batch; all places are drawn, so that each row has its own."""
    places = None if rng is None else rng.random((len(indices), 2))[part]
    return noisy.rows(indices[part], places) | {"index": noisy.numbers[indices].astype(np.int32)}


def _sigma_first(noisy, batch_size, law, part):
    """(number, rng) -> a batch whose images are drawn evenly from those with less noise than its σ_t."""
    order = np.argsort(noisy.sigma_tn, kind="stable")
    levels = noisy.sigma_tn[order]

    def draw(_, rng: np.random.Generator):
        sigma_t = law(rng.random(batch_size), float(levels[0])).astype(np.float32)
        admissible = np.maximum(np.searchsorted(levels, sigma_t, side="left"), 1)
        rows = _read(noisy, order[(rng.random(batch_size) * admissible).astype(int)], part, rng)
        return rows | {"sigma_t": np.maximum(sigma_t[part], np.nextafter(rows["sigma_tn"], np.float32(np.inf)))}

    return draw


def _flip_half(batch, part, rng: np.random.Generator):
    flipped = rng.random(len(batch["index"]))[part] < 0.5
    mirrored = flipped.reshape(-1, *[1] * (batch["x_tn"].ndim - 1))
    return batch | {"x_tn": np.where(mirrored, batch["x_tn"][:, :, ::-1], batch["x_tn"])}


def _turn(batch, part, rng: np.random.Generator):
    turns, x_tn = rng.integers(4, size=len(batch["index"]))[part], batch["x_tn"].copy()
    for quarter in (1, 2, 3):
        x_tn[turns == quarter] = np.rot90(x_tn[turns == quarter], quarter, axes=(1, 2))
    return batch | {"x_tn": x_tn}
