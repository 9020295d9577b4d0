"""How fast images of each source are read, beside a plain loop: python -m experiments.benchmarks.reading."""

import io
import tarfile
import tempfile
import time
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import tifffile
from astropy.io import fits
from PIL import Image

from tweedie_diffusion.data import noisy
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.data.scaling import ScalingRule
from tweedie_diffusion.data.sources import open_images

BATCH, BATCHES = 64, 24


def png(path, image):
    Image.fromarray(image).save(path)


def read_png(path):
    return np.asarray(Image.open(path))


def tiff(path, image):
    tifffile.imwrite(path, image.astype(np.uint16), photometric="rgb")


def write_fits(path, image):
    fits.PrimaryHDU(image[..., 0].astype(np.float32)).writeto(path)


def write_mrc(path, image):
    with mrcfile.new(path, image[..., 0].astype(np.float32)):
        pass


def read_mrc(path):
    with mrcfile.open(path) as file:
        return np.array(file.data)


def read_npy(path):
    return np.load(path, allow_pickle=False)


def write_h5(path, image):
    with h5py.File(path, "w") as file:
        file["images"] = image[None]


def read_h5(path):
    with h5py.File(path) as file:
        return file["images"][0]


# suffix: (how an image is written, how its own library reads it)
FILES = {
    ".png": (png, read_png),
    ".jpg": (png, read_png),
    ".tif": (tiff, tifffile.imread),
    ".fits": (write_fits, fits.getdata),
    ".mrc": (write_mrc, read_mrc),
    ".h5": (write_h5, read_h5),
    ".npy": (np.save, read_npy),
}


def write_folder(folder, suffix, images):
    for i, image in enumerate(images):
        FILES[suffix][0](folder / f"{i:05}{suffix}", image)


def write_tar(folder, images):
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for i, image in enumerate(images):
            file = io.BytesIO()
            Image.fromarray(image).save(file, "PNG")
            member = tarfile.TarInfo(f"{i:05}.png")
            member.size = file.tell()
            file.seek(0)
            shard.addfile(member, file)


def ours(source) -> float:
    """Images/s of batches as training gets them, from files each time."""
    images = open_images(str(source), clean=False, rule=ScalingRule((0, 255)))
    noisy.CACHE_BYTES = 0
    dataset = open_dataset(images, NoiseModel(0.2, present=True), held_out=2 / images.count, split_seed=0)
    stream = batches(dataset.train, batch_size=BATCH, seed=0)
    next(stream)
    start = time.perf_counter()
    for _ in range(BATCHES):
        next(stream)
    return BATCH * BATCHES / (time.perf_counter() - start)


def plain(paths, read) -> float:
    """Images/s of a loop over the files."""
    start = time.perf_counter()
    for path in paths:
        read(path)
    return len(paths) / (time.perf_counter() - start)


def main():
    print("| source | side | plain loop | batches | ratio |\n|---|---|---|---|---|")
    for side in (64, 256):
        count = 2048 if side == 64 else 512
        images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        for suffix, (_, read) in FILES.items():
            with tempfile.TemporaryDirectory() as name:
                write_folder(Path(name), suffix, images)
                loop, mine = plain(sorted(Path(name).iterdir()), read), ours(name)
            print(f"| folder of {suffix} | {side} | {loop:.0f}/s | {mine:.0f}/s | {mine / loop:.2f} |", flush=True)
        with tempfile.TemporaryDirectory() as name:
            write_tar(Path(name), images)
            print(f"| .tar of .png | {side} | | {ours(Path(name) / 'shard.tar'):.0f}/s | |", flush=True)
        with tempfile.TemporaryDirectory() as name:
            np.savez(Path(name) / "a.npz", images=images)
            print(f"| .npz | {side} | | {ours(Path(name) / 'a.npz'):.0f}/s | |", flush=True)


if __name__ == "__main__":
    main()
