"""Whether the method applies to images with some noise, in a word and in plain ones."""

import numpy as np

from tweedie_diffusion.data.noise_checks import clipped_fractions, quantisation_step
from tweedie_diffusion.data.noise_law import MOST_CORRELATION, NoiseLaw
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.data.scaling import Scaling

HOLDS, AFTER_TRANSFORM, CORRELATED = "holds", "holds_after_transform", "correlated"
CLIPPED, NO_NOISE, TOO_FEW = "clipped", "no_noise", "too_few"
MOST_CLIPPED = 0.001  # of the values, at one end of the range
LEAST_SIGMA = 0.01  # in [-1, 1], of what is called noise
COUNTED = 0.8  # of a photon, between values that are counts
VERDICTS = {
    HOLDS: "The method holds: the noise is white and of one strength.",
    AFTER_TRANSFORM: "The method holds after the variance-stabilising transform: the noise grows with the signal.",
    CORRELATED: "Correlated noise: this method is not valid here. Neighbouring pixels share their noise; use images as "
    "the sensor gave them, before JPEG, demosaicing, resampling or smoothing.",
    CLIPPED: "Clipped: re-export as 16-bit or float. Values beyond the ends of the range were cut off, and with them "
    "the law of the noise. (If the files are such already, the sensor saturated: leave those images out.)",
    NO_NOISE: "There is no noise to speak of where these images vary least: train on them as clean ones, with noise "
    "added here. (Unless it was smoothed away, by JPEG, demosaicing or denoising; or they are photon counts, whose "
    "dark has none: then state data.photons yourself.)",
    TOO_FEW: "Too few or too small images to tell their noise: give more of them, or state data.sigma_tn yourself.",
}


def judge(law: NoiseLaw, scaling: Scaling, squares: np.ndarray) -> str:
    """One of VERDICTS.

    Args:
        law: of the noise of the images.
        scaling: to [-1, 1].
        squares: [N, H, W, C] stored values of some of the images.
    """
    if law.noise is None:
        return TOO_FEW
    if np.max(scaling.sigma_to_unit(law.noise.sigma)) < LEAST_SIGMA:
        return NO_NOISE
    if law.neighbour_correlation > MOST_CORRELATION:
        return CORRELATED
    dark, bright = clipped_fractions(squares)
    if bright > MOST_CLIPPED or (dark > MOST_CLIPPED and not _are_counts(law.photons, squares)):
        return CLIPPED
    return HOLDS if law.photons is None else AFTER_TRANSFORM


def _are_counts(photons: PhotonNoise | None, squares: np.ndarray) -> bool:
    """Whether the least value is no light, which a sensor sees as it is, and not the end of a range."""
    if photons is None:
        return False
    counted = quantisation_step(squares) > COUNTED * photons.gain
    return counted or bool(photons.variance(squares.min()) <= photons.gain**2)
