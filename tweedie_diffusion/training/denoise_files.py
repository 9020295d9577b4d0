"""Denoise files: read, scale, denoise or draw from the posterior, scale back, write as what was read."""

import dataclasses
import hashlib
import itertools
import json
import math
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import tweedie_diffusion
from tweedie_diffusion.data.catalog import Entry, catalog, is_catalog
from tweedie_diffusion.data.errors import BadFiles, InputError
from tweedie_diffusion.data.files import check_output, read_stored, scaling_for
from tweedie_diffusion.data.flat_patches import cut_squares
from tweedie_diffusion.data.formats import Frames, write_frames
from tweedie_diffusion.data.formats.arrays import write_arrays
from tweedie_diffusion.data.image_files import FrameFiles, sift
from tweedie_diffusion.data.levels import estimate_level_of, read_table
from tweedie_diffusion.data.noise import noise_warning
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import ARRAYS, spaced
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.training.trained import BATCH, TrainedModel, digest
from tweedie_diffusion.training.unfinished import check_request, write_request

MOST_VALUES = 2**24  # of images held as floats at once
FRAMES, SQUARES, SIDE = 256, 1024, 64  # by which a level is judged: frames, squares cut from them, and pixels a side
REQUEST = ".denoising.json"  # in the folder of the results, until all are there
PICTURES = (".png", ".jpg", ".jpeg")  # written as PNG, which loses nothing


@dataclasses.dataclass(frozen=True)
class GivenNoise:
    """What is said of the noise of the images.

    Attributes:
        sigma: a standard deviation, or None.
        units: of it, of the table and of `sigma_tn`: "scaled" for images in [-1, 1], "data" for stored values.
        source: "auto" to estimate it for each file, the path of a .csv with columns file and sigma, or nothing: then it
            is `sigma_tn` of the .npz, or that of the training images.
    """

    sigma: float | None = None
    units: str = "scaled"
    source: str = ""

    @property
    def is_estimated(self) -> bool:
        """Whether the level is estimated from the images."""
        return self.sigma is None and self.source == "auto"

    @property
    def is_table(self) -> bool:
        """Whether `source` is a table of files."""
        return self.sigma is None and self.source not in ("", "auto")

    def to_unit(self, sigma: float, scaling: Scaling) -> float:
        """A stated level in [-1, 1]."""
        return float(np.max(scaling.sigma_to_unit(sigma) if self.units == "data" else sigma))


@dataclasses.dataclass(frozen=True)
class Task:
    """What is done to every image."""

    model: TrainedModel
    noise: GivenNoise
    num_samples: int
    seed: int

    def denoise(self, x_t: np.ndarray, levels: np.ndarray, scaling, indices: np.ndarray) -> dict[str, np.ndarray]:
        """`mean`, and with draws `samples` [n, N, ...] in the stored dtype and their spread `std`, float32.

        A draw depends on the seed and the index of its image alone.
        """
        found = {"mean": scaling.from_unit(self.model.denoise_all(x_t, levels))}
        if self.num_samples:
            draw = lambda n: self.model.posterior_sample(x_t, levels, n, seed=self.seed, indices=indices)
            draws = [draw(n) for n in range(self.num_samples)]
            found["samples"] = np.stack([scaling.from_unit(draw) for draw in draws])
            found["std"] = np.std([scaling.values(draw) for draw in draws], axis=0).astype(np.float32)
        return found


