"""Images of a folder, a pattern, an archive or one file, in any format: every file one or more frames."""

import bisect
import itertools
import threading
from collections import Counter
from collections.abc import Iterator

import numpy as np

from tweedie_diffusion.data.catalog import Entry, catalog
from tweedie_diffusion.data.errors import BadFiles, InputError
from tweedie_diffusion.data.formats import Frames

OPENED, OPENED_BYTES = 16, 2**26  # stacks each thread remembers, and how large all may be: some are read whole


class FrameFiles:
    """All frames of the good entries of a catalog by index, in the order of names.

    Attributes:
        entries: the files.
        excluded: [(name, why)] of those left out.
        channels, dtype: of every frame.
        shape: [H, W, C], or [0, 0, C] if sizes differ.
    """

    def __init__(self, entries: list[Entry], excluded: list[tuple[str, str]]):
        """`entries` are good and of one kind."""
        self.entries, self.excluded = entries, excluded
        self._ends = list(itertools.accumulate(entry.frames for entry in entries))
        self._opened = threading.local()
        sizes = {entry.shape for entry in entries}
        self.channels, self.dtype = entries[0].shape[-1], np.dtype(entries[0].dtype)
        self.shape = entries[0].shape if len(sizes) == 1 else (0, 0, self.channels)

    def __len__(self) -> int:
        return self._ends[-1]

    def first(self, file: int) -> int:
        """The index of the first frame of a file."""
        return self._ends[file] - self.entries[file].frames

    def place(self, index: int) -> tuple[int, int]:
        """The number of the file, and of the frame in it."""
        file = bisect.bisect_right(self._ends, index)
        return file, index - self.first(file)

    def name(self, index: int) -> str:
        """Of the frame: that of its file, and its number if there are several."""
        file, frame = self.place(index)
        return self.entries[file].frame_name(frame)

    def read(self, index: int) -> np.ndarray:
        """[H, W, C] as stored; InputError if its file is not the one that was looked at."""
        file, frame = self.place(index)
        try:
            return self._open(file).read(frame)
        finally:  # also for what changed meanwhile, and instead of what a decoder says of it
            self.entries[file].check()

    def contents(self) -> Iterator[str]:
        """Names, relative to the source, and digests of all files: the same wherever the source lies."""
        for entry in self.entries:
            yield entry.name
            yield entry.digest

    def without(self, left_out: list[tuple[str, str]]) -> "FrameFiles":
        """The same but for some files [(name, why)], which are excluded.

        Raises:
            BadFiles: if none is left.
        """
        names = {name for name, _ in left_out}
        kept, excluded = [e for e in self.entries if e.name not in names], sorted(self.excluded + left_out)
        if not kept:
            raise BadFiles("no file can be used", [why for _, why in excluded])
        return FrameFiles(kept, excluded)

    def _open(self, file: int) -> Frames:
        entry = self.entries[file]
        if entry.frames == 1:
            return entry.open()
        stacks = vars(self._opened).setdefault("stacks", {})
        if file in stacks:
            entry.check()  # before it is read: a mapped file that was cut off would end the process
            return stacks[file]
        size = entry.size + sum(self.entries[other].size for other in stacks)
        if len(stacks) >= OPENED or size > OPENED_BYTES:
            stacks.clear()
        stacks[file] = entry.open()
        return stacks[file]


def open_frame_files(source: str, *, side: int = 0, lenient: bool = False) -> FrameFiles:
    """The frames of every image file of `source`.

    Args:
        source: what `catalog` takes.
        side: of squares that will be made of them; 0 if they will be taken whole. Where files are refused, those that
            do not suit this are named with them; else `large_enough` and `of_one_size` tell.
        lenient: leave out files that cannot be used, instead of refusing them all.

    Raises:
        BadFiles: naming every file that cannot be read, or has other channels or another dtype than most.
    """
    entries = catalog(source)
    good, excluded = sift(entries)
    if excluded and not lenient:
        files = FrameFiles(good, excluded) if good else None
        excluded = sorted(excluded + (_small(files, side) if side else _odd(files))) if files else excluded
        raise BadFiles(
            f"{len(excluded)} of {len(entries)} files in {source} cannot be used: mend or remove them, "
            "or set data.lenient=True to go on without",
            [why for _, why in excluded],
        )
    if not good:
        raise BadFiles(f"no file in {source} can be used", [why for _, why in excluded])
    return FrameFiles(good, excluded)


