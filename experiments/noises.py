"""Data whose noise is not what the method is told: another level, or another law."""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter

from experiments.clean import clean_images, split_of
from tweedie_diffusion.data.noisy import Dataset

# (generator, x_0 [N, H, W, C] in [-1, 1], σ) -> x_tn
NoiseFn = Callable[[np.random.Generator, np.ndarray, float], np.ndarray]


def _laplace(rng, x_0, sigma):
    return x_0 + rng.laplace(scale=sigma / 2**0.5, size=x_0.shape)


def _uniform(rng, x_0, sigma):
    return x_0 + sigma * rng.uniform(-(3**0.5), 3**0.5, x_0.shape)


def _poisson(rng, x_0, sigma):
    """Photon counts, a tenth of the brightest where x_0 = −1; of noise variance σ² on average."""
    brightness = x_0 + 1.2
    photons = brightness.mean() / sigma**2  # a unit of brightness
    return rng.poisson(photons * brightness) / photons - 1.2


def _correlated(rng, x_0, sigma):
    """White noise blurred over half a pixel: neighbours correlate by .26."""
    white = rng.standard_normal(x_0.shape)
    blurred = gaussian_filter(white, (0, 0.5, 0.5, 0), mode="wrap")
    return x_0 + sigma * blurred / blurred.std()


def _clipped(rng, x_0, sigma):
    """Gaussian noise, stored as 8-bit images: less than σ is left of it."""
    stored = np.rint(np.clip((x_0 + sigma * rng.standard_normal(x_0.shape) + 1) / 2, 0, 1) * 255)
    return stored / 255 * 2 - 1


@dataclasses.dataclass(frozen=True)
class Mistake:
    """What is wrong.

    Attributes:
        stated: the level that training is told, as a multiple of the true one.
        noise: its law; None for the Gaussian noise that the study's own images have.
    """

    stated: float = 1.0
    noise: NoiseFn | None = None

    def images(self, dataset: Dataset, sigma_tn: float, seed: int) -> np.ndarray:
        """All images [N, H, W, C] with this noise, in the order of the source: split by `seed`, as `dataset` is."""
        train, held_out = split_of(dataset, seed)
        if self.noise is None:
            x_tn = np.empty((dataset.images.count, *dataset.images.shape), np.float32)
            for part, indices in ((dataset.train, train), (dataset.held_out, held_out)):
                x_tn[indices] = part.rows(np.arange(len(part)))["x_tn"]
            return x_tn
        x_0 = clean_images(dataset, np.arange(dataset.images.count))
        return self.noise(np.random.Generator(np.random.Philox([seed, 1])), x_0, sigma_tn).astype(np.float32)


NOISY_AS_CLEAN = "noisy images as clean"
MISTAKES = {
    NOISY_AS_CLEAN: Mistake(stated=0.0),
    "σ_tn stated × 0.8": Mistake(stated=0.8),
    "σ_tn stated × 0.9": Mistake(stated=0.9),
    "σ_tn stated × 1.1": Mistake(stated=1.1),
    "σ_tn stated × 1.25": Mistake(stated=1.25),
    "Laplace noise": Mistake(noise=_laplace),
    "uniform noise": Mistake(noise=_uniform),
    "Poisson noise": Mistake(noise=_poisson),
    "correlated noise": Mistake(noise=_correlated),
    "clipped to 8 bits": Mistake(noise=_clipped),
}
