"""Files that change between the opening of a data set and the reading of an image."""

import os
import tarfile
from itertools import islice

import numpy as np
import pytest
import tifffile
from PIL import Image

from tweedie_diffusion.data import noisy
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.data.sources import open_images

COUNT = 6  # images


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write_pngs(folder, seed):
    for i, image in enumerate(pixels(seed)):
        Image.fromarray(image).save(folder / f"{i}.png")
    return "3.png"


def write_tiff(folder, seed):
    tifffile.imwrite(folder / "a.tif", pixels(seed), photometric="minisblack")
    return "a.tif"


def write_npys(folder, seed):
    for i, image in enumerate(pixels(seed)):
        np.save(folder / f"{i}.npy", image)
    return "3.npy"


def write_npy_stack(folder, seed):
    np.save(folder / "a.npy", pixels(seed))
    return "a.npy"


def write_tar(folder, seed):
    write_pngs(folder, seed)
    with tarfile.open(folder / "a.tar", "w") as archive:
        for path in sorted(folder.glob("*.png")):
            archive.add(path, path.name)
            path.unlink()
    return "a.tar"


def pixels(seed):
    return np.random.default_rng(seed).integers(0, 256, (COUNT, 40, 40), dtype=np.uint8)


def replace(path, write):
    """By another good file of the same name, and mostly of the same size."""
    other = path.parent / "other"
    other.mkdir()
    (other / write(other, seed=1)).replace(path)


def rewrite(path, write):
    """In place, with the same bytes but for the last."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(path, ns=(1, 1))


def cut_off(path, write):
    os.truncate(path, path.stat().st_size // 2)


def keep_the_time(path, write):
    """Another size, and the old time."""
    status = path.stat()
    path.write_bytes(path.read_bytes() + b"more")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def delete(path, write):
    path.unlink()


WRITERS = [write_pngs, write_tiff, write_npys, write_npy_stack, write_tar]
CHANGES = [replace, rewrite, cut_off, keep_the_time, delete]


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_changed_is_named_and_never_read_as_another(tmp_path, write, change, read_before):
    name = write(tmp_path, seed=0)
    images = open_images(str(tmp_path))
    if read_before:  # then a stack is open already
        np.testing.assert_array_equal(images.read(3)[..., 0], pixels(0)[3])
    change(tmp_path / name, write)
    with pytest.raises(InputError, match=rf"^{name}\S* (has changed|cannot be read any more).*; put it back") as caught:
        images.read(3)
    assert "\n" not in str(caught.value)


def test_other_files_are_read_on(tmp_path):
    write_pngs(tmp_path, seed=0)
    images = open_images(str(tmp_path))
    (tmp_path / "3.png").unlink()
    np.testing.assert_array_equal(images.read(4)[..., 0], pixels(0)[4])


@pytest.mark.parametrize("threads", [0, 2])
def test_a_training_that_meets_it_is_told(tmp_path, monkeypatch, threads):
    monkeypatch.setattr(noisy, "CACHE_BYTES", 0)  # as with more images than fit
    write_pngs(tmp_path, seed=0)
    train = open_dataset(open_images(str(tmp_path)), NoiseModel(0.1), held_out=0.34, split_seed=0).train
    stream = batches(train, batch_size=4, seed=0, threads=threads)
    next(stream)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"\d.png cannot be read any more: No such file or directory; put it back"):
        list(islice(stream, 20))  # some are made already


def test_images_in_memory_do_not_care(tmp_path):
    write_pngs(tmp_path, seed=0)
    train = open_dataset(open_images(str(tmp_path)), NoiseModel(0.1), held_out=0.34, split_seed=0).train
    expected = train.rows(np.arange(4))["x_tn"]
    for path in tmp_path.iterdir():
        path.unlink()
    np.testing.assert_array_equal(train.rows(np.arange(4))["x_tn"], expected)
