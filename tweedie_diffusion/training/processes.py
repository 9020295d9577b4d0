"""One training on several processes, each with some of the devices: what each of them does, and how they agree."""

import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.sharding import split, whole

JOINING = 300  # seconds that processes wait for all to have started
HEARTBEAT = 60  # seconds without a word from a process, after which the others end


class OthersLost(InputError):  # noqa: N818
    """Another process of the training has ended, or does not answer."""


def join_others() -> None:
    """Become one of the processes of a TPU pod, a Slurm or MPI job, or of those that the environment names:
    JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES, JAX_PROCESS_ID.

    Raises:
        InputError: if there is no such environment.
    """
    count, number = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    late = threading.Timer(JOINING, _end_alone)
    late.daemon = True
    handlers = {
        s: signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGTERM)
    }  # no Python runs meanwhile
    try:
        late.start()
        jax.distributed.initialize(
            num_processes=int(count) if count else None,
            process_id=int(number) if number else None,
            initialization_timeout=2 * JOINING,  # JAX would abort with a page of C++
            heartbeat_timeout_seconds=HEARTBEAT,
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(
            f"--distributed found no other processes ({str(error).strip().splitlines()[0]}): set "
            "JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or leave it out"
        ) from error
    finally:
        late.cancel()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end_alone():
    sys.stderr.write(f"error: not all processes of --distributed started within {JOINING} s: start them together\n")
    os._exit(2)


def on_first_process() -> bool:
    """Whether this is the process that writes files and speaks: the only one, or number 0."""
    return jax.process_index() == 0


def place(tree: Any, layout: Any) -> Any:
    """Arrays that every process holds whole, on the devices of all of them, as one sharding or a tree of them says."""
    if jax.process_count() == 1:
        return jax.device_put(tree, layout)
    cut = lambda sharding, x: jax.make_array_from_callback(x.shape, sharding, np.asarray(x).__getitem__)
    return jax.tree.map(cut, jax.tree.broadcast(layout, tree), tree)


def own_rows(sharding: NamedSharding, count: int) -> np.ndarray:
    """The numbers, in order, of the rows that lie on this process's devices, of `count` rows in all."""
    cuts = sharding.addressable_devices_indices_map((count,)).values()
    return np.unique([np.arange(count)[cut] for cut in cuts])


def place_own(rows: Any, sharding: NamedSharding) -> Any:
    """Arrays of the `own_rows` of each process, as arrays of all rows on the devices of all processes."""
    return jax.make_array_from_process_local_data(sharding, rows)


def on_one_device(tree: Any) -> Any:
    """Copies of all arrays, whole, on this process's first device. For arrays in parts all processes must ask."""
    return jax.tree.map(_on_one_device, tree)


def in_memory(tree: Any) -> Any:
    """Copies of all arrays, whole, in the memory of the first process; None on the others, which must ask all the same
    for arrays in parts. No device ever holds more than one of those whole.
    """
    first = on_first_process()
    copied = np.array if jax.default_backend() == "cpu" else np.asarray  # which would show a CPU's array itself
    for array in jax.tree.leaves(tree) if first else ():
        if array.is_fully_replicated:
            array.addressable_data(0).copy_to_host_async()

    def copy(array):
        local = _on_one_device(array)
        return copied(local) if first else None

    return jax.tree.map(copy, tree)


def _on_one_device(array):
    if not array.is_fully_replicated:
        array = jax.device_put(array, whole(array.sharding.mesh))
    return array.addressable_data(0)


@contextmanager
def first_process_first():
    """Around what the first process does before the others."""
    if not on_first_process():
        multihost_utils.sync_global_devices("first process first")
    yield
    if on_first_process() and jax.process_count() > 1:
        multihost_utils.sync_global_devices("first process first")


def leave_together() -> None:
    """Wait until all processes have come to their end: one that goes first would be missed."""
    if jax.process_count() > 1:
        jax.distributed.shutdown()


def check_same(what: str, number: int) -> None:
    """Raise InputError unless a number is the same on all processes."""
    if jax.process_count() > 1:
        found = multihost_utils.process_allgather(np.int32(number)).ravel().tolist()
        if len(set(found)) > 1:
            raise InputError(f"{what} differs between processes ({found}): all must see the same files in --workdir")


def greatest(number: int) -> int:
    """The greatest of the numbers that all processes bring here."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.process_allgather(np.int32(number)).max())


class Agreement:
    """The greatest of the numbers that the processes bring: the same on all, and of the time before, if they are many,
    so that nobody waits for it.
    """

    def __init__(self, mesh: Mesh):
        """Of the processes that have devices in `mesh`."""
        self._split, self._greatest = split(mesh), jax.jit(jnp.max, out_shardings=whole(mesh))
        self._before: Any = 0

    def __call__(self, number: int) -> int:
        """Called by all processes equally often."""
        if jax.process_count() == 1:
            return number
        own = np.full(jax.local_device_count(), number, np.int32)
        before, self._before = self._before, self._greatest(jax.make_array_from_process_local_data(self._split, own))
        return int(before)


@contextmanager
def noticing_loss():
    """Around what all processes compute together.

    Raises:
        OthersLost: where that fails because one of them has ended.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or str(error).startswith("RESOURCE_EXHAUSTED"):
            raise
        raise OthersLost(
            f"another process of the training has ended or does not answer ({str(error).strip().splitlines()[0]}): "
            "start all of them again; they go on from the newest checkpoint"
        ) from error
