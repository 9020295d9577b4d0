"""Data whose noise is not what the method is told: another level, or another law."""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from tweedie_diffusion.data.noisy import Dataset, shuffled

# (generator, x_0 [N, H, W, C] in [-1, 1], σ) -> x_tn, of noise variance σ² on average
NoiseFn = Callable[[np.random.Generator, np.ndarray, float], np.ndarray]


def _gaussian(rng, x_0, sigma):
    return x_0 + sigma * rng.standard_normal(x_0.shape)


def _laplace(rng, x_0, sigma):
    return x_0 + rng.laplace(scale=sigma / 2**0.5, size=x_0.shape)


def _uniform(rng, x_0, sigma):
    return x_0 + sigma * rng.uniform(-(3**0.5), 3**0.5, x_0.shape)


def _poisson(rng, x_0, sigma):
    """Counts of a mean that is a tenth of the range where x_0 = −1: their variance is that mean."""
    brightness = x_0 + 1.2
    photons = brightness.mean() / sigma**2  # a unit of brightness
    return rng.poisson(photons * brightness) / photons - 1.2


def _correlated(rng, x_0, sigma):
    """White noise blurred over half a pixel: neighbours correlate by about a third."""
    white = rng.standard_normal(x_0.shape)
    blurred = gaussian_filter(white, (0, 0.5, 0.5, 0), mode="wrap")
    return x_0 + sigma * blurred / blurred.std()


def _clipped(rng, x_0, sigma):
    """Stored as 8-bit images."""
    stored = np.rint(np.clip((_gaussian(rng, x_0, sigma) + 1) / 2, 0, 1) * 255)
    return stored / 255 * 2 - 1


@dataclasses.dataclass(frozen=True)
class Mistake:
    """What is wrong: the law of the noise, or the level stated, as a multiple of the true one."""

    noise: NoiseFn = _gaussian
    stated: float = 1.0

    def images(self, dataset: Dataset, sigma_tn: float, seed: int) -> np.ndarray:
        """The training images [N, H, W, C] with this noise."""
        images = dataset.images
        train = np.sort(shuffled(images.count, seed)[len(dataset.held_out) :])
        x_0 = np.stack([images.scaling.to_unit(images.read(int(i))) for i in train])
        rng = np.random.Generator(np.random.Philox([seed, 1]))
        return self.noise(rng, x_0, sigma_tn).astype(np.float32)


MISTAKES = {
    "noisy images as clean": Mistake(stated=0.0),
    "σ_tn stated × 0.8": Mistake(stated=0.8),
    "σ_tn stated × 0.9": Mistake(stated=0.9),
    "σ_tn stated × 1": Mistake(),
    "σ_tn stated × 1.1": Mistake(stated=1.1),
    "σ_tn stated × 1.25": Mistake(stated=1.25),
    "Laplace noise": Mistake(_laplace),
    "uniform noise": Mistake(_uniform),
    "Poisson noise": Mistake(_poisson),
    "correlated noise": Mistake(_correlated),
    "clipped to 8 bits": Mistake(_clipped),
}
