"""Watches the loss as it comes back from the device: skipped steps, spikes, the trace."""

import json
import statistics
from collections import deque
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.durable import replace_text
from tweedie_diffusion.training.metrics import Metrics
from tweedie_diffusion.training.processes import on_first_process
from tweedie_diffusion.training.trace import Trace

BEHIND = 2  # steps that are under way while one is looked at, so that the device never waits for it
SKIPS = 20  # in a row, which end the training
SPIKE = 30.0  # times the median of the last losses
REMEMBERED, ENOUGH = 101, 20  # losses of which that is the median, and the least number of them


class Diverged(InputError):  # noqa: N818
    """The loss or its gradient is not finite, step after step."""


class Guard:
    """Looks at each step once two more are under way."""

    def __init__(self, workdir: Path, metrics: Metrics, trace: Trace | None):
        """Spikes and skipped steps are told to `metrics`; steps are written to `trace`, if there is one."""
        self._workdir, self._metrics, self._trace = workdir, metrics, trace
        self._pending: deque = deque()
        self._losses: deque[float] = deque(maxlen=REMEMBERED)
        self._skipped: dict[int, list[int]] = {}  # those in a row

    def watch(self, step: int, rows: Mapping[str, np.ndarray], scalars: Mapping[str, jax.Array]) -> None:
        """Take note of a step that was begun, and look at an earlier one.

        Args:
            step: its number, from 0.
            rows: its batch, in the host's memory, with the numbers of its images as `index`.
            scalars: what the step will return.

        Raises:
            Diverged: after 20 skipped steps in a row; their images are in skipped.json then.
        """
        digest = self._trace.digest(rows) if self._trace else ""
        watched = {name: scalars[name] for name in ("loss", "grad_norm", "skipped_in_a_row")}
        for scalar in watched.values():
            scalar.copy_to_host_async()
        self._pending.append((step, rows["index"], digest, watched))
        while len(self._pending) > BEHIND:
            self._look(*self._pending.popleft())

    def settle(self) -> bool:
        """Look at all steps begun: before a state is saved. Whether the last of them was not skipped."""
        while self._pending:
            self._look(*self._pending.popleft())
        return not self._skipped

    def _look(self, step, index, digest, scalars):
        loss, grad_norm = float(scalars["loss"]), float(scalars["grad_norm"])
        if self._trace:
            self._trace.write(step, loss, grad_norm, digest)
        if in_a_row := int(scalars["skipped_in_a_row"]):
            self._note_skipped(step, index, loss, grad_norm, in_a_row)
            return
        self._skipped.clear()
        if len(self._losses) >= ENOUGH and loss > SPIKE * statistics.median(self._losses):
            ratio = loss / statistics.median(self._losses)
            self._metrics.write(step + 1, {"loss_spike": ratio})
            self._metrics.say(f"warning: step {step + 1}: the loss, {loss:.3g}, is {ratio:.0f} times its median")
        self._losses.append(loss)

    def _note_skipped(self, step, index, loss, grad_norm, in_a_row):
        self._skipped[step + 1] = np.asarray(index).tolist()
        wrong = f"the loss is {loss}" if not np.isfinite(loss) else f"the norm of the gradient is {grad_norm}"
        if len(self._skipped) == 1:
            self._metrics.say(f"warning: step {step + 1}: {wrong}: it is skipped")
        if in_a_row < SKIPS:
            return
        path = self._workdir / "skipped.json"
        if on_first_process():
            replace_text(path, json.dumps({"images of the skipped steps": self._skipped}) + "\n")
        raise Diverged(
            f"{wrong} at step {step + 1}, as in the {in_a_row - 1} steps before it: lower training.learning_rate or "
            f"consistency.weight in a new --workdir, or look at the images named in {path}"
        )
