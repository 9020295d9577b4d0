"""What inspect_data says of images whose noise is known, as a table.

python -m experiments.verdicts fashion_mnist.npz cifar10.npz

Of the digits, and of each archive of clean images (uint8): σ and gain as found over those that are true, and the
standard deviation of stabilised photon noise in tenths of the pixels, from dark to bright, which should be 1.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from tweedie_diffusion.data.formats.arrays import load_arrays, pick_images
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.evaluation.inspection import inspect

FEW_PHOTONS = 4.0  # below, the transform does not promise a variance of 1


def white(rng, x_0, sigma):
    return (x_0 + sigma * rng.standard_normal(x_0.shape)).astype(np.float32), sigma


def white_8_bits(rng, x_0, sigma):
    """Of images with room for their noise: grey values from 77 to 178."""
    return to_8_bits(0.4 * x_0 + sigma * rng.standard_normal(x_0.shape)), sigma * 127.5


def correlated(rng, x_0, sigma):
    noise = gaussian_filter(rng.standard_normal(x_0.shape), (0, 0.8, 0.8, 0))
    return (x_0 + sigma * noise / noise.std()).astype(np.float32), None


def clipped(rng, x_0, sigma):
    return to_8_bits(x_0 + sigma * rng.standard_normal(x_0.shape)), None


def poisson(rng, x_0, photons):
    """Counts, `photons` where an image is brightest, 3.3 stored units each."""
    return (3.3 * rng.poisson(photons / 2 * (x_0 + 1))).astype(np.float32), None


def to_8_bits(x):
    return np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)


# name of the noise: (what makes it, its strength, the right verdict)
NOISES = {
    "none, 8 bits": (lambda rng, x_0, _: (to_8_bits(x_0), None), None, "no_noise"),
    "white, σ = 0.1": (white, 0.1, "holds"),
    "white, σ = 0.2": (white, 0.2, "holds"),
    "white, σ = 0.4": (white, 0.4, "holds"),
    "white, 8 bits": (white_8_bits, 0.1, "holds"),
    "Poisson, 30 photons": (poisson, 30, "holds_after_transform"),
    "Poisson, 100 photons": (poisson, 100, "holds_after_transform"),
    "correlated": (correlated, 0.4, "correlated"),
    "clipped to 8 bits": (clipped, 0.4, "clipped"),
}


def rows(name: str, x_0: np.ndarray) -> Iterator[list[str]]:
    """Of every noise of one set of images: the cells of the table."""
    for noise, (make, strength, right) in NOISES.items():
        stored, sigma = make(np.random.default_rng(0), x_0, strength)
        with tempfile.TemporaryDirectory() as folder:
            np.save(Path(folder) / "images.npy", stored)
            found = inspect(folder)
        verdict = found.verdict + ("" if found.verdict == right else f" (should be {right})")
        of_sigma = deciles = gain = ""
        if sigma and found.law.noise:
            of_sigma = "{:.3f} ({:.3f} to {:.3f})".format(
                *(v / sigma for v in (found.law.noise.sigma, found.law.noise.low, found.law.noise.high))
            )
        if make is poisson and found.law.photons:
            gain = f"{found.law.photons.gain / 3.3:.3f}"
            spread = stabilised_spread(found.law.photons, stored, strength / 2 * (x_0 + 1))
            deciles = f"{min(spread):.3f} to {max(spread):.3f}"
        yield [name, noise, verdict, of_sigma, gain, deciles]


def stabilised_spread(photons: PhotonNoise, stored: np.ndarray, expected: np.ndarray) -> list[float]:
    """Standard deviations of the noise after the transform, in tenths of the pixels by their expected counts."""
    lit = expected > FEW_PHOTONS
    order = np.argsort(expected[lit], kind="stable")
    stabilised, expected = photons.stabilise(stored[lit])[order], expected[lit][order]
    _, groups = np.unique(expected, return_inverse=True)  # clean images of 8 bits: many pixels of one expected count
    counts = np.bincount(groups)
    mean = (np.bincount(groups, stabilised) / counts)[groups]
    unbiased = counts / np.maximum(counts - 1, 1)
    squares = np.square(stabilised - mean) * unbiased[groups]
    several = counts[groups] > 1
    return [float(np.sqrt(tenth.mean())) for tenth in np.array_split(squares[several], 10)]


def main(paths: list[str]):
    sets = {"digits": np.rint(load_digits().images[..., None] * 255 / 16) / 127.5 - 1}
    for path in map(Path, paths):
        sets[path.stem] = pick_images(load_arrays(path), path) / 127.5 - 1
    print("| images | noise | verdict | σ found / true | gain found / true | noise after the transform |")
    print("|---|---|---|---|---|---|")
    for name, x_0 in sets.items():
        for cells in rows(name, x_0):
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
