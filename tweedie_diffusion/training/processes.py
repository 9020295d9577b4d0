"""One program on several machines: what each does of it, and how they agree."""

from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding


def on_first_process() -> bool:
    """Whether this is the process that writes files: the only one, or number 0."""
    return jax.process_index() == 0


def place(tree: Any, sharding: NamedSharding) -> Any:
    """Arrays that every process holds whole, on the devices of all of them."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    cut = lambda x: jax.make_array_from_callback(x.shape, sharding, x.__getitem__)
    return jax.tree.map(lambda x: cut(np.asarray(x)), tree)
