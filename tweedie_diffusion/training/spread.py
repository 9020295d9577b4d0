"""Rows on all devices of this process, in batches of one size on each: a row is the same on any number of them."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tweedie_diffusion.training.sharding import make_mesh, split, whole


def devices_for(count: int, size: int) -> int:
    """How many devices batches of `size` rows keep busy, of `count` rows."""
    return max(1, min(jax.local_device_count(), -(-count // size)))


def in_batches(function: Callable[..., Any], *rows: np.ndarray, size: int) -> np.ndarray:
    """function(*rows) on `size` rows at a time; the last are repeated to fill the last batch, and dropped again."""
    count = len(rows[0])
    parts = []
    for first in range(0, count, size):
        chosen = np.minimum(np.arange(first, first + size), count - 1)
        parts.append(np.asarray(function(*(r[chosen] for r in rows)))[: count - first])
    return np.concatenate(parts)


def local_mesh(devices: int) -> Mesh:
    """So many devices of this process, each a group of its own."""
    return make_mesh(jax.local_devices()[:devices])


def place_rows(mesh: Mesh, tree: Any) -> Any:
    """Arrays [B, ...] split over a mesh by their rows; of one device, as they are."""
    return tree if mesh.size == 1 else jax.device_put(tree, split(mesh))


def place_whole(mesh: Mesh, tree: Any) -> Any:
    """Arrays that every device of a mesh holds whole; of one device, as they are."""
    return tree if mesh.size == 1 else jax.device_put(tree, whole(mesh))
