"""Which image files there are and what is in each: looked at once, then again only where one has changed."""

import dataclasses
import errno
import fnmatch
import functools
import hashlib
import itertools
import json
import os
import stat
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import Frames, Source, is_image, open_frames, opened

CHUNK = 512  # files given to the threads at once
VERSION = 1  # of the cache
MEND = "put it back as it was, or begin a new run with what there is now"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A file, or a member of a tar archive, and what is in it.

    Attributes:
        name: relative to the source; of a member, ARCHIVE/MEMBER.
        path: of the file, or of the archive.
        offset: of the member's bytes in the archive; −1 for a file.
        size, mtime_ns: of the file or member, and of the file or archive: what tells that it has changed.
        frames: images in it.
        shape, dtype: of each.
        digest: of its bytes; empty before it was looked at.
        error: why it cannot be used, or nothing.
        archive: bytes of the whole archive; 0 for a file.
    """

    name: str
    path: str
    offset: int
    size: int
    mtime_ns: int
    frames: int = 0
    shape: tuple[int, ...] = ()
    dtype: str = ""
    digest: str = ""
    error: str = ""
    archive: int = 0

    @property
    def source(self) -> Source:
        """What `formats.open_frames` reads."""
        if self.offset < 0:
            return Path(self.path)
        with open(self.path, "rb") as archive:
            archive.seek(self.offset)
            return archive.read(self.size)

    def frame_name(self, frame: int) -> str:
        """What a frame is called: as the file, and by its number if there are several."""
        return self.name if self.frames == 1 else f"{self.name}:{frame}"

    def open(self) -> Frames:
        """Its frames; InputError if the file is not the one that was looked at."""
        self.check()
        return open_frames(self.name, self.source)

    def check(self) -> None:
        """Raise InputError unless the file, or the archive, has the size and the time that it was looked at with."""
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise InputError(f"{self.name} cannot be read any more: {error.strerror}; {MEND}") from error
        if (status.st_size, status.st_mtime_ns) != (self.archive or self.size, self.mtime_ns):
            raise InputError(f"{self.name} has changed since it was first looked at; {MEND}")


def is_catalog(source: str) -> bool:
    """Whether `source` names files that `catalog` lists: a folder, a pattern, an archive or an image file."""
    path = Path(source).expanduser()
    return path.is_dir() or _is_pattern(source) or (path.is_file() and (_is_archive(path) or is_image(path.name)))


def catalog(source: str, *, cache: Path | None = None) -> list[Entry]:
    """Every image file of a folder, a pattern or tar archives, by name, each read once to see that it can be.

    Args:
        source: a folder with its sub-folders, a file, a .tar archive, or a pattern of any of these with *, ** or ?.
        cache: the folder of caches; None for the user's own.

    Returns:
        At least one entry. Those that cannot be used say why in `error`.

    Raises:
        InputError: if there is no such place, or no image in it.
    """
    found = sorted(_find(source), key=lambda entry: entry.name)
    if not found:
        raise InputError(f"there is no image in {source}")
    kept = _cache_file(source, cache)
    known = {_identity(entry): entry for entry in _read_cache(kept)}
    entries = [_readable(known.get(_identity(entry), entry)) for entry in found]
    new = [i for i, entry in enumerate(entries) if not entry.digest]
    with ThreadPoolExecutor() as pool, tqdm(total=len(new), desc="looking at files", delay=1.0, leave=False) as bar:
        for first in range(0, len(new), CHUNK):  # so that few are in memory at once
            chunk = new[first : first + CHUNK]
            examine = functools.partial(_examine, alone=len(entries) == 1)
            for i, entry in zip(chunk, pool.map(examine, [entries[i] for i in chunk]), strict=True):
                entries[i] = entry
                bar.update()
    if new or len(entries) < len(known):
        _write_cache(kept, entries)
    return entries


def duplicates(entries: list[Entry]) -> list[list[str]]:
    """Names of files with the same bytes, in groups of two and more."""
    groups: dict[str, list[str]] = {}
    for entry in entries:
        if not entry.error:
            groups.setdefault(entry.digest, []).append(entry.name)
    return [names for names in groups.values() if len(names) > 1]


def other_kinds(source: str) -> Counter:
    """Suffixes of the files of a folder that are no images, and how many there are of each."""
    path = Path(source).expanduser()
    files = _walk(path) if path.is_dir() else ()
    shown = (name for file in files if not (name := os.path.basename(file)).startswith("."))
    return Counter(os.path.splitext(name)[1] for name in shown if not _is_taken(name))


def _readable(entry):
    """The same, unless its permissions have changed since it was looked at."""
    if not entry.digest or entry.error or os.access(entry.path, os.R_OK):
        return entry
    return _unusable(entry.name, entry.path, f"{entry.name} cannot be read: {os.strerror(errno.EACCES)}")


def _identity(entry):
    return entry.name, entry.path, entry.offset, entry.size, entry.mtime_ns, entry.archive


def _is_archive(path):
    return os.fspath(path).lower().endswith(".tar")


def _is_taken(path: str) -> bool:
    name = os.path.basename(path)
    return not name.startswith(".") and (_is_archive(name) or is_image(name))


def _is_pattern(source):
    return any(c in source for c in "*?[") and not Path(source).expanduser().exists()


def _find(source: str) -> Iterator[Entry]:
    path = Path(os.path.abspath(Path(source).expanduser()))
    if path.is_dir():
        yield from _entries(path, _walk(path))
    elif path.is_file():
        yield from _entries(path.parent, [str(path)])
    elif _is_pattern(source):
        parts = path.parts
        root = Path(*itertools.takewhile(lambda part: not any(c in part for c in "*?["), parts))
        yield from _entries(root, _walk(root, parts[len(root.parts) :]))
    else:
        raise InputError(f"{source} does not exist")


def _matches(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a path, by its parts, matches a pattern; a folder that does stands for all that is in it."""
    if not parts or not names:
        return not parts
    if parts[0] == "**":
        return _matches(names, parts[1:]) or _matches(names[1:], parts)
    return fnmatch.fnmatchcase(names[0], parts[0]) and _matches(names[1:], parts[1:])


