"""Files that a killed process or a full disk leaves either as they were or as they should be."""

import errno
import os
import shutil
from pathlib import Path

from tweedie_diffusion.data.whole import whole


def replace_text(path: Path, text: str) -> None:
    """Write a file that is, whatever happens, the old one or the new one; on the disk when this returns.

    Raises:
        OSError: naming the file, with nothing left of it.
    """
    try:
        with whole(path) as (unfinished,):
            unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def free_bytes(path: Path) -> str:
    """', N bytes are free' where a path lies; empty if nobody knows."""
    try:
        return f", {shutil.disk_usage(path).free:,} bytes are free"
    except OSError:
        return ""


class Lines:
    """A file to append whole lines to, unbuffered; a last one that was left unfinished is ended first."""

    def __init__(self, path: Path):
        """After whatever is in the file."""
        self._path = path
        self._file = path.open("ab+", buffering=0)
        self._unfinished = False
        if self._file.tell():
            self._file.seek(-1, os.SEEK_END)
            self._unfinished = self._file.read(1) != b"\n"

    def write(self, line: str) -> None:
        """One line, with its end.

        Raises:
            OSError: if not all of it could be written, as on a full disk.
        """
        data = b"\n" * self._unfinished + line.encode()
        written = self._file.write(data)
        self._unfinished = 0 < written < len(data) or (self._unfinished and not written)
        if written < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        """Close the file."""
        self._file.close()
