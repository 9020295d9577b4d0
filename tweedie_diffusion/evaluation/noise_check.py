"""Whether noisy data can carry the noise that is stated, from the data alone."""

import numpy as np

PATCH = 4  # pixels a side
TOO_LARGE, TOO_SMALL = 1.05, 0.8  # stated over found


def noise_ceiling(x_tn: np.ndarray) -> float:
    """√λ_min of the covariance of the examples, or of the 4×4 patches of images: no white noise can be stronger.

    Independent noise adds σ² to every direction. Clean images have little variance in their least direction, so for
    them the ceiling is also an estimate, from above (Pyatykh et al. 2013).

    Args:
        x_tn: [N, H, W, C] or [N, D], all of one noise level.

    Returns:
        A standard deviation, corrected for the number of samples (Marchenko and Pastur 1967); infinite for fewer than
        four samples a dimension.
    """
    if x_tn.ndim == 4:
        side = min(PATCH, *x_tn.shape[1:3])
        samples = np.lib.stride_tricks.sliding_window_view(x_tn, (side, side), axis=(1, 2)).reshape(-1, side**2)
    else:
        samples = x_tn
    least = np.linalg.eigvalsh(np.atleast_2d(np.cov(samples, rowvar=False, dtype=np.float64)))[0]
    ratio = samples.shape[1] / len(samples)
    return float(np.sqrt(max(least, 0.0)) / (1 - np.sqrt(ratio))) if ratio < 0.25 else np.inf


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
            f"data.sigma_tn={sigma_tn:g}, and the smoothest direction of the noisy images varies by {ceiling:.3g}: "
            "unless clean ones have such fine detail, the noise is understated and will stay in the samples"
        )
    return ""
