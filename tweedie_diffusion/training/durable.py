"""Files that a killed process leaves either as they were or as they should be."""

import os
from pathlib import Path
from typing import BinaryIO

from tweedie_diffusion.data.whole import whole


def replace_text(path: Path, text: str) -> None:
    """Write a file that is, whatever happens, the old one or the new one; on the disk when this returns."""
    with whole(path) as (unfinished,):
        unfinished.write_text(text, encoding="utf-8", errors="surrogateescape")


def open_lines(path: Path) -> BinaryIO:
    """A file to append whole lines to, unbuffered; a last line that a killed process left unfinished is ended."""
    file = path.open("ab+", buffering=0)
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file
