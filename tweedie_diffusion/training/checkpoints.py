"""Checkpoints of the train state, by Orbax: arrays only, written beside the run, atomic."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tweedie_diffusion.training.step import TrainState, make_mesh


class Checkpoints:
    """The checkpoints of one workdir. Use as a context manager: leaving waits for the last save."""

    def __init__(self, workdir: Path, *, keep: int | None):
        """Checkpoints in workdir/checkpoints, of which the newest `keep` stay; None opens them for reading only."""
        options = (
            ocp.CheckpointManagerOptions(read_only=True)
            if keep is None
            else ocp.CheckpointManagerOptions(
                preservation_policy=ocp.checkpoint_managers.LatestN(keep), cleanup_tmp_directories=True
            )
        )
        self._manager = ocp.CheckpointManager(epath.Path(directory(workdir)), options=options)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Write the state in the background; a step that is there already is left alone."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state))

    def restore(self, step: int, like: TrainState, mesh: Mesh) -> TrainState:
        """The state saved at `step`, of the structure of `like` (arrays or shapes), on every device of `mesh`."""
        replicated = NamedSharding(mesh, PartitionSpec())
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), like)
        state: Any = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        return state


def restore_latest(workdir: Path, like: TrainState) -> TrainState | None:
    """The newest state of a workdir, on the first device; None if it has none. Touches nothing a running job writes."""
    if not directory(workdir).is_dir():
        return None
    with Checkpoints(workdir, keep=None) as checkpoints:
        step = checkpoints.latest_step()
        return None if step is None else checkpoints.restore(step, like, make_mesh(jax.devices()[:1]))


def directory(workdir: Path) -> Path:
    """Where the checkpoints of a workdir live."""
    return Path(workdir).absolute() / "checkpoints"
