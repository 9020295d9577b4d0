"""The clean images behind a data set: for making data of another noise, and for measuring. Never for training."""

import numpy as np

from tweedie_diffusion.data.noisy import Dataset, shuffled


def split_of(dataset: Dataset, split_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the held-out images, in the order of `dataset`."""
    order = shuffled(dataset.images.count, split_seed)
    held_out = len(dataset.held_out)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def clean_images(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    """[N, ...] float32 in [-1, 1]."""
    images = dataset.images
    return np.stack([images.scaling.to_unit(images.read(int(i))) for i in indices])
