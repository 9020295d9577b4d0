"""What the noise of image files is, and whether the method applies to it."""

import dataclasses
import shlex
from collections import Counter
from typing import Any

import numpy as np
from scipy.stats import norm

from tweedie_diffusion.data.catalog import catalog, duplicates, other_kinds
from tweedie_diffusion.data.errors import BadFiles
from tweedie_diffusion.data.flat_patches import cut_squares
from tweedie_diffusion.data.image_files import FrameFiles, sift
from tweedie_diffusion.data.noise import NoiseEstimate
from tweedie_diffusion.data.noise_checks import are_repeats, clipped_fractions, constant_fraction, quantisation_step
from tweedie_diffusion.data.noise_law import NoiseLaw, find_noise_law
from tweedie_diffusion.data.scaling import Scaling, ScalingRule
from tweedie_diffusion.data.verdicts import AFTER_TRANSFORM, HOLDS, NO_NOISE, VERDICTS, judge

MOST_SQUARES, MOST_VALUES = 4096, 2**24  # looked at
FEW, SIDE, SIDE_OF_FEW = 64, 256, 64  # frames, and the sides of the squares cut from more, or fewer, of them
LARGE, SQUARE, HALVED = 128, 64, 4  # pixels a side: from which on a model is trained on squares, of which side, and
# what divides the side of an image that the network of configs/folder_noisy.py halves twice
HELD_OUT, LOWEST = 0.1, 0.02  # of that config
MOST_CONSTANT = 0.01  # of the area
UNLIKE = 2.0  # times the spread of single images' levels by chance
HAAR_ERROR = 2.34  # standard error of log σ by wavelets, times √values
PERCENTILES = (0.1, 99.9)  # of the values, that become −1 and 1 if there is no usual range
FEWEST_PAIRS, MOST_PAIRS = 8, 512  # of successive frames
FEWEST_TO_SPLIT = 3  # images: two are held out


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What was found.

    Attributes:
        source: of the images.
        files, frames: how many can be used.
        sizes, kinds: [H, W] and (channels, dtype) of files, and how many of each.
        unreadable, odd: [(file, why)] that cannot be read, or are not like most.
        duplicates: groups of files with the same bytes.
        other_kinds: suffixes of files that are no images, and how many of each.
        low, high, step: the least and greatest stored value, and the least difference of two.
        scaling: to [-1, 1], as the config lines have it.
        law: of the noise.
        clipped: parts of the values at the least and the greatest one.
        constant: the part of the images that has one value exactly, as masks and empty places have.
        verdict: one of VERDICTS.
        squares: [N, H, W, C] stored values, for pictures.
    """

    source: str
    files: int
    frames: int
    sizes: Counter
    kinds: Counter
    unreadable: list[tuple[str, str]]
    odd: list[tuple[str, str]]
    duplicates: list[list[str]]
    other_kinds: Counter
    low: float
    high: float
    step: float
    scaling: Scaling
    law: NoiseLaw
    clipped: tuple[float, float]
    constant: float
    verdict: str
    squares: np.ndarray

    @property
    def sigma_scaled(self) -> float | None:
        """σ_tn, in [-1, 1]."""
        if self.law.noise is None:
            return None
        stabilised = 1.0 if self.law.photons else self.law.noise.sigma
        return float(np.max(self.scaling.sigma_to_unit(stabilised)))

    @property
    def sigma(self) -> NoiseEstimate | None:
        """In stored values; of noise that grows with the signal, at the median of the values."""
        noise, photons = self.law.noise, self.law.photons
        if noise is None or photons is None:
            return noise
        typical = float(np.sqrt(photons.variance(np.median(self.squares))))
        low, high = typical * min(noise.low, 1.0), typical * max(noise.high, 1.0)
        return NoiseEstimate(typical, low, high, noise.source)

    def to_dict(self) -> dict:
        """For JSON: the fields that a program would read."""
        noise = self.sigma
        return {
            "source": self.source,
            "count": self.frames,
            "files": self.files,
            "shape": [*self.sizes.most_common(1)[0][0], self.kinds.most_common(1)[0][0][0]],
            "sizes": len(self.sizes),
            "dtype": self.kinds.most_common(1)[0][0][1],
            "low": self.low,
            "high": self.high,
            "sigma": noise and noise.sigma,
            "sigma_scaled": self.sigma_scaled,
            "sigma_interval": noise and [noise.low, noise.high],
            "sigma_source": noise and noise.source,
            "channel_sigmas": list(self.law.channel_sigmas),
            "gain": self.law.photons and self.law.photons.gain,
            "gain_interval": self.law.gain_interval,
            "offset": self.law.photons and self.law.photons.offset,
            "read_noise": self.law.photons and self.law.photons.read,
            "neighbour_correlation": self.law.neighbour_correlation,
            "clipped_fraction": max(self.clipped),
            "constant_fraction": self.constant,
            "unreadable": [name for name, _ in self.unreadable],
            "odd": [name for name, _ in self.odd],
            "duplicates": self.duplicates,
            "other_kinds": dict(self.other_kinds),
            "verdict": self.verdict,
            "range": [float(v) for v in self.scaling.noisy_values([-1.0, 1.0])],
            "settings": self.settings(),
        }

    def settings(self) -> dict[str, Any] | None:
        """What configs/folder_noisy.py needs to know of these images, by the names of its settings; None if the method
        does not apply.
        """
        if self.verdict not in (HOLDS, AFTER_TRANSFORM, NO_NOISE):
            return None
        usual = self.scaling.bounded and not self.law.photons
        found: dict[str, Any] = {
            "data.source": self.source,
            "data.noisy_already": self.verdict != NO_NOISE,
            "data.crop": self._crop(),
            "data.range": (self.scaling.low, self.scaling.high) if usual else (),
            "data.range_percentiles": () if usual or self.law.photons else PERCENTILES,
            "data.sigma_from": "",
        }
        if self.frames * HELD_OUT < 2:
            found["data.held_out"] = _short(min(2 / self.frames, 0.5))
        if self.verdict == NO_NOISE:
            return found | {"data.sigma_tn": 0.2}
        assert self.law.noise is not None  # or the verdict were another
        assert self.sigma_scaled is not None
        if self.sigma_scaled < 2 * LOWEST:
            found["consistency.sigma_min"] = _short(self.sigma_scaled / 5)
        if self.law.photons:
            return found | {"data.photons": tuple(_short(v) for v in dataclasses.astuple(self.law.photons))}
        if _differ(self.law.channel_sigmas):
            return found | {"data.channel_sigmas": tuple(_short(s) for s in self.law.channel_sigmas)}
        return found | {"data.sigma_units": "data", "data.sigma_tn": _short(self.law.noise.sigma)}

    def _crop(self):
        """The side of the squares that training can take, or 0 for whole images."""
        sizes = [*self.sizes]
        smallest, largest = min(map(min, sizes)), max(map(max, sizes))
        if len(sizes) == 1 and largest <= LARGE and all(n % HALVED == 0 for n in sizes[0]):
            return 0
        return min(smallest // HALVED * HALVED, SQUARE)


def inspect(source: str) -> Inspection:
    """Look at every file of `source`, and at the noise of at most 4 096 squares of its images.

    Args:
        source: a folder, a pattern, an archive or one file.

    Raises:
        InputError: if there is no image; BadFiles if none can be used.
    """
    entries = catalog(source)
    good, excluded = sift(entries)
    if not good:
        raise BadFiles(f"no file in {source} can be used", [why for _, why in excluded])
    files = FrameFiles(good, excluded)
    unread = {entry.name for entry in entries if entry.error}
    squares = _squares(files)
    law = find_noise_law(squares, _pairs(files))
    scaling = _scaling(squares, law)
    return Inspection(
        source=source,
        files=len(good),
        frames=len(files),
        sizes=Counter(entry.shape[:2] for entry in good),
        kinds=Counter((entry.shape[-1], entry.dtype) for entry in entries if not entry.error),
        unreadable=[bad for bad in excluded if bad[0] in unread],
        odd=[bad for bad in excluded if bad[0] not in unread],
        duplicates=duplicates(entries),
        other_kinds=other_kinds(source),
        low=float(squares.min()),
        high=float(squares.max()),
        step=quantisation_step(squares),
        scaling=scaling,
        law=law,
        clipped=clipped_fractions(squares),
        constant=constant_fraction(squares),
        verdict=judge(law, scaling, squares),
        squares=squares,
    )


def in_words(found: Inspection) -> str:
    """The findings as text."""
    channels, dtype = found.kinds.most_common(1)[0][0]
    (height, width), _ = found.sizes.most_common(1)[0]
    size = f"{height}×{width}" + (f" and {len(found.sizes) - 1} other sizes" if len(found.sizes) > 1 else "")
    many = _counted(found.frames, "image")
    many += f" in {_counted(found.files, 'file')}" if found.frames != found.files else ""
    lines = [
        f"{found.source}",
        f"  {many}, {size}, {_counted(channels, 'channel')} of {dtype}",
        f"  values from {found.low:g} to {found.high:g} in steps of {found.step:g}",
    ]
    lines += [f"  unusable: {why}" for _, why in (*found.unreadable, *found.odd)]
    lines += [f"  the same file: {', '.join(names)}" for names in found.duplicates]
    if found.other_kinds:
        kinds = ", ".join(
            f"{count} {suffix or 'without a suffix'}" for suffix, count in found.other_kinds.most_common()
        )
        lines += [f"  left out, for they are of no format that is read: {kinds}"]
    lines += ["", *_noise_lines(found), "", VERDICTS[found.verdict]]
    settings = found.settings()
    if settings is None:
        return "\n".join(lines)
    lines += ["", "For a config:", *(f"  config.{name} = {value!r}" for name, value in settings.items())]
    if found.frames < FEWEST_TO_SPLIT:
        return "\n".join([*lines, "", f"To train, which holds out two images, cut {found.source} into several files."])
    command = "python -m tweedie_diffusion.main --config=configs/folder_noisy.py --workdir=runs/mine"
    flags = (shlex.quote(f"--config.{name}={value}") for name, value in settings.items())
    lines += ["", "Or train at once, in a checkout of the repository (on a CPU with configs/folder_noisy.py:quick):"]
    return "\n".join([*lines, " \\\n    ".join([f"  {command}", *flags])])


def _counted(number, what):
    return f"{number} {what}{'' if number == 1 else 's'}"


def _noise_lines(found):
    if found.law.noise is None:
        return []
    unit = " after the transform" if found.law.photons else ""
    noise = found.law.noise
    lines = [f"  noise σ = {noise.sigma:.4g}{unit}, between {noise.low:.4g} and {noise.high:.4g}, from {noise.source}"]
    lines += [f"  in units of [-1, 1]: {found.sigma_scaled:.4g}"]
    if _differ(found.law.channel_sigmas):
        lines += [f"  of each channel: {', '.join(f'{s:.4g}' for s in found.law.channel_sigmas)}"]
    low, high = np.percentile(found.law.image_sigmas, [5, 95])
    lines += [f"  of single images, by wavelets: {low:.4g} to {high:.4g} for nine in ten"]
    if high > UNLIKE * low * np.exp(2 * 1.645 * HAAR_ERROR / found.squares[0].size ** 0.5):
        lines += ["  that is a lot: unless their detail explains it, state a level each (data.sigma_from=levels.csv)"]
    if found.law.photons:
        p = found.law.photons
        low, high = found.law.gain_interval
        lines += [f"  gain {p.gain:.4g} a photon, between {low:.4g} and {high:.4g}"]
        lines += [f"  offset {p.offset:.4g}, read noise {p.read:.4g}: as one can be told from the other, not better"]
    lines += [f"  correlation of neighbours {found.law.neighbour_correlation:.2f}"]
    lines += [f"  at the ends of the range: {found.clipped[0]:.2%} and {found.clipped[1]:.2%} of the values"]
    if found.constant > MOST_CONSTANT and not found.law.photons:
        lines += [f"  {found.constant:.0%} of the area is constant, which looks like no noise: crop masks and padding"]
    return lines


def _squares(files: FrameFiles) -> np.ndarray:
    """[N, H, W, C] stored values: squares from frames all over the files; several of each, side by side, if few."""
    side = SIDE if len(files) >= FEW else SIDE_OF_FEW
    size = [min(side, *(entry.shape[axis] for entry in files.entries)) for axis in (0, 1)]
    most = max(2, min(MOST_SQUARES, MOST_VALUES // (size[0] * size[1] * files.channels)))
    rng = np.random.Generator(np.random.Philox(0))
    chosen = np.sort(rng.choice(len(files), min(most, len(files)), replace=False))
    return np.stack(
        [square for i in chosen for square in cut_squares(files.read(int(i)), size, most // len(chosen), rng)]
    )


def _pairs(files: FrameFiles):
    """Squares of two successive frames, [N, H, W, C] both, if files hold several of one scene; else None."""
    many = 3 if any(entry.frames >= 3 for entry in files.entries) else 2
    several = [k for k, entry in enumerate(files.entries) if entry.frames >= many]
    # No frame is in two groups: what is chosen on some of them is measured on others.
    starts = [files.first(k) + i for k in several for i in range(0, files.entries[k].frames - many + 1, many)]
    if len(starts) < FEWEST_PAIRS:
        return None
    size = [min(SIDE, *(files.entries[k].shape[axis] for k in several)) for axis in (0, 1)]
    rng = np.random.Generator(np.random.Philox(1))
    most = max(FEWEST_PAIRS, min(MOST_PAIRS, MOST_VALUES // (size[0] * size[1] * files.channels)))
    chosen = np.sort(rng.choice(starts, min(most, len(starts)), replace=False))
    together = [np.concatenate([files.read(int(i) + n) for n in range(many)], axis=-1) for i in chosen]
    squares = np.stack([cut_squares(frames, size, 1, rng)[0] for frames in together])
    frames = np.split(squares, many, axis=-1)
    return (frames[0], frames[1]) if are_repeats(*frames) else None


def _scaling(squares, law):
    """Usual ranges where the values fit them, noise apart; else the percentiles of the values."""
    usual = None if law.photons else _usual_range(squares, law.noise)
    low, high = usual or np.percentile(squares, PERCENTILES)
    if not low < high:
        low, high = low - 1, low + 1
    rule = ScalingRule(value_range=(low, high), photons=law.photons)
    return rule.scaling(squares.dtype, lambda: squares, bounded=usual is not None)


def _usual_range(squares, noise):
    if squares.dtype == np.uint8:
        return 0.0, 255.0
    if squares.dtype.kind != "f" or noise is None:
        return None
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        if _is_noise_beyond(squares, low, high, noise.sigma) and np.ptp(squares) > (high - low) / 2:
            return low, high
    return None


def _is_noise_beyond(squares, low, high, sigma):
    """Whether no more of the values lie beyond the ends than noise of values at the ends would send there."""
    beyond = lambda k: max(np.mean(squares < low - k * sigma), np.mean(squares > high + k * sigma))
    return all(beyond(k) <= 1.1 * norm.sf(k) + 1e-5 for k in (0, 1, 2, 3, 6))


def _differ(sigmas):
    return len(sigmas) > 1 and max(sigmas) > 1.1 * min(sigmas)


def _short(value):
    """Four digits that count."""
    return float(f"{value:.4g}")
