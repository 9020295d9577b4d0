"""Checkpoints of the train state: Orbax arrays, sealed by a manifest, put in place by one rename."""

import contextlib
import math
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh
from tqdm import tqdm

from tweedie_diffusion.data.errors import BadFiles, InputError
from tweedie_diffusion.data.whole import sync
from tweedie_diffusion.training.durable import free_bytes
from tweedie_diffusion.training.manifest import Damaged, damage_of, read_sealed, verify, write_manifest, write_sealed
from tweedie_diffusion.training.processes import in_memory, on_first_process, place
from tweedie_diffusion.training.step import TrainState, layout_of

# checkpoints/STEP/state/          Orbax
# checkpoints/STEP/manifest.json   SHA-256 of the files of state
# checkpoints/STEP/score.json      written later: what held-out images say of it
# checkpoints/.saving-STEP         not whole yet;  .removing-STEP  not whole any more: removed at the next start
# checkpoints/STEP.damaged         found so, and never read again;  STEP.set_aside  by --start_over
WORSE = 0.2  # of the least score, above it
LONGEST = 300  # characters of the reason of an error
LEAST_SCORE = 0.05  # a smaller one is taken for this: near 0 it says little, and with σ_tn overstated it is below 0


class SaveFailed(InputError):  # noqa: N818
    """A state could not be written."""


