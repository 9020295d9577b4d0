"""The SHA-256 of every file of a checkpoint, in a file that has one of its own: what no file system promises."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.whole import sync
from tweedie_diffusion.training.durable import replace_text

NAME = "manifest.json"


class Damaged(InputError):  # noqa: N818
    """A file is not what was written."""


def write_manifest(folder: Path) -> None:
    """Write `folder`/manifest.json with size and SHA-256 of all files below, and bring them all to the disk."""
    names = [path.relative_to(folder).as_posix() for path in _files(folder)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing and syncing let other threads run
        found = dict(zip(names, pool.map(lambda name: _synced_digest(folder / name), names), strict=True))
    write_sealed(folder / NAME, found)
    for directory in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(directory)


def verify(folder: Path) -> None:
    """Compare all files with the manifest.

    Raises:
        Damaged: naming the first file that is not what it was.
    """
    expected = read_sealed(folder / NAME)
    for name, (size, digest) in expected.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{path} is missing")
        if path.stat().st_size != size:
            raise Damaged(f"{path} has {path.stat().st_size} bytes, and {size} were written")
        if _digest(path) != digest:
            raise Damaged(f"{path} is not what was written: its SHA-256 differs")


def write_sealed(path: Path, content: dict) -> None:
    """JSON, and the SHA-256 of that text on its last line; on the disk when this returns, whole or not at all."""
    text = json.dumps(content, indent=1) + "\n"
    replace_text(path, text + hashlib.sha256(text.encode()).hexdigest() + "\n")


def read_sealed(path: Path) -> dict:
    """What `write_sealed` wrote.

    Raises:
        Damaged: if it is missing or not that.
    """
    try:
        *lines, digest = path.read_bytes().splitlines(keepends=True) or [b""]
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({error.strerror})") from error
    text = b"".join(lines)
    if hashlib.sha256(text).hexdigest().encode() + b"\n" != digest:
        raise Damaged(f"{path} is not what was written: its own SHA-256 differs")
    return json.loads(text)


def _files(folder) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _synced_digest(path):
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_size, digest


def _digest(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