def denoise_files(
    model: TrainedModel, source: str, out: Path, *, noise: GivenNoise, num_samples: int, seed: int
) -> np.ndarray:
    """Write the posterior mean of every image of `source` to `out`, and `num_samples` draws from the posterior.

    An .npz keeps its arrays, and with draws gets `samples` [N, num_samples, ...] and `std` [N, ...], their spread.
    Image files come back under their names, in their format, dtype and units, with their metadata; draws as
    NAME_sample0, …, and the spread as NAME_std, of floats. Images larger than those of training are denoised in
    overlapping tiles. Every file that is written is whole; of a folder, the same call goes on at the files that are
    missing.

    Args:
        model: trained.
        source: .npz or .npy, an image file, or several: a folder, a pattern, an archive.
        out: of the kind of `source`: a file with its suffix (.png for .jpg), or a new or empty folder.
        noise: of the images.
        num_samples: draws an image.
        seed: of the draws.

    Returns:
        [N] the levels used, in [-1, 1].

    Raises:
        InputError: if something cannot be read, written, or has another shape; BadFiles naming every such file.
    """
    task = Task(model, noise, num_samples, seed)
    if model.facts.scaling.photons is not None and (noise.sigma is not None or noise.source):
        raise InputError("the model knows the noise of its images from data.photons: state none")
    if noise.sigma is not None and not (np.isfinite(noise.sigma) and noise.sigma > 0):
        raise InputError(f"--sigma must be > 0, a standard deviation (got {noise.sigma})")
    path = Path(source).expanduser()
    if path.suffix.lower() in ARRAYS and not path.is_dir():
        return _denoise_arrays(task, path, out)
    if not is_catalog(source):
        raise InputError(
            f"{source} is not an image, a folder of images, an .npz or an .npy"
            if path.exists()
            else f"{source} does not exist"
        )
    return _denoise_image_files(task, source, out)


def _denoise_arrays(task, path, out):
    read = read_stored(path)
    _check_shape(task.model, path, read.images.shape[1:])
    check_output(out, ARRAYS[:1] if task.num_samples else ARRAYS)
    _check_new(out)
    scaling = scaling_for(read.images.dtype, task.model.facts.scaling)
    x_t = scaling.to_unit(read.images)
    if task.noise.is_table:
        raise InputError(f"{task.noise.source} names files: put an array sigma_tn [{len(read.images)}] into the .npz")
    if read.sigma_tn is not None and task.noise.sigma is None and not task.noise.source:
        levels = np.array([task.noise.to_unit(sigma, scaling) for sigma in read.sigma_tn], np.float32)
    else:
        level = estimate_level_of(x_t, path.name) if task.noise.is_estimated else _one_level(task, scaling)
        levels = np.full(len(x_t), level, np.float32)
    _warn_of_level(task, levels, lambda: x_t)
    found = task.denoise(x_t, levels, scaling, np.arange(len(x_t)))
    as_read = lambda images: images[..., 0] if read.ndim == 3 else images
    arrays = {read.key: as_read(found["mean"])}
    if task.num_samples:
        arrays |= {"samples": as_read(np.moveaxis(found["samples"], 0, 1)), "std": as_read(found["std"])}
    if out.suffix.lower() == ".npz":
        note = np.array(f"posterior mean by {_note(task)}, sigma {_in_words(levels)}")
        arrays = read.others | arrays | {"note": note}
    with whole(out) as (unfinished,):
        write_arrays(unfinished, arrays)
    return levels


def _denoise_image_files(task, source, out):
    entries = catalog(source)
    good, excluded = sift(entries)
    small = [e for e in good if not task.model.takes(e.shape)]
    bad = [why for _, why in excluded] + [_shape_message(task.model, e.name, e.shape) for e in small]
    if bad:
        raise BadFiles(f"{len(bad)} of {len(entries)} files in {source} cannot be denoised: mend or remove them", bad)
    targets = _targets(source, out, good, task.num_samples)
    scaling = scaling_for(np.dtype(good[0].dtype), task.model.facts.scaling)
    levels_of = _levels_of_files(task, scaling, good)
    _warn_of_level(task, np.concatenate(list(levels_of.values())), lambda: _some_squares(good, scaling))
    request = _request(task, good, levels_of)
    begun = _is_several(source) and check_request(out / REQUEST, request, "remove it, or name another folder")
    left = [entry for entry in good if not (begun and targets[entry.name].exists())]
    if begun:
        tqdm.write(f"going on: {len(good) - len(left)} of {len(good)} files were denoised before", file=sys.stderr)
    note = _note(task)
    with tqdm(total=len(left), desc="denoising", unit=" files", delay=1.0, leave=False) as bar:
        for group in _groups(left):
            opened = [entry.open() for entry in group]
            levels = [levels_of[entry.name] for entry in group]
            indices = np.concatenate(list(map(_indices, group)))
            found = _denoise_frames(task, opened, np.concatenate(levels), scaling, indices)
            if _is_several(source) and not begun:  # now, so that what fails or is stopped before leaves nothing
                write_request(out / REQUEST, request)
                begun = True
            ends = np.cumsum([frames.count for frames in opened])
            for entry, frames, end, of_file in zip(group, opened, ends, levels, strict=True):
                rows = slice(end - frames.count, end)
                _write(targets[entry.name], found, rows, frames, f"{note}, sigma {_in_words(of_file)}")
            bar.update(len(group))
    if begun:
        (out / REQUEST).unlink()
    return np.concatenate(list(levels_of.values()))


