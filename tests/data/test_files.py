from pathlib import Path

import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.files import check_output, read_stored, scaling_for
from tweedie_diffusion.data.formats.arrays import write_arrays
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
    write_arrays(path, {"images": images})
    check_same(read_stored(path).images, images)


def test_an_npz_carries_further_arrays(tmp_path, rng):
    images, levels = random_images(rng, np.float32), np.array([0.1, 0.2, 0.3], np.float32)
    write_arrays(tmp_path / "a.npz", {"images": images, "sigma_tn": levels})
    check_same(read_stored(tmp_path / "a.npz").sigma_tn, levels)


def test_vectors_come_back(tmp_path, rng):
    images = random_images(rng, np.float32, (5,))
    write_arrays(tmp_path / "a.npz", {"images": images})
    check_same(read_stored(tmp_path / "a.npz").images, images)


def test_noisy_images_may_leave_the_range_but_must_be_finite(tmp_path):
    images = np.full((3, *SHAPE), 7.0, np.float32)
    np.savez(tmp_path / "good.npz", images=images)
    assert read_stored(tmp_path / "good.npz").images.max() == 7
    images[1, 0, 0] = np.nan
    np.savez(tmp_path / "bad.npz", images=images)
    with pytest.raises(InputError, match=r"bad.npz: image 1 holds NaN or infinity"):
        read_stored(tmp_path / "bad.npz")


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
def test_a_missing_path_is_named(tmp_path, name):
    with pytest.raises(InputError, match=f"{name} does not exist"):
        read_stored(tmp_path / name)


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
    trained = Scaling(0, 65535, "uint16", bounded)
    assert scaling_for(np.dtype("uint8"), trained) == Scaling(0, 255, "uint8", bounded)


def test_a_range_of_their_own_holds_for_every_dtype():
    assert scaling_for(np.dtype("uint8"), Scaling(0, 16, "float32")) == Scaling(0, 16, "uint8")


def test_floats_are_read_in_the_range_of_the_training_images():
    assert scaling_for(np.dtype("float32"), Scaling(0, 255, "uint8")) == Scaling(0, 255, "float32")
