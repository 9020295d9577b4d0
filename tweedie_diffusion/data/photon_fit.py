"""How the noise of images grows with their signal, from the images alone: gain, offset and read noise."""

import dataclasses

import numpy as np
from scipy.optimize import linprog

from tweedie_diffusion.data.flat_patches import Windows, emptiest_variances, sample_windows
from tweedie_diffusion.data.photon_noise import PhotonNoise

BINS = 24  # of the signal
MAX_WINDOWS = 1_000_000
FLATTEST = (1.0, 0.3, 0.1)  # shares of the patches of a bin
DIRECTIONS = 2
TAIL = 0.3  # part of the directions, beside which the emptiest tell how much of them is signal
FEWEST = 200  # patches on either half
EVEN = (0.0, 0.1, 1.0)  # parts of the range of signals that noise without light counts as
SLACK = 1.0  # standard errors that the line may exceed a point by
MET = 1.15  # times the line, of points that it meets
GROWTH, LARGE_GROWTH = 1.5, 10.0  # of the variance, from dark to bright


@dataclasses.dataclass(frozen=True)
class NoiseCurve:
    """Variances of the noise where the signal is of one strength, each an upper bound up to its error.

    Attributes:
        signal: [K] mean stored values.
        variance, error: [K] and its standard error.
        hidden: [K] how much of it may be signal: what the next third of the directions has more.
        hidden_next: [K] what the next two have more.
    """

    signal: np.ndarray
    variance: np.ndarray
    error: np.ndarray
    hidden: np.ndarray
    hidden_next: np.ndarray


def noise_curve(x: np.ndarray, *, seed: int = 0) -> NoiseCurve:
    """The variance along the emptiest directions of patches with equally bright surroundings, and of whole images.

    A direction v of pixels with the mean signals m shows the noise of the signal Σ v²m.

    Args:
        x: images [N, H, W, C] as stored.
        seed: of the patches looked at.
    """
    windows = sample_windows(x, most=MAX_WINDOWS, seed=seed)
    bins, count = _equally_full_bins(windows.ring.mean(axis=1))
    parts = (windows.part(np.flatnonzero(bins == k)) for k in range(count))
    points = [point for part in parts for point in _points(part)]
    pixels = x.reshape(len(x), -1)
    if len(pixels) >= 8 * pixels.shape[1]:
        points += _whole_images(pixels[::2].astype(np.float64), pixels[1::2].astype(np.float64))
    return NoiseCurve(*np.array(points).reshape(-1, 5).T)


def repeats_curve(first: np.ndarray, second: np.ndarray) -> NoiseCurve:
    """The same from two images of each scene, [N, H, W, C] both as stored: half the mean square of their differences.

    What moves between them is smooth, and shows as covariance of neighbouring differences.
    """
    difference = (second.astype(np.float64) - first) / 2**0.5
    # By the pixel's own mean: given the sum of two counts n, their difference has the variance n, as it should.
    brightness = (first.astype(np.float64) + second) / 2
    bins, count = _equally_full_bins(brightness)
    neighbours = difference[:, :, :-1] * difference[:, :, 1:]
    rows = []
    for k in range(count):
        inside = bins == k
        squares = np.square(difference[inside])
        error = squares.std() / len(squares) ** 0.5
        moved = neighbours[inside[:, :, :-1]]
        rows.append(
            (brightness[inside].mean(), squares.mean(), error, *[max(moved.mean() if moved.size else 0.0, 0.0)] * 2)
        )
    return NoiseCurve(*np.array(rows).reshape(-1, 5).T)


