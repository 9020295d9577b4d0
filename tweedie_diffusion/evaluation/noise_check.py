"""Whether noisy data can carry the noise that is stated, from the data alone."""

import numpy as np

PATCH = 4  # pixels a side
EMPTY = 4  # places of an image
TOO_LARGE, TOO_SMALL = 1.03, 0.9  # stated over found


def noise_ceiling(x_tn: np.ndarray) -> float:
    """A level that no white noise in the examples exceeds: the least variance of what independent noise adds σ² to.

    Of vectors it is √λ_min of their covariance. Of images the lesser of that of their 4×4 patches (Pyatykh et al. 2013)
    and of the noise at the four places that vary least from image to image, as the corners of drawings do. Clean images
    have little variance there, so the ceiling is also an estimate, from above.

    Args:
        x_tn: [N, H, W, C] or [N, D], all of one noise level.

    Returns:
        A standard deviation, corrected for the number of samples; infinite for too few.
    """
    if x_tn.ndim != 4:
        return _least_direction(x_tn)
    side = min(PATCH, *x_tn.shape[1:3])
    patches = np.lib.stride_tricks.sliding_window_view(x_tn, (side, side), axis=(1, 2)).reshape(-1, side**2)
    return min(_least_direction(patches), _emptiest_places(x_tn.reshape(len(x_tn), -1)))


def _least_direction(samples):
    """√λ_min, with the correction of Marchenko and Pastur (1967); infinite for fewer than four samples a dimension."""
    least = np.linalg.eigvalsh(np.atleast_2d(np.cov(samples, rowvar=False, dtype=np.float64)))[0]
    ratio = samples.shape[1] / len(samples)
    return float(np.sqrt(max(least, 0.0)) / (1 - np.sqrt(ratio))) if ratio < 0.25 else np.inf


def _emptiest_places(pixels):
    """Chosen on one half of the images and measured on the other, or the least would be too small; two standard errors
    are added. Infinite for fewer than fifty images.
    """
    if len(pixels) < 50:
        return np.inf
    one, other = (half.var(axis=0, dtype=np.float64) for half in (pixels[::2], pixels[1::2]))
    variance = np.mean([b[np.argsort(a)[:EMPTY]].mean() for a, b in ((one, other), (other, one))])
    return float(np.sqrt(variance) * (1 + 2 / np.sqrt(2 * EMPTY * len(pixels))))


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
    if x_tn.ndim == 4 and np.isfinite(ceiling) and sigma_tn < TOO_SMALL * ceiling:
        return (
            f"data.sigma_tn={sigma_tn:g}, and the noisy images vary by {ceiling:.3g} where they vary least: "
            "unless clean ones have such fine detail, the noise is understated and will stay in the samples"
        )
    return ""