def sift(entries: list[Entry]) -> tuple[list[Entry], list[tuple[str, str]]]:
    """The entries of the commonest channels and dtype, and [(name, why not)] of the others."""
    readable = [entry for entry in entries if not entry.error]
    kinds = Counter((entry.shape[-1], entry.dtype) for entry in readable)
    common = max(kinds, key=lambda kind: kinds[kind], default=(0, ""))
    good, excluded = [], []
    for entry in entries:
        if entry.error:
            excluded.append((entry.name, entry.error))
        elif (entry.shape[-1], entry.dtype) != common:
            excluded.append((entry.name, f"{entry.name} is {kind_in_words(entry)}, most are {_words(*common)}"))
        else:
            good.append(entry)
    return good, excluded


def kind_in_words(entry: Entry) -> str:
    """'3 channels of uint8'."""
    return _words(entry.shape[-1], entry.dtype)


def large_enough(files: FrameFiles, side: int, setting: str, *, lenient: bool = False) -> FrameFiles:
    """The files of which squares of `side` can be made, as a setting asks for; if lenient, without the others.

    Raises:
        BadFiles: naming each that is smaller.
    """
    small = _small(files, side)
    if small and not lenient:
        raise BadFiles(
            f"{len(small)} files are smaller than {setting}={side}: lower it, remove them, "
            "or set data.lenient=True to go on without",
            [why for _, why in small],
        )
    return files.without(small) if small else files


def of_one_size(files: FrameFiles, *, lenient: bool = False) -> FrameFiles:
    """The files, if they are of one size; if lenient and most are, without the others.

    Raises:
        BadFiles: naming each that is of another size than most; InputError if there is no such size.
    """
    sizes = Counter(entry.shape[:2] for entry in files.entries)
    common, count = sizes.most_common(1)[0]
    if count == len(files.entries):
        return files
    if 2 * count <= len(files.entries):
        raise _different_sizes(files, sizes)
    odd = _odd(files)
    if not lenient:
        raise BadFiles(
            f"{len(odd)} files are not {common[0]}×{common[1]}, as most are: remove them, set data.lenient=True to "
            f"go on without, or {_squares(files)}",
            [why for _, why in odd],
        )
    return files.without(odd)


def _small(files, side):
    return [(entry.name, _size_in_words(entry)) for entry in files.entries if min(entry.shape[:2]) < side]


def _odd(files):
    """Those of another size than most; none if most are of none."""
    common, count = Counter(entry.shape[:2] for entry in files.entries).most_common(1)[0]
    several = 2 * count > len(files.entries)
    return [(e.name, _size_in_words(e)) for e in files.entries if several and e.shape[:2] != common]


def _different_sizes(files, sizes):
    """What to say of images of several sizes where one is needed."""
    (one, _), (other, _) = sizes.most_common(2)
    return InputError(f"the images differ in size ({one[0]}×{one[1]}, {other[0]}×{other[1]}, …): {_squares(files)}")


def _squares(files):
    side = _power_of_two(min(min(entry.shape[:2]) for entry in files.entries))
    return f"train on squares cut from them, e.g. --config.data.crop={side}, or, clean ones only, set data.image_size"


def _size_in_words(entry):
    return f"{entry.name} is {entry.shape[0]}×{entry.shape[1]}"


def _power_of_two(size):
    return 1 << max(size.bit_length() - 1, 1) if size < 64 else 64


def _words(channels, dtype):
    return f"{channels} channel{'s' if channels > 1 else ''} of {dtype}"
