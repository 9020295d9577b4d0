"""Whether noisy data can carry the noise that is stated, from the data alone."""

import numpy as np

PATCH = 4  # pixels a side
EMPTY, FEWEST = 4, 100  # places of an image, and images in which they are looked for
TOO_LARGE, TOO_SMALL = 1.03, 0.93  # stated over found


def noise_ceiling(x_tn: np.ndarray, *, errors: float = 2.0) -> float:
    """A level that no white noise in the examples exceeds: the least variance of what independent noise adds σ² to.

    Of vectors it is √λ_min of their covariance. Of images the lesser of that of their 4×4 patches (Pyatykh et al. 2013)
    and of the noise at the four places that vary least from image to image, as the corners of drawings do. Clean images
    have little variance there, so with no errors added the ceiling is also an estimate.

    Args:
        x_tn: [N, H, W, C] or [N, D], all of one noise level.
        errors: standard errors that are added.

    Returns:
        A standard deviation; infinite for too few examples.
    """
    if x_tn.ndim != 4:
        return _least_direction(x_tn, len(x_tn), errors)
    side = min(PATCH, *x_tn.shape[1:3])
    patches = np.lib.stride_tricks.sliding_window_view(x_tn, (side, side), axis=(1, 2)).reshape(-1, side**2)
    of_patches = _least_direction(patches, x_tn.size / side**2, errors)
    return min(of_patches, _emptiest_places(x_tn.reshape(len(x_tn), -1), errors))


def _least_direction(samples, independent, errors):
    """√λ_min, with the correction of Marchenko and Pastur (1967); infinite for fewer than four samples a dimension."""
    least = np.linalg.eigvalsh(np.atleast_2d(np.cov(samples, rowvar=False, dtype=np.float64)))[0]
    ratio = samples.shape[1] / len(samples)
    if ratio >= 0.25:
        return np.inf
    return float(np.sqrt(max(least, 0.0)) / (1 - np.sqrt(ratio)) * (1 + errors / np.sqrt(2 * independent)))


def _emptiest_places(pixels, errors):
    """Chosen on one half of the images and measured on the other, or the least would be too small."""
    if len(pixels) < FEWEST:
        return np.inf
    one, other = (half.var(axis=0, dtype=np.float64) for half in (pixels[::2], pixels[1::2]))
    variance = np.mean([b[np.argsort(a)[:EMPTY]].mean() for a, b in ((one, other), (other, one))])
    return float(np.sqrt(variance) * (1 + errors / np.sqrt(2 * EMPTY * len(pixels))))


def noise_warning(x_tn: np.ndarray, sigma_tn: float) -> str:
    """One line if the stated σ_tn does not suit the data, else nothing.

    Args:
        x_tn: as `noise_ceiling`.
        sigma_tn: the noise stated for it, > 0.
    """
    ceiling = noise_ceiling(x_tn)
    if sigma_tn > TOO_LARGE * ceiling:
        return (
            f"data.sigma_tn={sigma_tn:g} is more than the noisy images can hold, {ceiling:.3g} at most: "
            "images will come out too smooth, or training will fail"
        )
    estimate = noise_ceiling(x_tn, errors=0.0)
    if x_tn.ndim == 4 and np.isfinite(estimate) and sigma_tn < TOO_SMALL * estimate:
        return (
            f"data.sigma_tn={sigma_tn:g}, and the noisy images vary by {estimate:.3g} where they vary least: "
            "unless clean ones have such fine detail, the noise is understated and will stay in the samples"
        )
    return ""