class Checkpoints:
    """The checkpoints of one workdir. Use as a context manager: leaving waits for the last save."""

    def __init__(self, workdir: Path, *, keep: int | None):
        """Checkpoints in workdir/checkpoints, of which the newest `keep` and the one of least score stay.

        `keep` None opens them for reading only.
        """
        self.folder, self._keep = directory(workdir), keep
        self._saved = threading.Event()
        self._saved.set()
        self._held: int | None = None
        self._failed: SaveFailed | None = None
        if keep is not None and on_first_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            for unfinished in [*self.folder.glob(".saving-*"), *self.folder.glob(".removing-*")]:
                shutil.rmtree(unfinished)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None or isinstance(error, KeyboardInterrupt):  # which says what is saved
            self.wait()
        else:  # that error is the one to tell
            with contextlib.suppress(SaveFailed):
                self.wait()

    def steps(self) -> list[int]:
        """Of the complete checkpoints, in order."""
        return sorted(int(path.name) for path in self.folder.glob("*") if path.name.isdigit())

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, None if there is none."""
        return max(self.steps(), default=None)

    def best_step(self, apart_from: Iterable[int] = ()) -> int | None:
        """The step of least score; the newest if none was scored."""
        scores = {step: score for step, score in self.scores().items() if step not in apart_from}
        if scores:
            return min(scores, key=lambda step: (scores[step], -step))
        return max(set(self.steps()) - set(apart_from), default=None)

    def better_step(self, score: float) -> int | None:
        """The step of least score if `score` is a fifth above that, as when a model learns its noisy images by heart;
        else None.
        """
        least = min(self.scores().values(), default=math.inf)
        return self.best_step() if score - least > WORSE * max(abs(least), LEAST_SCORE) else None

    def model_step(self, apart_from: Iterable[int] = ()) -> int | None:
        """The step whose model is used: the newest, or the `better_step` of the newest score."""
        scores = {step: score for step, score in self.scores().items() if step not in apart_from}
        newest = max(set(self.steps()) - set(apart_from), default=None)
        better = self.better_step(scores[max(scores)]) if scores else None
        return newest if better is None or better in apart_from else better

    def scores(self) -> dict[int, float]:
        """The scores of those that have one."""
        self.wait()
        return self._scores()

    def save(self, state: TrainState) -> None:
        """Write the state in the background; a step that is there already is left alone. All processes must call.

        Raises:
            SaveFailed: if the save before this one failed.
        """
        self.wait()
        step = int(state.step)
        if self.holds(step):
            return
        host, self._held = in_memory(state), step
        if on_first_process() and step not in self.steps():
            saving = threading.Thread(target=self._write, args=(step, host), name=f"save {step}")
            self._saved.clear()
            saving.start()

    def holds(self, step: int) -> bool:
        """Whether `step` was the last to be saved, or restored: the same on all processes, whatever files they see."""
        return step == self._held

    def wait(self) -> None:
        """Wait for the save in the background.

        Raises:
            SaveFailed: if it failed.
        """
        self._saved.wait()  # not for the thread: a signal in the middle of that would end the waiting for good
        if self._failed:
            raise self._failed

    def score(self, step: int, score: float | None) -> None:
        """Record what held-out images say of a saved step: the least is the best; None if they say nothing.

        Raises:
            SaveFailed: if that, or the state, could not be written.
        """
        self.wait()
        if on_first_process() and step in self.steps():
            value = {} if score is None else {"score": score if math.isfinite(score) else math.inf}
            try:
                write_sealed(self._path(step) / "score.json", value)
                self._prune()
            except OSError as error:
                raise SaveFailed(
                    f"{error.filename or self.folder} cannot be written ({_reason(error)}{free_bytes(self.folder)}). "
                    f"Free what it needs; the same command then goes on from step {step}"
                ) from error

    def is_scored(self, step: int) -> bool:
        """Whether `score` was called for a saved step."""
        return (self._path(step) / "score.json").exists()

    def restore(self, step: int, like: TrainState, mesh: Mesh) -> TrainState:
        """The state saved at `step`, of the structure of `like` (arrays or shapes), on the devices of `mesh`.

        Raises:
            Damaged: if a file of it is not what was written.
            InputError: if the state has another structure.
        """
        state = place(self.read(step, like), layout_of(like, mesh))
        self._held = step
        return state

    def read(self, step: int, like: TrainState) -> TrainState:
        """As `restore`, in the memory of the host."""
        path = self._path(step)
        try:
            verify(path)
            if self.is_scored(step):
                read_sealed(path / "score.json")
        except OSError as error:
            raise damage_of(error, path) from error
        return _read(path / "state", like)

    def restore_newest(self, like: TrainState, mesh: Mesh, say: Callable[[str], None]) -> TrainState | None:
        """The newest state that is whole, None if none was ever saved. Newer ones, damaged, are renamed STEP.damaged.

        Raises:
            BadFiles: if none is whole; all are left as they are.
        """
        damaged: dict[int, Damaged] = {}
        for step in reversed(self.steps()):
            try:
                state = self.restore(step, like, mesh)
            except Damaged as error:
                damaged[step] = error
                continue
            for bad, error in damaged.items():
                say(f"warning: {error}. Step {bad} is set aside as {self._set_aside(bad, 'damaged').name}")
            return state
        lines = [str(error) for error in damaged.values()] + [str(path) for path in self.folder.glob("*.damaged*")]
        if lines:
            raise BadFiles(
                f"no checkpoint in {self.folder} is whole: put back a copy of one, "
                "or begin again at step 0 with --start_over, which keeps them beside the new ones",
                lines,
            )
        return None

    def set_all_aside(self) -> None:
        """Rename all of them: the run begins again."""
        for path in [path for path in self.folder.glob("*") if path.name.partition(".set_aside")[0] == path.name]:
            self._set_aside(path.name, "set_aside")

    def _set_aside(self, name, why):
        taken = {path.name for path in self.folder.glob("*")}
        names = [f"{name}.{why}", *(f"{name}.{why}{i}" for i in range(2, len(taken) + 3))]
        aside = self.folder / next(name for name in names if name not in taken)
        if on_first_process():
            (self.folder / str(name)).rename(aside)
            sync(self.folder)
        return aside

    def _write(self, step, host):
        saving = self.folder / f".saving-{step}"
        try:
            with _orbax() as orbax:
                orbax.save(saving / "state", args=ocp.args.PyTreeSave(host))
            write_manifest(saving)
            saving.rename(self._path(step))
            sync(self.folder)
        except Exception as error:  # Orbax and TensorStore have many; this one is told by the next save, or at the end
            self._failed = SaveFailed(f"step {step} could not be saved: {_reason(error)}")
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(host))
            shutil.rmtree(saving, ignore_errors=True)
            self._failed = self._failure(step, size, error)
        else:
            self._prune_or_fail()
        finally:
            self._saved.set()

    def _prune_or_fail(self):
        try:
            self._prune()
        except OSError as error:
            self._failed = SaveFailed(f"old checkpoints in {self.folder} cannot be removed: {_reason(error)}")

    def _failure(self, step, size, error):
        free = free_bytes(self.folder)
        kept = f"step {max(self.steps())}" if self.steps() else "the beginning"
        return SaveFailed(
            f"step {step} could not be saved in {self.folder} ({size:,} bytes{free}): {_reason(error)}. "
            f"Free what it needs; the same command then goes on from {kept}"
        )

    def _prune(self):
        assert self._keep is not None
        scores = self._scores()
        best = min(scores, key=lambda step: (scores[step], -step)) if scores else None
        for step in self.steps()[: -self._keep]:
            if step != best:
                removing = self.folder / f".removing-{step}"
                self._path(step).rename(removing)  # never a checkpoint with some of its files
                shutil.rmtree(removing)

    def _scores(self):
        found = {}
        for step in self.steps():
            with contextlib.suppress(Damaged):  # or none yet; `restore` tells of it
                found[step] = read_sealed(self._path(step) / "score.json").get("score")
        return {step: score for step, score in found.items() if score is not None}

    def _path(self, step) -> Path:
        return self.folder / str(step)


def _orbax():
    """Of this process alone. Uncompressed: float noise shrinks by a twelfth, in the time that all its hashes take."""
    alone = ocp.options.MultiprocessingOptions(primary_host=jax.process_index(), active_processes={jax.process_index()})
    handler = ocp.PyTreeCheckpointHandler(use_compression=False, multiprocessing_options=alone)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def _read(path, like):
    """The arrays saved in `path`, in the host's memory."""
    shapes = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), like)
    try:
        with _orbax() as orbax:
            how = ocp.checkpoint_utils.construct_restore_args(shapes)
            return orbax.restore(path, args=ocp.args.PyTreeRestore(shapes, restore_args=how))
    except (ValueError, KeyError, TypeError) as error:  # its files are whole
        raise InputError(
            f"{path} holds a state of another structure ({_reason(error)}): use the version that wrote it, "
            "or another --workdir"
        ) from error