def _leads_on(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether something below a folder may match."""
    if not parts or not names or parts[0] == "**":
        return True
    return fnmatch.fnmatchcase(names[0], parts[0]) and _leads_on(names[1:], parts[1:])


def _walk(root: Path, parts: Sequence[str] = ()) -> Iterator[str]:
    """Paths of the files below a folder that match a pattern. Links are followed, each folder is entered once, and one
    that cannot be is an error.
    """

    def refuse(error):
        raise InputError(f"the folder {error.filename} cannot be read: {error.strerror}") from error

    entered = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        status, inside = os.stat(folder), Path(folder).relative_to(root).parts
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith(".") and _leads_on((*inside, name), parts))
        yield from (f"{folder.rstrip(os.sep)}{os.sep}{name}" for name in names if _matches((*inside, name), parts))


def _entries(root: Path, paths: Iterable[str]) -> Iterator[Entry]:
    """Of files below an absolute folder; by text alone, for there may be very many."""
    above = len(str(root).rstrip(os.sep)) + 1
    for path in paths:
        if not _is_taken(path):
            continue
        name = path[above:]
        try:
            status = os.stat(path)
        except OSError as error:  # a link to nowhere, or to itself
            yield _unusable(name, path, f"{name} cannot be read: {error.strerror}")
            continue
        if not stat.S_ISREG(status.st_mode):
            yield _unusable(name, path, f"{name} is no file")
        elif _is_archive(path):
            yield from _members(name, path)
        else:
            yield Entry(name, path, -1, status.st_size, status.st_mtime_ns)


def _unusable(name, path, why):
    return Entry(name, path, -1, 0, 0, digest="-", error=why)


def _members(name: str, path: str) -> Iterator[Entry]:
    """The images of an archive, by their place in it: tar keeps them whole, so that each can be read alone."""
    status = os.stat(path)
    seen = set()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                inside, full = PurePosixPath(member.name), f"{name}/{member.name}"
                if member.isdir() or not is_image(member.name) or inside.name.startswith("."):
                    continue
                if wrong := "is in its archive twice" if inside in seen else _unfit(member, status.st_size):
                    yield _unusable(full, path, f"{full} {wrong}")
                else:
                    place = member.offset_data, member.size, status.st_mtime_ns
                    yield Entry(full, path, *place, archive=status.st_size)
                seen.add(inside)
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError) as error:
        yield _unusable(name, path, f"{name} is not a readable, uncompressed tar archive ({error})")


def _unfit(member: tarfile.TarInfo, length: int) -> str:
    """Why a member of an archive of so many bytes cannot be read where it lies, or nothing."""
    inside = PurePosixPath(member.name)
    if inside.is_absolute() or ".." in inside.parts:
        return "lies outside of its archive"
    if member.issparse():
        return "is stored without its empty parts: pack it without --sparse"
    if not member.isreg():
        return "is a link or a device and no file: pack what it leads to"
    if not 0 <= member.size <= length - member.offset_data:
        return "is cut off"
    return ""


def _examine(entry: Entry, *, alone: bool) -> Entry:
    """The entry with what is in it; read whole, so that a bad file is named now and not in the middle of training."""
    try:
        source = entry.source
        with opened(source) as file:
            readable: Any = file
            digest = hashlib.file_digest(readable, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        frames = open_frames(entry.name, source)
        if frames.stated and not alone:
            stated = " and ".join(frames.stated)
            raise InputError(f"{entry.name} states {stated}, which are read from a single .npz only: name it alone")
        if frames.count == 0 or 0 in frames.shape:
            raise InputError(f"{entry.name} is empty")
        if frames.dtype.kind not in "uif":
            raise InputError(f"{entry.name} holds {frames.dtype.name}, not numbers of one kind")
        for i in range(frames.count):
            frame = frames.read(i)
            if frame.dtype.kind == "f" and not np.isfinite(frame).all():
                raise InputError(f"{entry.name} holds NaN or infinity")
    except InputError as error:
        return dataclasses.replace(entry, digest="-", error=" ".join(str(error).split()))
    except OSError as error:
        return dataclasses.replace(entry, digest="-", error=f"{entry.name} cannot be read: {error.strerror or error}")
    except Exception as error:  # decoders of damaged files raise whatever they like
        return dataclasses.replace(entry, digest="-", error=f"{entry.name} cannot be read ({error!r})")
    return dataclasses.replace(
        entry,
        frames=frames.count,
        shape=tuple(frames.shape),
        dtype=frames.dtype.name,
        digest=digest,
    )


def _cache_file(source, cache):
    home = cache or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tweedie_diffusion" / "files"
    place = os.path.abspath(Path(source).expanduser())
    return home / f"{hashlib.blake2b(os.fsencode(place), digest_size=12).hexdigest()}.json"


def _read_cache(path: Path) -> list[Entry]:
    """What an earlier run has seen; nothing if there is none, or it cannot be read."""
    try:
        kept = json.loads(path.read_text())
        if kept["version"] != VERSION:
            return []
        return [Entry(**row | {"shape": tuple(row["shape"])}) for row in kept["entries"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _write_cache(path: Path, entries: list[Entry]) -> None:
    """Only what was read well: a file that could not be is looked at again."""
    good = [dataclasses.asdict(entry) for entry in entries if not entry.error]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps({"version": VERSION, "entries": good}))
        part.replace(path)
    except OSError:
        return  # a cache that cannot be kept costs time, nothing else
