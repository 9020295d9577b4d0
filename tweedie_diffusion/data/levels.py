"""The noise level of every image: stated, in a table of files, or estimated."""

import csv
import dataclasses
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import BadFiles, InputError
from tweedie_diffusion.data.flat_patches import cut_squares
from tweedie_diffusion.data.noise import estimate_sigma
from tweedie_diffusion.data.sources import Images, spaced

MOST_IMAGES, MOST_VALUES, SIDE = 2048, 2**24, 128  # looked at to estimate a level: how many, and squares of which side
FEW, SQUARE = 64, 32  # images, and the side of the squares that fewer are cut into, several of each


@dataclasses.dataclass(frozen=True)
class StatedNoise:
    """What is said of the noise of images.

    Attributes:
        sigma: a standard deviation, unless it comes from elsewhere.
        units: of it, and of the table: "scaled" for images in [-1, 1], "data" for stored values.
        source: "" for `sigma`; "auto" to estimate it; or the path of a .csv with columns file and sigma, 0 for a clean
            image.
        channel_sigmas: of each channel, in stored values.
    """

    sigma: float
    units: str = "scaled"
    source: str = ""
    channel_sigmas: tuple[float, ...] = ()


def resolve(stated: StatedNoise, images: Images) -> tuple[float, Images]:
    """The level that holds for all images, in [-1, 1], and the images, with their own levels if a table states them.

    Raises:
        InputError: if the table cannot be read, or misses or repeats a file; if there is too little to estimate from.
    """
    scaling = images.scaling
    if scaling.photons is not None:  # stabilised to 1
        return float(scaling.sigma_to_unit(1.0)), images
    if stated.channel_sigmas:  # scaled to be equal
        return float(scaling.sigma_to_unit(stated.channel_sigmas)[0]), images
    if stated.source == "auto":
        return estimate_level(images), images
    to_unit = scaling.sigma_to_unit if stated.units == "data" else np.asarray
    if stated.source:
        if images.name is None:
            raise InputError(
                f"{stated.source} names files, and the images are none: put an array sigma_tn [count] into the .npz"
            )
        names = [images.name(i) for i in range(images.count)]
        stated_levels = read_table(Path(stated.source).expanduser(), names)
        levels = np.array([np.max(to_unit(level)) for level in stated_levels], np.float32)
        return float(levels.max()), dataclasses.replace(images, sigma_tn=levels)
    if images.sigma_tn is not None:
        levels = np.array([np.max(to_unit(level)) for level in images.sigma_tn], np.float32)
        images = dataclasses.replace(images, sigma_tn=levels)
    return float(np.max(to_unit(stated.sigma))), images


def estimate_level(images: Images) -> float:
    """σ in [-1, 1] from the images.

    Raises:
        InputError: if they are too few or too small, or their noise is not of one level, or not white.
    """
    from tweedie_diffusion.data.noise_law import find_noise_law  # two seconds of SciPy that few runs need
    from tweedie_diffusion.data.verdicts import HOLDS, VERDICTS, judge

    stored = sample_squares(images)
    if stored.ndim == 2:
        found, verdict = estimate_sigma(stored), HOLDS
    else:
        law = find_noise_law(stored)
        found, verdict = law.noise, judge(law, images.scaling, stored)
    if found is None:
        raise InputError("the images are too few or too small to estimate their noise: state data.sigma_tn")
    if verdict != HOLDS:
        raise InputError(
            f"data.sigma_from=auto: {VERDICTS[verdict]} More by python -m tweedie_diffusion.inspect_data; "
            "to train all the same, state data.sigma_tn"
        )
    return round(float(np.max(images.scaling.sigma_to_unit(found.sigma))), 5)


def estimate_level_of(x: np.ndarray, name: str) -> float:
    """σ in [-1, 1] of the images of one file [N, H, W, C], which are cut into squares, or of vectors [N, D].

    Raises:
        InputError: if they are too few or too small.
    """
    if x.ndim == 4:
        side = min(SQUARE, *x.shape[1:3])
        rows, columns = (size // side for size in x.shape[1:3])
        squares = x[:, : rows * side, : columns * side].reshape(len(x), rows, side, columns, side, -1)
        x = np.moveaxis(squares, 2, 3).reshape(-1, side, side, x.shape[-1])
    found = estimate_sigma(x)
    if found is None:
        raise InputError(f"{name} is too small to estimate its noise: state --sigma")
    return found.sigma


def sample_squares(images: Images) -> np.ndarray:
    """[N, H, W, C] stored values: squares of at most 2 048 images, several of each if few. Of vectors, [N, D]."""
    side = SIDE if images.count >= FEW else SQUARE
    size = [min(side, n) for n in images.shape[:2]] if len(images.shape) == 3 else images.shape
    values = int(np.prod(size)) * images.shape[-1] if len(images.shape) == 3 else images.shape[0]
    chosen = spaced(images.count, min(MOST_IMAGES, max(2, MOST_VALUES // values)))
    read = (images.read(int(i)) for i in chosen)  # a large image is let go as soon as it is cut
    if len(images.shape) == 3:
        most, rng = -(-FEW // len(chosen)), np.random.Generator(np.random.Philox(0))
        read = (square.copy() for image in read for square in cut_squares(image, size, most, rng))
    return np.stack(list(read))


def read_table(path: Path, names: list[str]) -> np.ndarray:
    """[len(names)] levels from a .csv with the columns file and sigma; a file's level is that of all its frames.

    Raises:
        InputError: if it cannot be read; BadFiles naming what is missing or repeated.
    """
    levels: dict[str, float] = {}
    repeated = []
    for line, name, text in _lines(path):
        try:
            level = float(text)
        except (ValueError, TypeError):  # TypeError: a line of one cell
            level = np.nan
        if not (np.isfinite(level) and level >= 0):
            raise InputError(f"{path}, line {line}: sigma must be a number >= 0 (got {text!r})")
        if name in levels:
            repeated.append(f"{name} is repeated in line {line}")
        levels[name] = level
    found = [levels.get(name, levels.get(name.rpartition(":")[0])) for name in names]
    file_of = lambda name: name.rpartition(":")[0] or name
    partly = {file_of(name) for name, level in zip(names, found, strict=True) if level is not None}
    unstated = (name for name, level in zip(names, found, strict=True) if level is None)
    whole = dict.fromkeys(name if file_of(name) in partly else file_of(name) for name in unstated)
    missing = [f"{name} is missing" for name in whole]
    if missing or repeated:
        raise BadFiles(
            f"{path} must state every image once: {len(missing)} are missing, {len(repeated)} repeated",
            missing + repeated,
        )
    return np.array(found, np.float64)


def _lines(path):
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"file", "sigma"} <= set(rows.fieldnames or ()):
                raise InputError(f"{path} must begin with a line of column names, file,sigma")
            return [(rows.line_num, row["file"] or "", row["sigma"]) for row in rows]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"the table {path} cannot be read ({error})") from error