def _reason(error) -> str:
    """In a few words: TensorStore tells all it knows."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    short = line if len(line) <= LONGEST else line[:LONGEST] + "…"
    return os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or short


def restore_saved(workdir: Path, like: TrainState, *, best: bool = False) -> TrainState | None:
    """The state of `model_step`, or the one of least score, in the memory of the host; None if there is none.

    Touches nothing a running job writes. Checkpoints that are damaged are told of, and passed over.

    Raises:
        BadFiles: if all are damaged.
    """
    checkpoints, damaged = Checkpoints(workdir, keep=None), {}
    while True:
        step = checkpoints.best_step(damaged) if best else checkpoints.model_step(damaged)
        if step is None and damaged:
            raise BadFiles(f"no checkpoint in {checkpoints.folder} is whole", [str(e) for e in damaged.values()])
        if step is None:
            return None
        try:
            return checkpoints.read(step, like)
        except (InputError, OSError) as error:
            if step not in checkpoints.steps():  # a running job has removed it meanwhile
                continue
            if not isinstance(error, Damaged):
                raise
            tqdm.write(f"warning: {error}: step {step} is passed over", file=sys.stderr)
            damaged[step] = error


def directory(workdir: Path) -> Path:
    """Where the checkpoints of a workdir live."""
    return Path(workdir).absolute() / "checkpoints"
