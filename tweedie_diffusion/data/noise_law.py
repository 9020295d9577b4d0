"""The law of the noise of images, from the images alone: white, growing with the signal, or correlated."""

import dataclasses

import numpy as np

from tweedie_diffusion.data.flat_patches import WINDOW, Windows, sample_windows
from tweedie_diffusion.data.noise import (
    NoiseEstimate,
    empty_places_sigma,
    estimate_sigma,
    haar_sigma,
    sigma_of_patches,
    sigma_of_repeats,
)
from tweedie_diffusion.data.noise_checks import neighbour_correlation
from tweedie_diffusion.data.photon_fit import NoiseCurve, fit_photon_noise, grows, noise_curve, repeats_curve
from tweedie_diffusion.data.photon_noise import PhotonNoise

MOST_CORRELATION = 0.3  # of neighbours, for noise that is called white
LEAST_PHOTONS = 4  # from which on the transform has a variance of 1
Pairs = tuple[np.ndarray, np.ndarray]  # [N, H, W, C] both, two images of each scene


@dataclasses.dataclass(frozen=True)
class NoiseLaw:
    """What was found.

    Attributes:
        noise: σ in stored values, after the transform if there is `photons`; None for too few or too small images.
        photons: if the noise grows with the signal.
        curve: variance against signal.
        neighbour_correlation: ρ.
        channel_sigmas: of each channel.
        image_sigmas: of single images, by wavelets.
    """

    noise: NoiseEstimate | None
    photons: PhotonNoise | None
    curve: NoiseCurve
    neighbour_correlation: float
    channel_sigmas: tuple[float, ...]
    image_sigmas: np.ndarray

    @property
    def gain_interval(self) -> tuple[float, float] | None:
        """Where the gain of photon counts lies: it scales the variance that is left after the transform."""
        if self.photons is None or self.noise is None:
            return None
        low, high = min(self.noise.low, 1.0), max(self.noise.high, 1.0)
        return self.photons.gain * low**2, self.photons.gain * high**2


def find_noise_law(stored: np.ndarray, repeats: Pairs | None = None) -> NoiseLaw:
    """The law of the noise of images [N, H, W, C], with the help of `repeats` if there are any."""
    if min(stored.shape[1:3]) < WINDOW:
        nothing = np.zeros(0)
        return NoiseLaw(None, None, NoiseCurve(*[nothing] * 5), 0.0, (), nothing)
    values = stored.astype(np.float64 if stored.dtype.itemsize > 4 else np.float32)
    lively = np.ptp(values, axis=(1, 2, 3)) > 0  # blank frames say nothing of the noise of others
    values = values[lively] if lively.any() else values
    noise, places = estimate_sigma(values), empty_places_sigma(values)
    in_places = places.sigma if places and places.sigma else np.inf
    uneven = 1 - noise.sigma / in_places if noise and np.isfinite(in_places) else 0.0
    curve = noise_curve(values) if repeats is None else repeats_curve(*repeats)
    photons = fit_photon_noise(curve)
    # Correlated noise can seem to grow. But where less than a photon is, counts are uneven of themselves.
    if photons and grows(photons, curve) and (uneven <= MOST_CORRELATION or in_places < photons.gain):
        photons = _no_more_than_shows(photons, values)
        values = photons.stabilise(values).astype(np.float32)
        windows = _bright_windows(values, photons)
        noise, correlation = sigma_of_patches(windows), neighbour_correlation(windows, 1.0)
    else:
        photons = None
        found = (noise, None if repeats is None else sigma_of_repeats(*repeats))
        noise = min((estimate for estimate in found if estimate), key=lambda estimate: estimate.high, default=None)
        correlation = max(uneven, neighbour_correlation(sample_windows(values), in_places))
    channels = [estimate_sigma(values[..., c : c + 1]) for c in range(values.shape[-1])]
    return NoiseLaw(
        noise,
        photons,
        curve,
        correlation,
        channel_sigmas=tuple(estimate.sigma for estimate in channels if estimate),
        image_sigmas=np.array([haar_sigma(image) for image in values]),
    )


def _no_more_than_shows(photons, values):
    """The same law with less of it, if flat patches show a variance of less than 1 after the transform."""
    shown = sigma_of_patches(_bright_windows(photons.stabilise(values).astype(np.float32), photons))
    if shown is None or not 0 < shown.sigma < 1:
        return photons
    return dataclasses.replace(photons, gain=shown.sigma**2 * photons.gain, read=shown.sigma * photons.read)


def _bright_windows(stabilised, photons) -> Windows:
    """Where there are photons to be counted: no light has no noise."""
    windows = sample_windows(stabilised)
    least = photons.stabilise(photons.offset + LEAST_PHOTONS * photons.gain)
    return windows.part(np.flatnonzero(windows.ring.mean(axis=1) > least))
