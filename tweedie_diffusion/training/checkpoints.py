"""Checkpoints of the train state, by Orbax: arrays only, written beside the run, atomic."""

import math
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tweedie_diffusion.training.step import TrainState, make_mesh

managers = ocp.checkpoint_managers
WORSE = 0.2  # of the least score, above it
LEAST_SCORE = 0.05  # a smaller one is taken for this: near 0 it says little, and with σ_tn overstated it is below 0


class Checkpoints:
    """The checkpoints of one workdir. Use as a context manager: leaving waits for the last save."""

    def __init__(self, workdir: Path, *, keep: int | None):
        """Checkpoints in workdir/checkpoints, of which the newest `keep` and the one of least score stay.

        `keep` None opens them for reading only.
        """
        score = {"best_fn": lambda metrics: metrics["score"], "best_mode": "min"}  # without it none is written or read
        best = managers.BestN(get_metric_fn=score["best_fn"], reverse=True, n=1, keep_checkpoints_without_metrics=False)
        options = (
            ocp.CheckpointManagerOptions(read_only=True, **score)
            if keep is None
            else ocp.CheckpointManagerOptions(
                preservation_policy=managers.AnyPreservationPolicy([managers.LatestN(keep), best]),
                cleanup_tmp_directories=True,
                **score,
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

    def best_step(self) -> int | None:
        """The step of least score; the newest if none was scored."""
        scores = self._scores()
        return min(scores, key=lambda step: (scores[step], -step)) if scores else self.latest_step()

    def better_step(self, score: float) -> int | None:
        """The step of least score if `score` is a fifth above that, as when a model learns its noisy images by heart;
        else None.
        """
        least = min(self._scores().values(), default=math.inf)
        return self.best_step() if score - least > WORSE * max(abs(least), LEAST_SCORE) else None

    def model_step(self) -> int | None:
        """The step whose model is used: the newest, or the `better_step` of the newest score."""
        scores = self._scores()
        return (self.better_step(scores[max(scores)]) if scores else None) or self.latest_step()

    def _scores(self) -> dict[int, float]:
        self._manager.wait_until_finished()  # a score is read from the disk
        metrics = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        return {step: found["score"] for step, found in metrics.items() if found}

    def save(self, state: TrainState, health: dict[str, float] | None = None) -> None:
        """Write the state, and the score of `health`, in the background; a step that is there already is left alone."""
        step = int(state.step)
        if step not in self._manager.all_steps():
            metrics = {"score": _finite_or_worst(health["score"])} if health else None
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics)

    def restore(self, step: int, like: TrainState, mesh: Mesh) -> TrainState:
        """The state saved at `step`, of the structure of `like` (arrays or shapes), on every device of `mesh`."""
        replicated = NamedSharding(mesh, PartitionSpec())
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated), like)
        state: Any = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        return state


def _finite_or_worst(score: float) -> float:
    return score if math.isfinite(score) else math.inf


def restore_saved(workdir: Path, like: TrainState, *, best: bool = False) -> TrainState | None:
    """The state of `model_step`, or the one of least score, on the first device; None if there is none.

    Touches nothing a running job writes.
    """
    if not directory(workdir).is_dir():
        return None
    with Checkpoints(workdir, keep=None) as checkpoints:
        step = checkpoints.best_step() if best else checkpoints.model_step()
        return None if step is None else checkpoints.restore(step, like, make_mesh(jax.devices()[:1]))


def directory(workdir: Path) -> Path:
    """Where the checkpoints of a workdir live."""
    return Path(workdir).absolute() / "checkpoints"
