"""Photon counts in 16-bit TIFF: trained after the stabilising transform, beside the same model with one σ for all.

python -m experiments.photons fashion_mnist.npz runs/photons

Fashion-MNIST, averaged to 14×14, as a camera of known gain, offset and read noise would see it. `inspect_data` fits the
law of its noise; both models are trained and denoise a stack that training never saw; errors are in photons. A run that
was interrupted goes on.
"""

import sys
from pathlib import Path

import numpy as np
import tifffile

from configs import digits_noisy
from tweedie_diffusion.data.formats.arrays import load_arrays, pick_images
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.evaluation.inspection import inspect
from tweedie_diffusion.training.denoise_files import GivenNoise, denoise_files
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.trained import load_run

CAMERA = PhotonNoise(gain=50.0, offset=200.0, read=40.0)
TRAINED, TESTED = 6000, 512
BRIGHTEST = 30.0  # photons
ONE_SIGMA, TRANSFORM = "one σ", "transform"


def photons_of(images: np.ndarray) -> np.ndarray:
    """Expected counts [N, 14, 14] of images [N, 28, 28, 1]."""
    return BRIGHTEST / 255 * images[..., 0].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4))


def stored(photons: np.ndarray, seed: int) -> np.ndarray:
    """What the camera writes, uint16."""
    rng = np.random.default_rng(seed)
    read = CAMERA.read * rng.standard_normal(photons.shape)
    return np.clip(np.rint(CAMERA.gain * rng.poisson(photons) + CAMERA.offset + read), 0, 65535).astype(np.uint16)


def config_of(name: str, source: Path, found, sigma: float):
    """One network and budget; only what is said of the noise differs."""
    config = digits_noisy.get_config()
    config.data.source = str(source)
    config.data.noisy_already = True
    config.data.held_out = 0.1
    if name == TRANSFORM:
        config.data.photons = found.settings()["data.photons"]
    else:
        config.data.range_percentiles = (0.1, 99.9)
        config.data.sigma_units = "data"
        config.data.sigma_tn = sigma
    config.model.patch_components = 64
    config.training.steps = 450
    config.consistency.start = 225
    config.consistency.batch_fraction = 0.125  # as measured
    config.evaluation.num_images = 512
    return config


def main(data: str, folder: str):
    workdir = Path(folder)
    workdir.mkdir(parents=True, exist_ok=True)
    images = pick_images(load_arrays(Path(data)), data)
    photons = photons_of(images[: TRAINED + TESTED])
    seen, unseen = photons[:TRAINED], photons[TRAINED:]
    for name, expected, seed in (("seen.tif", seen, 0), ("unseen.tif", unseen, 1)):
        if not (workdir / name).exists():
            tifffile.imwrite(workdir / name, stored(expected, seed), photometric="minisblack")
    found = inspect(str(workdir / "seen.tif"))
    fitted = found.law.photons
    print(f"verdict {found.verdict}, fitted {fitted}, true {CAMERA}", flush=True)
    sigma = float(np.sqrt(np.mean(CAMERA.variance(CAMERA.gain * seen + CAMERA.offset))))
    results = {"as measured": tifffile.imread(workdir / "unseen.tif")}
    for name in (ONE_SIGMA, TRANSFORM):
        folder = workdir / name.replace(" ", "_")
        train(config_of(name, workdir / "seen.tif", found, sigma), folder)
        out = workdir / f"{folder.name}.tif"
        out.unlink(missing_ok=True)
        denoise_files(
            load_run(str(folder)), str(workdir / "unseen.tif"), out, noise=GivenNoise(), num_samples=0, seed=0
        )
        results[name] = tifffile.imread(out)
        assert (results[name].dtype, results[name].shape) == (np.dtype("uint16"), unseen.shape)
    print("| images | RMSE, photons | darkest third of the lit pixels | middle | brightest |\n|---|---|---|---|---|")
    lit = np.argsort(unseen[unseen > 1.0])
    for name, values in results.items():
        error = (values.astype(np.float64) - CAMERA.offset) / CAMERA.gain - unseen
        thirds = np.array_split(error[unseen > 1.0][lit], 3)
        cells = [np.sqrt(np.mean(np.square(part))) for part in (error, *thirds)]
        print(f"| {name} | {' | '.join(f'{cell:.3f}' for cell in cells)} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
