"""Many images, written as they come: a folder of them, or tar archives with their classes beside them."""

import io
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.formats import Frames, module_of

DIGITS = 6  # of a name, and more where there are more images
NUMBERED = re.compile(r"%(0\d)?d")  # in the name of an archive: its place among several


def suffix_for(dtype, shape: tuple[int, ...]) -> str:
    """.png where it holds images [H, W, C] of a dtype in their own values, 8 bits or 16 of grey; else .tif."""
    depth, channels = np.dtype(dtype), shape[-1]
    return ".png" if (depth == np.uint8 and channels in (1, 3)) or (depth == np.uint16 and channels == 1) else ".tif"


def encoded(frame: np.ndarray, suffix: str, note: str) -> bytes:
    """An image [H, W, C] as the bytes of a file: the same for the same image and note."""
    like = Frames(1, frame.shape, frame.dtype, lambda _: frame)
    with io.BytesIO() as file:
        module_of(f"image{suffix}").write_frames(file, frame[None], like, note)
        return file.getvalue()


def write_folder(folder: Path, images: Iterable[np.ndarray], count: int, note: str) -> None:
    """000000.png, 000001.png, … into a folder that is there, of `count` images in parts [n, H, W, C]."""
    for name, frame in _named(images, count):
        suffix = suffix_for(frame.dtype, frame.shape)
        (folder / f"{name}{suffix}").write_bytes(encoded(frame, suffix, note))


def name_of(i: int, count: int) -> str:
    """What image i of so many is called."""
    return f"{i:0{max(DIGITS, len(str(count - 1)))}d}"


def shard_path(out: Path, k: int) -> Path:
    """The name of archive k of several: `out` with k in the place of %05d."""
    return out.with_name(NUMBERED.sub(lambda found: found[0] % k, out.name, count=1))


def shard_paths(out: Path, count: int, size: int) -> list[Path]:
    """The archives of `count` images: `out` alone, or, with %05d in its name, one for every `size` of them."""
    if not NUMBERED.search(out.name):
        return [out]
    return [shard_path(out, k) for k in range(-(-count // size))]


def write_shards(
    paths: Sequence[Path], images: Iterable[np.ndarray], labels: np.ndarray | None, count: int, size: int, note: str
) -> None:
    """Tar archives of `size` images each, the last of what is left: NAME.png, and NAME.cls, the class in digits, if
    there are labels [count]. (The layout of WebDataset: what belongs together has one name, and lies together.)

    The bytes depend on the images, the labels and the note alone: no time, no user.
    """
    named = enumerate(_named(images, count))
    for path in paths:
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
            for i, (name, frame) in itertools.islice(named, size):
                suffix = suffix_for(frame.dtype, frame.shape)
                _add(archive, name + suffix, encoded(frame, suffix, note))
                if labels is not None:
                    _add(archive, f"{name}.cls", str(labels[i]).encode())


def _add(archive, name, data):
    member = tarfile.TarInfo(name)  # of no time, and nobody's
    member.size, member.mode = len(data), 0o644
    archive.addfile(member, io.BytesIO(data))
    archive.members.clear()  # or all that was written is remembered


def _named(images: Iterable[np.ndarray], count: int) -> Iterator[tuple[str, np.ndarray]]:
    """Each image of parts, with its number as a name."""
    for i, frame in enumerate(itertools.chain.from_iterable(images)):
        yield name_of(i, count), frame
