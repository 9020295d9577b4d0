"""How every program starts and fails: flags, the compilation cache, one-line errors with exit code 2."""

import contextlib
import ctypes
import errno
import logging as standard_logging
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging

from tweedie_diffusion.data.errors import InputError

USER_ERROR = 2
OTHERS_LEAVE = 2.5  # seconds that the first of several processes, which JAX lets none survive, gives the others
SIGNALLED = 128  # plus the number of the signal: 130 for Ctrl-C, 143 for SIGTERM


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parse the command line, call main(positional arguments), and exit with its code.

    A wrong flag or config, an `InputError` or a missing file ends in one line on stderr and exit code 2. SIGTERM stops
    whatever has not its own way to stop, as Ctrl-C does.
    """
    signal.signal(signal.SIGTERM, _on_sigterm)
    sys.unraisablehook = _on_unraisable
    app.define_help_flags()
    flags.FLAGS.set_default("verbosity", logging.FATAL)  # what Orbax says of a save is said again, in a line
    standard_logging.getLogger("asyncio").setLevel(standard_logging.CRITICAL)  # nor the rest of one that failed
    standard_logging.getLogger("matplotlib").setLevel(standard_logging.ERROR)  # that it has no place for its caches
    standard_logging.getLogger("tifffile").setLevel(standard_logging.CRITICAL)  # what it says is said again, by file
    try:
        _ask_for_large_pages()  # before anything is read or said
        arguments = _parse()
        _use_compilation_cache()
        _share_memory_between_threads()
        sys.exit(main(arguments))
    except (InputError, OSError) as error:  # OSError: a file or folder that cannot be read or written
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        for line in getattr(error, "lines", ()):
            print(" ", line, file=sys.stderr)
        if jax.distributed.is_initialized():
            os._exit(USER_ERROR)  # an orderly end would wait for the other processes
        sys.exit(USER_ERROR)
    except KeyboardInterrupt as stop:
        leave(stop)


class _Terminated(KeyboardInterrupt):
    number = signal.SIGTERM


def _on_sigterm(number, frame):
    raise _Terminated("stopped")


def _on_unraisable(what):
    """All but what TensorStore prints, from threads of its own, of the rest of a save that failed."""
    if not (what.exc_type is RuntimeError and str(what.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(what)


def leave(stop: KeyboardInterrupt) -> NoReturn:
    """Say where the program stopped and how to go on, and end the process: on any thread, whatever the others do."""
    module = getattr(sys.modules["__main__"].__spec__, "name", None)
    program = ["-m", module] if module else [sys.argv[0]]
    once = [argument for argument in sys.argv[1:] if argument.lstrip("-").partition("=")[0] != "start_over"]
    again = shlex.join([Path(sys.executable).name, *program, *once])
    with contextlib.suppress(OSError):  # the reader of a pipe may be gone
        print(f"\n{stop or 'interrupted'}. Go on with:\n  {again}", flush=True)
    if jax.distributed.is_initialized() and jax.process_index() == 0:
        time.sleep(OTHERS_LEAVE)
    os._exit(SIGNALLED + getattr(stop, "number", signal.SIGINT))


def _parse() -> list[str]:
    try:
        return flags.FLAGS(sys.argv)[1:]
    except Exception as error:  # a config file is Python: anything can be raised while it is read
        text = str(error.args[0] if error.args else error).strip()
        if isinstance(error, AttributeError | KeyError):
            near = re.search(r'Did you mean "(.+)" instead of "(.+)"', text)
            name = re.search(r'"(.+?)"', text)
            text = f"unknown setting {(near[2] if near else name[1] if name else text)!r}: "
            text += f"did you mean {near[1]!r}?" if near else "all are in tweedie_diffusion/training/config.py"
        elif isinstance(error, SyntaxError):
            text = f"{error.filename}, line {error.lineno}: {error.msg}"
        elif "Failed loading config file" in text:
            text = "the file of --config does not exist"
        elif "Traceback" in text:
            text = "in the config file: " + text.splitlines()[-1].strip()
        elif not isinstance(error, flags.Error | ValueError):
            text = f"in the config file: {type(error).__name__}: {text}"
        raise InputError(text) from error


def _ask_for_large_pages() -> None:
    """Start again with an allocator that asks Linux for pages of 2 MiB, where it gives them to those who ask.

    Each run of a compiled program on a CPU maps its memory anew, and touches it 4 KiB at a time otherwise: an eighth to
    a fifth of a training step. glibc (2.35 and newer) reads this setting as a process starts, and only then. Not where
    the program comes from stdin, which is read by now, or runs within IPython.
    """
    asked, setting, again = os.environ.get("GLIBC_TUNABLES", ""), "glibc.malloc.hugetlb", "started_again"
    if again in sys._xoptions or setting in asked or sys.argv[0] in ("", "-") or "IPython" in sys.modules:
        return
    with contextlib.suppress(OSError):  # not Linux, or one without them; or it cannot start again
        if "[madvise]" in Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text():
            os.environ["GLIBC_TUNABLES"] = f"{asked}:{setting}=1".lstrip(":")
            os.execv(sys.executable, [sys.executable, "-X", again, *sys.orig_argv[1:]])


def _use_compilation_cache() -> None:
    """Compile once a machine: JAX_COMPILATION_CACHE_DIR, or a folder in the user's cache, if that can be written."""
    place = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if not place:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        place = str(Path(base) / "tweedie_diffusion" / "jax")
    if wrong := "" if "://" in place else _unwritable(place):
        print(f"warning: {place} cannot be written ({wrong}): every program compiles anew", file=sys.stderr)
        jax.config.update("jax_enable_compilation_cache", False)
    jax.config.update("jax_compilation_cache_dir", place)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _unwritable(folder: str) -> str:
    """Why nothing can be written to a folder, which is made, or nothing."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        return error.strerror or type(error).__name__
    return "" if os.access(folder, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)


def _share_memory_between_threads() -> None:
    """Two malloc heaps a core, not glibc's eight: XLA compiles on many threads, and what one frees it keeps."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(-8, max(4, 2 * (os.cpu_count() or 1)))  # M_ARENA_MAX
