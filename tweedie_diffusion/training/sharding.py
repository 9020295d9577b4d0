"""Where arrays lie on many devices: whole on each, split by rows over all, or in parts over groups of them."""

import math
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.config import Config

LEAST = 2**12  # numbers of an array that is cut: 16 KiB cross a link sooner than a message of any size is under way


def make_mesh(devices=None, *, shards: int = 0) -> Mesh:
    """The devices (all of them by default) on two axes: `data`, of groups, and `shard`, of the devices in a group.

    Args:
        devices: in any number that `shards` divides.
        shards: devices of a group; 0, as 1, makes a group of each.
    """
    devices, size = jax.devices() if devices is None else devices, max(shards, 1)
    both = (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh((len(devices) // size, size), ("data", "shard"), axis_types=both, devices=devices)


def whole(mesh: Mesh) -> NamedSharding:
    """Of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Of arrays [B, ...], an equal part of whose rows lies on each device."""
    return NamedSharding(mesh, PartitionSpec(("data", "shard")))


def part(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """Of an array that each group holds once: cut along its longest axis that the size n of a group divides, of several
    the last; whole on each device if there is none, or if it has fewer than `LEAST` numbers.
    """
    n = mesh.shape["shard"]
    axes = [axis for axis, length in enumerate(shape) if length % n == 0]
    if n == 1 or not axes or math.prod(shape) < LEAST:
        return whole(mesh)
    longest = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, "shard"))


def own_shapes(tree: Any, layout: Any) -> Any:
    """The shapes of what one device holds of arrays that lie as a tree of shardings says."""
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(at.shard_shape(x.shape), x.dtype), tree, layout)


def check_devices(training: Config, count: int) -> None:
    """Refuse a batch, or groups, into which `count` devices cannot be divided.

    Raises:
        InputError: naming the numbers that do.
    """
    shards, micro_batches = training.shards, max(training.accumulate, 1)
    if shards and count % shards:
        divisors = ", ".join(str(n) for n in range(1, count + 1) if count % n == 0)
        raise InputError(
            f"training.shards={shards} does not divide the number of devices, {count}: use one of {divisors}, "
            "or 0 to hold all of the state on each"
        )
    if training.batch_size % (count * micro_batches):
        of_processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
        parts = f" in {micro_batches} micro-batches" if micro_batches > 1 else ""
        raise InputError(
            f"training.batch_size={training.batch_size} cannot be split over {count} devices{of_processes}{parts}: "
            f"use a multiple of {count * micro_batches}"
        )


def laid(tree: Any, layout: Any) -> Any:
    """Within a jitted function: arrays that lie as `layout` says, one sharding or a tree of them."""
    return jax.lax.with_sharding_constraint(tree, layout)


def spread_rows(tree: Any, mesh: Mesh | None) -> Any:
    """Within a jitted function: arrays [B, ...] that every device holds, from here on by rows, if B can be split."""
    if mesh is None or mesh.size == 1 or any(len(x) % mesh.size for x in jax.tree.leaves(tree)):
        return tree
    return laid(tree, split(mesh))
