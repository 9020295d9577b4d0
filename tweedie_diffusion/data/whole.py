"""Files and folders that are whole or not there: whatever stops a program, nothing half-written has a final name."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(*paths: Path) -> Iterator[tuple[Path, ...]]:
    """Names to write under, one for each path and with its suffix: `with whole(path) as (unfinished,)`.

    When the block ends, all are on the disk, and then take the names of `paths`, in their order. If it fails they are
    removed; after a crash they are left, and the next writer of the same paths writes over them.
    """
    unfinished = tuple(path.with_name(f".{path.stem}.part{path.suffix}") for path in paths)
    try:
        yield unfinished
        for part in unfinished:
            sync(part)
        for part, path in zip(unfinished, paths, strict=True):
            part.replace(path)
    except BaseException:  # also a request to stop
        for part in unfinished:
            part.unlink(missing_ok=True)
        raise
    for folder in {path.parent for path in paths}:
        sync(folder)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write files into, which takes the name of `folder`, that is not there or empty, when the block
    ends and all of them are on the disk; removed if it fails, and after a crash by the next writer.
    """
    unfinished = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        for path in (*unfinished.iterdir(), unfinished):
            sync(path)
        unfinished.replace(folder)
    except BaseException:  # also a request to stop
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a directory, as a crash of the machine asks for."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
