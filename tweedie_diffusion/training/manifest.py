"""The SHA-256 of every file of a checkpoint, in a file that has one of its own: what no file system promises."""

import errno
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.whole import sync
from tweedie_diffusion.training.durable import replace_text

NAME = "manifest.json"
BLOCK = 2**24  # bytes hashed on their own, so that large files keep all cores busy


class Damaged(InputError):  # noqa: N818
    """A file is not what was written."""


def damage_of(error: OSError, path: Path) -> OSError | Damaged:
    """`Damaged` for an error of reading that will not pass; else that error."""
    lasting = (errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EIO)
    return Damaged(f"{error.filename or path} cannot be read ({error.strerror})") if error.errno in lasting else error


def write_manifest(folder: Path) -> None:
    """Write `folder`/manifest.json: the size of all files below, and the SHA-256 of their blocks. All are on the disk
    when this returns.
    """
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in paths:
        sync(path)
    digests = _digests(paths)
    write_sealed(folder / NAME, {p.relative_to(folder).as_posix(): [p.stat().st_size, *digests[p]] for p in paths})
    for directory in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync(directory)


def verify(folder: Path) -> None:
    """Compare all files with the manifest.

    Raises:
        Damaged: naming the first file that is not what it was.
    """
    expected = {folder / name: written for name, written in read_sealed(folder / NAME).items()}
    for path, (size, *_) in expected.items():
        if not path.is_file():
            raise Damaged(f"{path} is missing")
        if path.stat().st_size != size:
            raise Damaged(f"{path} has {path.stat().st_size} bytes, and {size} were written")
    for path, found in _digests(list(expected)).items():
        if found != expected[path][1:]:
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
        raise damage_of(error, path) from error
    text = b"".join(lines)
    if hashlib.sha256(text).hexdigest().encode() + b"\n" != digest:
        raise Damaged(f"{path} is not what was written: its own SHA-256 differs")
    return json.loads(text)


def _digests(paths: list[Path]) -> dict[Path, list[str]]:
    """The SHA-256 of every block of every file: one of a small file, many of a large one, on all cores."""
    blocks = [(path, start) for path in paths for start in range(0, max(path.stat().st_size, 1), BLOCK)]
    found: dict[Path, list[str]] = {path: [] for path in paths}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # reading and hashing let other threads run
        for (path, _), digest in zip(blocks, pool.map(_block_digest, blocks), strict=True):
            found[path].append(digest)
    return found


def _block_digest(block):
    path, start = block
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return hashlib.sha256(file.read(BLOCK)).hexdigest()
