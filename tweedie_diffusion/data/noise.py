"""How strong the noise of images is, from the images alone.

White noise adds σ² to the variance along every direction; images leave some directions nearly empty. So the variance
along any direction, over any group of patches chosen without regard to their own noise, is at least σ² in expectation,
and the least of several is taken. What is chosen on one half of the images is measured on the other, or the least of
many would be too small. docs/maths.md, section 9.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from tweedie_diffusion.data.flat_patches import WINDOW, Windows, emptiest_variances, sample_windows

FLATTEST = (1.0, 0.2, 0.05)  # shares of the patches
TAIL = 3  # directions beside the emptiest that tell whether it is empty
EMPTY = 4  # places of an image
EMPTIER = 0.5  # times the variance of most places
FEWEST, FEWEST_PATCHES = 50, 200  # images whose places, and patches whose directions are compared
SIGMAS = 2.0  # standard errors to either side of the interval
ALIKE = 0.02  # of σ, by which the interval reaches further down: detail may be alike in all of the emptiest directions
SLACK_ABOVE, SLACK_BELOW = 1.03, 0.97  # a stated level over the ends of the interval that passes


@dataclasses.dataclass(frozen=True)
class NoiseEstimate:
    """σ of white noise.

    Attributes:
        sigma: in the units of the images.
        low, high: where it lies, sampling error and detail that looks like noise both counted.
        source: what it was read from.
    """

    sigma: float
    low: float
    high: float
    source: str


def estimate_sigma(x: np.ndarray, *, seed: int = 0) -> NoiseEstimate | None:
    """σ of examples of one noise level, as the least of several measurements.

    Of images: from their flattest patches (Pyatykh et al. 2013), from the directions of whole images, and from the
    places that are always empty, as the corners of drawings are. Of vectors: from their directions.

    Args:
        x: images [N, H, W, C], all of whose channels have one level, or vectors [N, D].
        seed: of the patches looked at.

    Returns:
        None for too few, or too small, examples.
    """
    found = list(_of_vectors(x) if x.ndim == 2 else _of_images(x, seed))
    return min(found, key=lambda estimate: estimate.high, default=None)


def noise_warning(x_tn: np.ndarray, sigma_tn: float, *, name: str = "data.sigma_tn") -> str:
    """One line if a stated level does not suit the data, else nothing.

    Args:
        x_tn: as `estimate_sigma`.
        sigma_tn: stated for it, > 0.
        name: to call it by.
    """
    found = estimate_sigma(x_tn)
    if found is None:
        return ""
    if sigma_tn > SLACK_ABOVE * found.high:
        return (
            f"{name}={sigma_tn:g} is more than the noisy images can hold, {found.sigma:.3g} "
            f"({found.low:.3g} to {found.high:.3g}): images will come out too smooth, or training will fail"
        )
    if x_tn.ndim == 4 and sigma_tn < SLACK_BELOW * found.low:  # vectors may vary in every direction
        return (
            f"{name}={sigma_tn:g} is less than the noise of the images, {found.sigma:.3g} "
            f"({found.low:.3g} to {found.high:.3g}): the rest of it will stay in the samples"
        )
    return ""


def sigma_of_repeats(first: np.ndarray, second: np.ndarray) -> NoiseEstimate | None:
    """σ from two images of each scene, [N, H, W, C] both: their differences have no signal, or what has moved.

    Returns:
        None for too few, or too small, images.
    """
    found = estimate_sigma((second.astype(np.float64) - first) / 2**0.5)
    return found and dataclasses.replace(found, source=f"differences of repeated images ({found.source})")


def empty_places_sigma(x: np.ndarray) -> NoiseEstimate | None:
    """σ of single pixels of images [N, H, W, C], white or not, from those that vary least from image to image.

    Returns:
        None for too few images, and where no place is emptier than most.
    """
    pixels = x.reshape(len(x), -1)
    if len(pixels) < FEWEST:
        return None
    found = _empty_places(pixels[::2], pixels[1::2])
    return found if found.sigma**2 < EMPTIER * np.median(pixels.var(axis=0, dtype=np.float64)) else None


def sigma_of_patches(windows: Windows) -> NoiseEstimate | None:
    """σ of white noise from the flattest of some patches."""
    return min(_of_patches(windows), key=lambda estimate: estimate.high, default=None)


def haar_sigma(image: np.ndarray) -> float:
    """σ of one image [H, W, C] by the median of its finest diagonal wavelets (Donoho and Johnstone 1994).

    Quick and of one image alone, but textures count as noise: 4 to 10 % too high on photographs.
    """
    h, w = (n // 2 * 2 for n in image.shape[:2])
    even, odd = image[0:h:2, :w].astype(np.float64), image[1:h:2, :w].astype(np.float64)
    detail = (even[:, ::2] - even[:, 1::2] - odd[:, ::2] + odd[:, 1::2]) / 2
    return float(np.median(np.abs(detail)) / 0.6745)


def _of_vectors(x) -> Iterator[NoiseEstimate]:
    half = len(x) // 2
    if half >= 4 * x.shape[1]:
        yield _emptiest(x[:half], x[half:], len(x), "directions")


def _of_images(x, seed) -> Iterator[NoiseEstimate]:
    if len(x) < 2 or min(x.shape[1:3]) < WINDOW:
        return
    yield from _of_patches(sample_windows(x, seed=seed))
    pixels = x.reshape(len(x), -1)
    if len(pixels) >= 8 * pixels.shape[1]:
        yield _emptiest(pixels[::2], pixels[1::2], len(pixels), "whole images")
    if len(pixels) >= FEWEST:
        yield _empty_places(pixels[::2], pixels[1::2])


def _of_patches(windows) -> Iterator[NoiseEstimate]:
    order = np.argsort(windows.ring.var(axis=1))
    for share in FLATTEST:
        flat = windows.part(order[: int(share * len(order))])
        one, other = (flat.patch[flat.half == half] for half in (0, 1))
        if flat.independent >= FEWEST_PATCHES and min(len(one), len(other)) >= 4 * one.shape[1]:
            yield _emptiest(one, other, flat.independent, f"the flattest {share:.0%} of patches")


def _emptiest(one, other, independent, source):
    """σ from the direction of least variance, chosen on one half and measured on the other, both ways round."""
    count = min(TAIL + 1, one.shape[1])
    tail = np.mean([emptiest_variances(a, b, count)[0] for a, b in ((one, other), (other, one))], axis=0)
    sigma = tail[0] ** 0.5
    error = SIGMAS * sigma / (2 * independent) ** 0.5
    # Where the emptiest directions differ in variance by more than chance, the emptiest may hold as much signal.
    chance = SIGMAS * tail[0] * 2 / independent**0.5
    hidden = max(tail[-1] - tail[0] - chance, 0.0)
    low = max(tail[0] - hidden, 0.0) ** 0.5 - error - ALIKE * sigma
    return NoiseEstimate(float(sigma), float(max(low, 0.0)), float(sigma + error), source)


def _empty_places(one, other):
    """σ from the pixels that vary least from image to image."""
    variances = one.var(axis=0, dtype=np.float64), other.var(axis=0, dtype=np.float64)
    measured = [b[np.argsort(a)[: 2 * EMPTY]] for a, b in (variances, variances[::-1])]
    variance, wider = (np.mean([m[:count].mean() for m in measured]) for count in (EMPTY, 2 * EMPTY))
    sigma = float(variance**0.5)
    error = SIGMAS * sigma / (2 * EMPTY * (len(one) + len(other))) ** 0.5
    low = max(2 * variance - max(wider, variance), 0.0) ** 0.5 - error - ALIKE * sigma
    return NoiseEstimate(sigma, float(max(low, 0.0)), sigma + error, f"the {EMPTY} emptiest places")
