"""How every program starts and fails: flags, the compilation cache, one-line errors with exit code 2."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from absl import app, flags

from tweedie_diffusion.data.errors import InputError

USER_ERROR = 2
INTERRUPTED = 130


def run(main: Callable[[list[str]], int | None]) -> None:
    """Parse the command line, call main(positional arguments), and exit with its code.

    A wrong flag or config, an `InputError` or a missing file ends in one line on stderr and exit code 2.
    """
    app.define_help_flags()
    try:
        try:
            arguments = flags.FLAGS(sys.argv)[1:]
        except Exception as error:  # a config file is Python: anything can be raised while it is read
            raise InputError(f"{_one_line(error)} (--help lists the flags)") from error
        _use_compilation_cache()
        sys.exit(main(arguments))
    except (InputError, FileNotFoundError) as error:
        print(f"error: {_one_line(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, InputError | flags.Error | FileNotFoundError) else f"{type(error).__name__}: {text}"
    )


def _use_compilation_cache() -> None:
    """Compile once a machine: JAX_COMPILATION_CACHE_DIR, or a folder in the user's cache."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(base) / "tweedie_diffusion" / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
