"""SIGINT and SIGTERM as requests to stop: polled where something is to be saved, obeyed at once where nothing is."""

import os
import select
import signal
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager

from tweedie_diffusion.training.processes import greatest

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 1.0  # seconds that Python code has to come back from the compiler, before the process is left without it
ONE_SIGNAL = 0.5  # seconds: a terminal and a supervisor may both pass on the same one


class Stopped(KeyboardInterrupt):
    """Work was asked to stop, and lost nothing. `number` is the signal."""

    def __init__(self, number: int, text: str):
        """`text` says where it stopped and what is saved."""
        super().__init__(text)
        self.number = number


Leave = Callable[[Stopped], None]  # ends the process: it may be called on any thread, while the main one compiles


class StopRequests:
    """Tells whether SIGINT or SIGTERM has come. A context manager; on other threads than the main one it never has.

    The first signal is a request, in `asked`. Within `nothing_to_lose` it raises Stopped; where the compiler keeps the
    main thread from Python, `leave` is called on another. A second one raises KeyboardInterrupt, or calls `leave`.
    """

    def __init__(self, leave: Leave | None = None):
        """Without `leave`, as in a notebook, the process is never ended: the compiler is waited for."""
        self.asked = 0  # the number of the signal
        self._leave = leave
        self._when = 0.0
        self._safe: list[tuple[str, Callable[[], None]]] = []
        self._main = threading.current_thread() is threading.main_thread()

    def __enter__(self):
        if self._main:
            self._old = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        if self._main and self._leave:
            self._reading, self._writing = os.pipe()
            os.set_blocking(self._writing, False)
            self._old_fd = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, name="stop requests", daemon=True).start()
        return self

    def __exit__(self, *exception):
        if self._main and self._leave:
            signal.set_wakeup_fd(self._old_fd)
            os.close(self._writing)  # the thread reads the end of it, and ends
        if self._main:
            for number, handler in self._old.items():
                signal.signal(number, handler)

    @contextmanager
    def nothing_to_lose(self, text: str, settle: Callable[[], None] = lambda: None):
        """Around what may be left at any moment: `text` says why. Only where the main thread cannot do so itself is
        `settle` called first, on another one. Several processes come here together, and leave each for itself.

        Raises:
            Stopped: at once if a stop was asked for before, of any of them, or when it is.
        """
        if asked := greatest(self.asked):
            raise Stopped(asked, text)
        self._safe.append((text, settle))
        try:
            if self.asked:
                raise Stopped(self.asked, text)
            yield
        finally:
            self._safe.pop()

    def _on_signal(self, number, frame):
        again = self.asked and time.monotonic() - self._when > ONE_SIGNAL
        if again:
            raise KeyboardInterrupt
        if not self.asked:
            self.asked, self._when = number, time.monotonic()
            if self._safe:
                raise Stopped(number, self._safe[-1][0])

    def _watch(self):
        """Reads signals as they come, while the main thread may be in the compiler."""
        first, when = 0, 0.0
        while True:
            safe = [] if self.asked or not first else self._safe[-1:]  # empty too once the handler has run
            ready, _, _ = select.select([self._reading], [], [], 0.1 if safe else None)
            if ready:
                received = os.read(self._reading, 1)
                if not received:
                    os.close(self._reading)
                    return
                number = received[0]
                if number not in SIGNALS:
                    continue
                if first and time.monotonic() - when > ONE_SIGNAL:
                    self._end(Stopped(number, "stopped at once, by a second signal"))
                elif not first:
                    first, when = number, time.monotonic()
            elif safe and time.monotonic() - when > PATIENCE:
                text, settle = safe[0]
                try:
                    settle()
                except Exception as error:  # a save that failed, say: nobody else will tell
                    text = str(error)
                self._end(Stopped(first, text))

    def _end(self, stop):
        assert self._leave is not None
        self._leave(stop)
