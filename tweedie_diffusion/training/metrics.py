"""Where the numbers of a run go: a JSON line, TensorBoard, and the progress bar."""

import json
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm


class Metrics:
    """Writes scalars to workdir/metrics.jsonl and workdir/tensorboard, and shows progress. A context manager."""

    def __init__(self, workdir: Path, *, start: int, total: int, batch_size: int):
        """From step `start` of `total`."""
        self._file = (workdir / "metrics.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), write_to_disk=True)
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.1)
        self._batch_size = batch_size
        self._last = (time.perf_counter(), start)
        self._waited = 0.0

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()
        self._board.close()
        self._file.close()

    def advance(self) -> None:
        """One step more on the bar."""
        self._bar.update()

    @contextmanager
    def waiting(self):
        """Around what waits for data: the part of the time spent there is logged as `data_wait`."""
        begun = time.perf_counter()
        yield
        self._waited += time.perf_counter() - begun

    def say(self, text: str) -> None:
        """A line above the bar."""
        self._bar.write(text)

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars, with the speed since the last call."""
        now, (then, last) = time.perf_counter(), self._last
        if step > last:
            rate = (step - last) / (now - then)
            scalars = scalars | {"steps_per_second": rate, "images_per_second": rate * self._batch_size}
            scalars |= {"data_wait": self._waited / (now - then)}
            self._last, self._waited = (now, step), 0.0
            self._bar.set_postfix_str(f"{rate * self._batch_size:.0f} images/s, loss {scalars['loss']:.3g}")
        self.write(step, scalars)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Write the scalars."""
        numbers = {name: float(np.float32(value)) for name, value in scalars.items()}
        self._file.write(json.dumps({"step": step, **numbers}) + "\n")
        self._file.flush()
        for name, value in numbers.items():
            self._board.add_scalar(name, value, step)
