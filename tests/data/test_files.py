from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.files import check_output, read_images, scaling_for, write_images
from tweedie_diffusion.data.scaling import Scaling

SHAPE = (4, 6, 1)


def random_images(rng, dtype, shape=SHAPE):
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=(3, *shape)).astype(dtype)
    return rng.integers(0, np.iinfo(dtype).max, (3, *shape), dtype=dtype, endpoint=True)


def check_same(got, expected):
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
def test_arrays_come_back_in_their_dtype(tmp_path, rng, suffix, dtype):
    images, path = random_images(rng, dtype), tmp_path / f"a{suffix}"
    write_images(path, images, None)
    check_same(read_images(path, SHAPE).images, images)


def test_an_npz_carries_further_arrays(tmp_path, rng):
    images, levels = random_images(rng, np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    write_images(tmp_path / "a.npz", images, None, {"sigma_tn": levels})
    check_same(read_images(tmp_path / "a.npz", SHAPE).sigma_tn, levels)


def test_vectors_come_back(tmp_path, rng):
    images = random_images(rng, np.float32, (5,))
    write_images(tmp_path / "a.npz", images, None)
    check_same(read_images(tmp_path / "a.npz", (5,)).images, images)


@pytest.mark.parametrize(("dtype", "shape"), [(np.uint8, (4, 6, 1)), (np.uint16, (4, 6, 1)), (np.uint8, (4, 6, 3))])
def test_a_png_comes_back(tmp_path, rng, dtype, shape):
    images = random_images(rng, dtype, shape)[:1]
    write_images(tmp_path / "a.png", images, None)
    check_same(read_images(tmp_path / "a.png", shape).images, images)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_folder_comes_back_with_its_names(tmp_path, rng, dtype):
    images, names = random_images(rng, dtype), ["a.png", "sub/b.png", "sub/deep/a.png"]
    write_images(tmp_path / "out", images, names)
    read = read_images(tmp_path / "out", SHAPE)
    assert read.names == names
    check_same(read.images, images)


def test_jpegs_are_written_as_pngs_which_lose_nothing(tmp_path, rng):
    images = random_images(rng, np.uint8)
    write_images(tmp_path / "out", images, ["a.jpg", "b.JPEG", "c.png"])
    read = read_images(tmp_path / "out", SHAPE)
    assert read.names == ["a.png", "b.png", "c.png"]
    check_same(read.images, images)


def test_files_that_would_be_written_to_one_are_refused(tmp_path, rng):
    for name in ("a.jpg", "a.png"):
        Image.fromarray(random_images(rng, np.uint8)[0, ..., 0]).save(tmp_path / name)
    with pytest.raises(InputError, match=r"a.jpg and a.png would be written to one file: rename one"):
        read_images(tmp_path, SHAPE)


def test_depths_are_not_mixed(tmp_path, rng):
    for name, dtype in (("a.png", np.uint8), ("b.png", np.uint16)):
        write_images(tmp_path / name, random_images(rng, dtype)[:1], None)
    with pytest.raises(InputError, match="mixes 8-bit and 16-bit images: denoise them apart"):
        read_images(tmp_path, SHAPE)


@pytest.mark.parametrize("source", ["a.npz", "a.npy", "a.png", ""])
def test_a_wrong_shape_is_named(tmp_path, source):
    images = np.zeros((1, 4, 6, 1), np.uint8)
    write_images(tmp_path / (source or "a.png"), images, None)
    named = source or "a.png"
    with pytest.raises(InputError, match=rf"{named} is 4×6×1, and the model takes 8×8×1"):
        read_images(tmp_path / source, (8, 8, 1))


def test_noisy_images_may_leave_the_range_but_must_be_finite(tmp_path):
    images = np.full((3, *SHAPE), 7.0, np.float32)
    np.savez(tmp_path / "good.npz", images=images)
    assert read_images(tmp_path / "good.npz", SHAPE).images.max() == 7
    images[1, 0, 0] = np.nan
    np.savez(tmp_path / "bad.npz", images=images)
    with pytest.raises(InputError, match=r"bad.npz: image 1 holds NaN or infinity"):
        read_images(tmp_path / "bad.npz", SHAPE)


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.png", "folder"])
def test_a_missing_path_is_named(tmp_path, name):
    with pytest.raises(InputError, match=f"{name} does not exist"):
        read_images(tmp_path / name, SHAPE)


def test_an_unknown_kind_of_file_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(InputError, match=r"a.txt is not an image, a folder of images, an .npz or an .npy"):
        read_images(tmp_path / "a.txt", SHAPE)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no PNG or JPEG image"):
        read_images(tmp_path, SHAPE)


def test_an_output_needs_a_known_suffix():
    with pytest.raises(InputError, match=r"a.tiff must end in .npz or .npy"):
        check_output(Path("a.tiff"), (".npz", ".npy"))


def test_an_output_needs_its_folder(tmp_path):
    with pytest.raises(InputError, match=r"the folder of .* does not exist: create it first"):
        check_output(tmp_path / "nowhere" / "a.npz", (".npz",))


def test_a_possible_output_is_returned(tmp_path):
    assert check_output(tmp_path / "a.npz", (".npz",)) == tmp_path / "a.npz"


def test_an_output_that_is_a_folder_is_refused(tmp_path):
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(InputError, match="is a folder: name a file"):
        check_output(tmp_path / "a.npz", (".npz",))


def test_images_of_the_trained_dtype_are_read_as_in_training():
    trained = Scaling(0, 4095, "uint16")
    assert scaling_for(np.dtype("uint16"), trained) == trained


def test_other_floats_keep_the_trained_range_and_their_own_dtype():
    trained = Scaling(0, 16, "float32")
    assert scaling_for(np.dtype("float64"), trained) == Scaling(0, 16, "float64")


@pytest.mark.parametrize("bounded", [True, False])
def test_another_kind_of_dtype_is_read_in_its_usual_range(bounded):
    trained = Scaling(0, 16, "float32", bounded)
    assert scaling_for(np.dtype("uint8"), trained) == Scaling(0, 255, "uint8", bounded)


def test_floats_are_read_in_the_range_of_the_training_images():
    assert scaling_for(np.dtype("float32"), Scaling(0, 255, "uint8")) == Scaling(0, 255, "float32")
