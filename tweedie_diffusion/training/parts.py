"""Samples in parts: each is kept as soon as it is drawn, so that the same command goes on at the missing one."""

import contextlib
import dataclasses
import hashlib
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.training.trained import BATCH, TrainedModel, digest, rows_a_device
from tweedie_diffusion.training.unfinished import check_request, write_request

# OUT.parts/                      beside OUT, until that is written
#   request.json                  all that decides the samples
#   part_00000_SHA256.f32         images 0, 1, … as float32, little-endian, and the digest of these bytes
PART = 16 * BATCH  # images: whole batches, so that an image is drawn in the same company as in one go
VALUES = np.dtype("<f4")
REQUEST = "request.json"

Safe = Callable[[str], contextlib.AbstractContextManager]  # around what may be left at any moment; the text says why


@dataclasses.dataclass(frozen=True)
class Request:
    """All that decides samples 0 … num − 1.

    Attributes:
        model: its `digest`.
        shape: of one image.
        num: how many.
        part: images of a part.
        settings: keywords of `TrainedModel.sample`.
    """

    model: str
    shape: tuple[int, ...]
    num: int
    part: int
    settings: dict[str, Any]

    @property
    def count(self) -> int:
        """How many parts."""
        return -(-self.num // self.part)

    def rows(self, k: int) -> range:
        """Numbers of the images of part k."""
        return range(k * self.part, min((k + 1) * self.part, self.num))

    def as_json(self) -> dict:
        """As it is kept."""
        return {"model": self.model, "shape": list(self.shape), "num": self.num, "part": self.part, **self.settings}


def request_of(model: TrainedModel, num: int, *, part: int = PART, **settings) -> Request:
    """The request of model.sample(range(num), **settings), in parts.

    Raises:
        ValueError: if a part is not of whole batches.
        InputError: for settings that `TrainedModel.sample` refuses.
    """
    if part % (size := rows_a_device(model.facts.shape)):
        raise ValueError(f"a part must be a multiple of {size} images (got {part})")
    model.check_sampling(**{name: settings[name] for name in settings if name not in ("seed", "step")})
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}  # as JSON
    return Request(digest(model), tuple(model.facts.shape), num, part, plain)


def folder_of(out: Path) -> Path:
    """Where the parts of an output file are kept."""
    return out.with_name(f"{out.name}.parts")


def sample_in_parts(
    model: TrainedModel, request: Request, folder: Path, safe: Safe = contextlib.nullcontext
) -> Iterator[np.ndarray]:
    """The samples of a request, a part at a time: one that `folder` holds is read, any other is drawn and kept there.

    A part that was damaged since is drawn again. A request of a single part is never kept.

    Args:
        model: of the request.
        request: of `request_of`.
        folder: of `folder_of`; made when the first part is drawn, and left for `remove_parts`.
        safe: what a part is drawn within, with words on what is kept by then.

    Returns:
        An iterator of [≤ part, ...] float32.

    Raises:
        InputError: at once, if the folder holds another request.
    """
    _check_folder(folder, request)
    return _parts(model, request, folder, safe)


def remove_parts(folder: Path) -> None:
    """Remove a folder of parts, if there is one: its request last, so that the same command may always be given."""
    if folder.is_dir():
        for path in _kept(folder).values():
            path.unlink()
        shutil.rmtree(folder)


def _parts(model, request, folder, safe):
    kept = _kept(folder)
    if kept:
        tqdm.write(f"going on: {len(kept)} of {request.count} parts were drawn before", file=sys.stderr)
    with tqdm(total=request.count, desc="sampling", unit=" parts", leave=False, disable=request.count == 1) as bar:
        for k in range(request.count):
            images = _read(kept[k], request, k) if k in kept else None
            if images is None:
                if k in kept:
                    tqdm.write(f"warning: {kept[k]} is damaged: it is drawn again", file=sys.stderr)
                    kept.pop(k).unlink(missing_ok=True)
                with safe(_in_words(request, folder, len(kept))):
                    images = model.sample(request.rows(k), **request.settings)
                    if request.count > 1:
                        kept[k] = _keep(images, request, k, folder)
            yield images
            bar.update()


def _in_words(request, folder, kept):
    """What is kept when sampling stops."""
    if request.count == 1:
        return "stopped while sampling: nothing is written yet"
    where = f" are kept in {folder}" if kept else " are drawn yet"
    return f"stopped while sampling: {kept} of {request.count} parts{where}"


def _check_folder(folder, request):
    """Refuse a folder of another request, or of something else."""
    mend = "remove it, or choose another --out"
    if check_request(folder / REQUEST, request.as_json(), mend) or not folder.exists():
        return
    if any(path.name != f".{Path(REQUEST).stem}.part.json" for path in folder.iterdir()):  # that one: a kill left it
        raise InputError(f"{folder} holds no parts of samples, which would be put there: {mend}")


def _kept(folder: Path) -> dict[int, Path]:
    """The file of each part that is there, by its number."""
    names = {path: re.fullmatch(r"part_(\d+)_[0-9a-f]{64}\.f32", path.name) for path in folder.glob("part_*")}
    return {int(name[1]): path for path, name in names.items() if name}


def _keep(images: np.ndarray, request, k, folder) -> Path:
    """Write part k, whole."""
    if not (folder / REQUEST).is_file():
        write_request(folder / REQUEST, request.as_json())
    data = np.ascontiguousarray(images, VALUES).data
    path = folder / f"part_{k:05d}_{hashlib.sha256(data).hexdigest()}.f32"
    with whole(path) as (unfinished,):
        unfinished.write_bytes(data)
    return path


def _read(path: Path, request, k) -> np.ndarray | None:
    """Part k, or None if the bytes are not those that were written."""
    shape = (len(request.rows(k)), *request.shape)
    try:
        if path.stat().st_size != VALUES.itemsize * math.prod(shape):  # before anything is held
            return None
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest() != path.stem.split("_")[2]:
        return None
    return np.frombuffer(data, VALUES).reshape(shape)
