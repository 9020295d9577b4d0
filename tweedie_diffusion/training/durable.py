"""Files that a killed process or a full disk leaves either as they were or as they should be."""

import contextlib
import errno
import os
import shutil
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Write a file that is, whatever happens, the old one or the new one; on the disk when this returns.

    Raises:
        OSError: naming the file, with nothing left of it.
    """
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_directory(directory: Path) -> None:
    """Bring the names in a directory to the disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