def fit_photon_noise(curve: NoiseCurve) -> PhotonNoise | None:
    """The highest line gain·signal + constant below the curve, gain and constant ≥ 0 at the least signal.

    The signal of an image adds to its variance, so no point may lie below the line by more than its error, and most lie
    above. A line cannot tell offset from read noise: values of which none is clearly negative have the offset where the
    line crosses zero, but not below 0, and what is left is read noise.

    Returns:
        None if there are too few points, or the variance does not grow with the signal.
    """
    if len(curve.signal) < 3 or np.ptp(curve.signal) == 0:
        return None
    dark = curve.signal.min()
    brighter = curve.signal - dark
    weight = 1 / np.maximum(curve.variance, 1e-9 * curve.variance.max())
    line = linprog(
        [-(weight * brighter).sum(), -weight.sum()],
        A_ub=np.stack([brighter, np.ones_like(brighter)], axis=1),
        b_ub=curve.variance + SLACK * curve.error,
        bounds=[(0, None), (0, None)],
    )
    gain, at_dark = line.x if line.success else (0.0, 0.0)
    if not gain > 0:
        return None
    crossing = dark - at_dark / gain  # the signal without noise
    offset = max(crossing, 0.0) if dark > -(at_dark**0.5) else crossing
    return PhotonNoise(float(gain), float(offset), float(max(gain * (offset - crossing), 0.0) ** 0.5))


def grows(photons: PhotonNoise, curve: NoiseCurve) -> bool:
    """Whether the noise certainly grows with the signal, and not the signal's own detail.

    By half where the line is met by points that can hold little signal; or, where images are detail all over, tenfold:
    dark places then have hardly any noise.
    """
    dark = photons.variance(curve.signal.min())
    met = curve.variance < MET * np.maximum(photons.variance(curve.signal), dark)
    least = curve.variance - 2 * curve.error - curve.hidden
    least_next = curve.variance - 2 * curve.error - curve.hidden_next
    return bool((met & ((least > GROWTH * dark) | (least_next > LARGE_GROWTH * dark))).any())


def _equally_full_bins(brightness):
    """The bin of each, and how many bins there are: fewer than BINS where many are alike."""
    edges = np.unique(np.quantile(brightness, np.linspace(0, 1, BINS + 1)))
    return np.clip(np.searchsorted(edges, brightness, side="right") - 1, 0, max(len(edges) - 2, 0)), len(edges) - 1


def _points(windows: Windows):
    """Rows of a NoiseCurve, one for each share of the flattest patches of one brightness."""
    order = np.argsort(windows.ring.var(axis=1))
    for share in FLATTEST:
        flat = windows.part(order[: int(share * len(order))])
        one, other = (flat.patch[flat.half == half] for half in (0, 1))
        if min(len(one), len(other)) >= FEWEST:
            yield _row(one, other, np.eye(one.shape[1]), flat.independent / len(flat.patch))


def _whole_images(one, other):
    """The same for whole images: directions that are emptiest for noise that grows with the signal, or does not."""
    mean = np.concatenate([one, other]).mean(axis=0)
    for even in EVEN:
        noise = mean - mean.min() + even * np.ptp(mean) + 1e-9
        yield _row(one, other, np.diag(noise**-0.5), 1.0)


def _row(one, other, scale, worth):
    """The mean over directions chosen on either half and measured on the other."""
    signal, variance, error, hidden, hidden_next = np.mean(
        [_along(one, other, scale, worth), _along(other, one, scale, worth)], axis=(0, 2)
    )
    return signal, variance, error / (2 * DIRECTIONS) ** 0.5, hidden, hidden_next


def _along(chosen, measured, scale, worth):
    """[5, directions] of a NoiseCurve: of `measured`, along the directions in which `chosen`, scaled, varies least."""
    tail = DIRECTIONS + int(TAIL * len(scale))
    scaled, directions = emptiest_variances(chosen @ scale, measured @ scale, tail)
    directions = scale @ directions
    directions /= np.linalg.norm(directions, axis=0)
    along = measured @ directions
    along -= along.mean(axis=0)
    variance = np.square(along).mean(axis=0)
    error = np.sqrt(np.maximum(np.mean(along**4, axis=0) - variance**2, 0) / (len(measured) * worth))
    signal = measured.mean(axis=0) @ directions**2
    share = variance / np.maximum(scaled, 1e-30)
    hidden, hidden_next = (share * np.maximum(scaled[k] - scaled, 0.0) for k in (-1, DIRECTIONS + 1))
    return np.stack([signal, variance, error, hidden, hidden_next])[:, :DIRECTIONS]