def _request(task, entries: list[Entry], levels_of) -> dict:
    """All that decides the results of a folder."""
    sha256 = lambda data: hashlib.sha256(data).hexdigest()
    return {
        "model": digest(task.model),
        "files": sha256(json.dumps([(entry.name, entry.digest) for entry in entries]).encode()),
        "levels": sha256(np.concatenate(list(levels_of.values())).tobytes()),
        "num_samples": task.num_samples,
        "seed": task.seed,
    }


def _denoise_frames(task, opened: Sequence[Frames], levels, scaling, indices) -> dict[str, np.ndarray]:
    """`Task.denoise` of all frames of some files, of which a part at a time is held as floats."""
    places = [(frames, i) for frames in opened for i in range(frames.count)]
    size = int(np.clip(MOST_VALUES // math.prod(opened[0].shape), 1, BATCH))
    parts = []
    for first in range(0, len(places), size):
        rows = slice(first, first + size)
        x_t = scaling.to_unit(np.stack([frames.read(i) for frames, i in places[rows]]))
        parts.append(task.denoise(x_t, levels[rows], scaling, indices[rows]))
    axis = lambda name: 1 if name == "samples" else 0
    return {name: np.concatenate([part[name] for part in parts], axis=axis(name)) for name in parts[0]}


def _levels_of_files(task, scaling, entries: list[Entry]) -> dict[str, np.ndarray]:
    """The levels [frames] of every file, all of them before anything is written."""
    if task.noise.is_table:
        names = [entry.frame_name(i) for entry in entries for i in range(entry.frames)]
        stated = iter(read_table(Path(task.noise.source).expanduser(), names))
        of_file = lambda entry: [task.noise.to_unit(next(stated), scaling) for _ in range(entry.frames)]
    elif task.noise.is_estimated:
        of_file = lambda entry: estimate_level_of(scaling.to_unit(_some_frames(entry)), entry.name)
    else:
        level = _one_level(task, scaling)
        of_file = lambda entry: level
    return {entry.name: np.full(entry.frames, of_file(entry), np.float32) for entry in entries}


def _one_level(task, scaling) -> float:
    """σ in [-1, 1] of all images: what is stated, or that of the training images."""
    facts = task.model.facts
    if task.noise.sigma is not None:
        return task.noise.to_unit(task.noise.sigma, scaling)
    if not 0 < facts.sigma_tn_min == facts.sigma_tn_max:
        raise InputError("state the noise of the images: --sigma=…, in units of [-1, 1], or --sigma_from=auto")
    return facts.sigma_tn_max


def _warn_of_level(task, levels: np.ndarray, some: Callable[[], np.ndarray]):
    """Say so if the one level of all images is not that of their noise, by `some` of them in [-1, 1]."""
    if task.noise.is_estimated or task.model.facts.scaling.photons or not 0 < levels.min() == levels.max():
        return
    if warning := noise_warning(some(), float(levels[0]), name="the noise level σ"):
        tqdm.write(f"warning: {warning}", file=sys.stderr)


def _some_squares(entries: list[Entry], scaling) -> np.ndarray:
    """[n, side, side, C] in [-1, 1], from files of any size."""
    side = min(SIDE, *(n for entry in entries for n in entry.shape[:2]))
    files, rng = FrameFiles(entries, []), np.random.Generator(np.random.Philox(0))
    chosen = spaced(len(files), FRAMES)
    frames = (files.read(int(i)) for i in chosen)
    squares = [square for frame in frames for square in cut_squares(frame, (side, side), SQUARES // len(chosen), rng)]
    return scaling.to_unit(np.stack(squares))


def _some_frames(entry: Entry) -> np.ndarray:
    """As many frames of a file, evenly spaced, as its noise is estimated from."""
    frames = entry.open()
    chosen = spaced(frames.count, max(2, MOST_VALUES // math.prod(frames.shape)))
    return np.stack([frames.read(int(i)) for i in chosen])


def _indices(entry):
    """Of the frames of a file: the same for the same file, whatever lies beside it."""
    return (zlib.crc32(entry.name.encode(errors="surrogateescape")) + np.arange(entry.frames)).astype(np.uint32)


def _groups(entries: list[Entry]) -> Iterator[list[Entry]]:
    """Neighbouring files of one size, of about as many frames as a call takes."""
    for _, same in itertools.groupby(entries, lambda entry: entry.shape):
        group: list[Entry] = []
        for entry in same:
            group.append(entry)
            if sum(e.frames for e in group) >= BATCH:
                yield group
                group = []
        if group:
            yield group


def _write(target: Path, found, rows, like: Frames, note):
    """All results of a file, the mean last: where it is, all are."""
    target.parent.mkdir(parents=True, exist_ok=True)
    results = [
        (_numbered(target, n), draw[rows], like, f"posterior sample {n} by {note}")
        for n, draw in enumerate(found.get("samples", ()))
    ]
    if "std" in found:
        spread = found["std"][rows]
        plain = Frames(like.count, like.shape, spread.dtype, like.read, ndim=like.ndim)
        results.append((_spread(target), spread, plain, f"posterior standard deviation by {note}"))
    results.append((target, found["mean"][rows], like, f"posterior mean by {note}"))
    with whole(*(path for path, *_ in results)) as unfinished:
        for part, (path, frames, of, text) in zip(unfinished, results, strict=True):
            try:
                write_frames(part, frames, of, text)
            except Exception as error:  # libraries of formats raise whatever they like for a header
                raise InputError(f"{path} cannot be written ({error})") from error


def _note(task):
    versions = f"tweedie_diffusion {tweedie_diffusion.__version__}, jax {jax.__version__}"
    return f"{versions}, model {digest(task.model)}, seed {task.seed}"


def _targets(source, out, entries, num_samples) -> dict[str, Path]:
    """Where the result of every file goes; none may be in the way of another, or of what exists."""
    path, several = Path(source).expanduser(), _is_several(source)
    if not several:
        check_output(out, (_written_suffix(path).lower(),))
        targets = {entries[0].name: out}
    else:
        begun = (out / REQUEST).is_file()
        if out.exists() and not begun and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out} exists already: name a new folder for the results")
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{out} lies in {source}, with which it would be read next time: name a folder elsewhere")
        targets = {e.name: (out / e.name).with_suffix(_written_suffix(Path(e.name))) for e in entries}
    taken: dict[Path, str] = {}
    for name, target in targets.items():
        more = [_numbered(target, n) for n in range(num_samples)] + ([_spread(target)] if num_samples else [])
        for file in (target, *more):
            if file in taken and taken[file] != name:
                raise InputError(f"the results of {taken[file]} and {name} would be written to one file: rename one")
            taken[file] = name
            if not several:
                _check_new(file)
    return targets


def _is_several(source):
    """Whether the results go to a folder."""
    path = Path(source).expanduser()
    return not path.is_file() or path.suffix.lower() == ".tar"


def _written_suffix(path):
    return ".png" if path.suffix.lower() in PICTURES else path.suffix


def _numbered(path, n):
    """NAME.png -> NAME_sampleN.png."""
    return path.with_stem(f"{path.stem}_sample{n}")


def _spread(path):
    """NAME.png -> NAME_std.tif, for a PNG holds no floats; other formats do."""
    spread = path.with_stem(f"{path.stem}_std")
    return spread.with_suffix(".tif") if spread.suffix.lower() in PICTURES else spread


def _in_words(levels):
    low, high = f"{levels.min():g}", f"{levels.max():g}"
    return low if low == high else f"{low} to {high}"


def _check_new(path):
    if path.exists():
        raise InputError(f"{path} exists already: name another file, or remove it")


def _check_shape(model, name, shape):
    if not model.takes(shape):
        raise InputError(_shape_message(model, name, shape))


def _shape_message(model, name, shape):
    words = lambda shape: "×".join(map(str, shape))
    larger = " or larger" if len(model.facts.shape) == 3 else ""
    return f"{name} is {words(shape)}, and the model takes {words(model.facts.shape)}{larger}"
