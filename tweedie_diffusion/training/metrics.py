"""Where the numbers and pictures of a run go: a JSON line, TensorBoard, and the progress bar."""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue] — made at run time
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar
from tqdm import tqdm

from tweedie_diffusion.training.durable import Lines
from tweedie_diffusion.training.processes import on_first_process


class Metrics:
    """Writes scalars to workdir/metrics.jsonl and workdir/tensorboard, and shows progress. A context manager."""

    def __init__(self, workdir: Path, *, start: int, total: int, batch_size: int):
        """From step `start` of `total`."""
        self._told = False
        self._lines, self._board = None, None
        speaks = on_first_process()
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1, disable=not speaks)
        self._batch_size = batch_size
        self._last = (time.perf_counter(), start)
        self._waited = 0.0
        if speaks:
            with self._without_loss():
                self._lines = Lines(workdir / "metrics.jsonl")
                (workdir / "tensorboard").mkdir(exist_ok=True)
                # Two starts within a second, or on two machines, write two files.
                self._board = EventsWriter(str(workdir / "tensorboard" / "events"), f".{os.getpid()}")

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()
        with self._without_loss():
            for file in (self._lines, self._board):
                if file:
                    file.close()

    def advance(self) -> None:
        """One step more on the bar."""
        with contextlib.suppress(OSError):
            self._bar.update()

    @contextmanager
    def waiting(self):
        """Around what waits for data: the part of the time spent there is logged as `data_wait`."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def say(self, text: str) -> None:
        """A line above the bar."""
        if on_first_process():
            with contextlib.suppress(OSError):  # whoever listened may be gone, or the disk that keeps it full
                self._bar.write(text)

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars, with the speed since the last call."""
        now, (then, last) = time.perf_counter(), self._last
        if step > last:
            rate = (step - last) / (now - then)
            scalars = scalars | {"steps_per_second": rate, "images_per_second": rate * self._batch_size}
            scalars |= {"data_wait": self._waited / (now - then)}
            self._last, self._waited = (now, step), 0.0
            with contextlib.suppress(OSError):
                self._bar.set_postfix_str(f"{rate * self._batch_size:.0f} images/s, loss {scalars['loss']:.3g}")
        self.write(step, scalars)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars."""
        numbers = {name: float(np.float32(value)) for name, value in scalars.items()}
        with self._without_loss():
            if self._lines:
                self._lines.write(json.dumps({"step": step, **numbers}) + "\n")
            if self._board:
                for name, value in ((n, v) for n, v in numbers.items() if math.isfinite(v)):
                    event = Event(wall_time=time.time(), step=step, summary=scalar(name, value))
                    self._board.write_event(event)
                self._board.flush()

    def show(self, step: int, pictures: Mapping[str, bytes]) -> None:
        """Write PNGs to TensorBoard."""
        with self._without_loss():
            if self._board:
                _write_pictures(self._board, step, pictures)

    @contextmanager
    def _without_loss(self):
        """Around what writes numbers: training is worth more than they are, and goes on without them."""
        try:
            yield
        except OSError as error:
            if not self._told:
                self._told = True
                self.say(f"warning: metrics cannot be written ({error.strerror}): training goes on without them")


def show_pictures(workdir: Path, step: int, pictures: Mapping[str, bytes]) -> None:
    """Write PNGs to TensorBoard in a file of their own, where no `Metrics` is open."""
    board = EventsWriter(str(workdir / "tensorboard" / "events"), f".{os.getpid()}.pictures")
    try:
        _write_pictures(board, step, pictures)
    finally:
        board.close()


def _write_pictures(board, step, pictures):
    for name, png in pictures.items():
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # of the header of every PNG
        image = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=png)
        summary = Summary(value=[Summary.Value(tag=name, image=image)])
        board.write_event(Event(wall_time=time.time(), step=step, summary=summary))
    board.flush()
