import os
import pickle

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import ScalingRule
from tweedie_diffusion.data.sources import open_images

NUM_POINTS = 40_000


@pytest.fixture
def npz(tmp_path):
    """Save named arrays; returns the path."""

    def save(**arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        return str(tmp_path / "a.npz")

    return save


def test_digits_span_the_unit_range():
    images = open_images("digits")
    x = np.stack([images.scaling.to_unit(images.read(i)) for i in range(images.count)])
    assert x.shape == (1797, 8, 8, 1)
    assert (x.min(), x.max()) == (-1, 1)


def test_digits_and_their_labels_are_those_of_scikit_learn():
    images, bunch = open_images("digits"), load_digits()
    np.testing.assert_array_equal(images.read(17)[..., 0], bunch.images[17])
    assert [images.read_label(i) for i in range(50)] == list(bunch.target[:50])
    assert images.num_classes == 10


@pytest.mark.parametrize("setting", [{"image_size": 4}, {"rule": ScalingRule((0, 1))}])
def test_settings_that_digits_cannot_have_are_refused(setting):
    with pytest.raises(InputError, match=r"leave data.image_size, data.crop and data.range"):
        open_images("digits", **setting)


@pytest.fixture(scope="module")
def mixture():
    return open_images("mixture_2d", num_examples=NUM_POINTS, seed=3)


@pytest.fixture(scope="module")
def points(mixture):
    return np.stack([mixture.scaling.to_unit(mixture.read(i)) for i in range(NUM_POINTS)]).astype(np.float64)


def test_the_mixture_has_gaussians_on_the_unit_circle(mixture, points):
    labels = np.array([mixture.read_label(i) for i in range(NUM_POINTS)])
    for k in range(8):
        mine = points[labels == k]
        centre = np.cos(2 * np.pi * k / 8), np.sin(2 * np.pi * k / 8)
        assert abs(len(mine) / NUM_POINTS - 1 / 8) < 5 * np.sqrt(1 / 8 * 7 / 8 / NUM_POINTS)
        assert (abs(mine.mean(axis=0) - centre) < 5 * 0.1 / np.sqrt(len(mine))).all()
        assert (abs(mine.var(axis=0) / 0.01 - 1) < 5 * np.sqrt(2 / len(mine))).all()


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.5])
def test_the_oracle_of_the_mixture_is_the_posterior_mean_over_its_points(mixture, points, sigma):
    x_t = np.array([[1.1, 0.2], [0.0, 0.1], [-0.5, -0.9]])
    weights = np.exp(-0.5 * np.sum((x_t[:, None] - points) ** 2, axis=-1) / sigma**2)
    weights /= weights.sum(axis=1, keepdims=True)
    mean = weights @ points
    spread = np.sqrt(np.sum(weights[..., None] ** 2 * (points - mean[:, None]) ** 2, axis=1))
    assert (abs(np.asarray(mixture.oracle(x_t.astype(np.float32), sigma)) - mean) < 5 * spread).all()


def test_the_seed_fixes_the_points_of_the_mixture(mixture, points):
    again = open_images("mixture_2d", num_examples=NUM_POINTS, seed=3)
    other = open_images("mixture_2d", num_examples=NUM_POINTS, seed=4)
    np.testing.assert_array_equal(again.read(5), mixture.read(5))
    assert not np.array_equal(other.read(5), mixture.read(5))


@pytest.mark.parametrize("key", ["images", "train_images", "whatever"])
def test_images_are_found_by_name_or_because_they_are_alone(npz, rng, key):
    stored = rng.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    images = open_images(npz(**{key: stored}))
    assert (images.count, images.shape, images.num_classes) == (5, (4, 6, 3), 0)
    assert (images.scaling.low, images.scaling.high, images.scaling.bounded) == (0, 255, True)
    np.testing.assert_array_equal(images.read(3), stored[3])


def test_an_npy_holds_the_images(tmp_path, rng):
    stored = rng.uniform(-1, 1, (5, 4, 6, 1)).astype(np.float32)
    np.save(tmp_path / "a.npy", stored)
    np.testing.assert_array_equal(open_images(str(tmp_path / "a.npy")).read(2), stored[2])


def test_several_unnamed_arrays_are_an_error(npz):
    with pytest.raises(InputError, match="holds a, b: name the one to use `images`"):
        open_images(npz(a=np.zeros((2, 4, 4)), b=np.zeros((2, 4, 4))))


def test_grey_images_get_a_channel(npz):
    assert open_images(npz(images=np.zeros((5, 4, 6)))).shape == (4, 6, 1)


def test_vectors_are_unbounded(npz):
    images = open_images(npz(images=np.full((5, 7), 30.0)))
    assert (images.shape, images.scaling.bounded) == ((7,), False)


@pytest.mark.parametrize("name", ["labels", "train_labels"])
def test_labels_are_read(npz, name):
    images = open_images(npz(images=np.zeros((3, 4, 4)), **{name: np.array([0, 4, 2])}))
    assert images.num_classes == 5
    assert [images.read_label(i) for i in range(3)] == [0, 4, 2]


@pytest.mark.parametrize("labels", [[0.0, 1.0, 2.0], [0, -1, 2], [[0], [1], [2]]])
def test_labels_must_be_whole_numbers(npz, labels):
    with pytest.raises(InputError, match="labels must be whole numbers >= 0, one an image"):
        open_images(npz(images=np.zeros((3, 4, 4)), labels=np.array(labels)))


def test_labels_must_match_the_images_in_number(npz):
    with pytest.raises(InputError, match="`labels` has 2 entries for 3 images"):
        open_images(npz(images=np.zeros((3, 4, 4)), labels=np.array([0, 1])))


def test_stated_noise_levels_are_read(npz):
    images = open_images(npz(images=np.zeros((3, 4, 4)), sigma_tn=np.array([0.0, 0.1, 0.5])), clean=False)
    np.testing.assert_array_equal(images.sigma_tn, np.float32([0.0, 0.1, 0.5]))


@pytest.mark.parametrize("levels", [[0.1, 0.2], [0.1, -0.2, 0.1], [0.1, np.nan, 0.1], 0.1, ["a", "b", "c"]])
def test_noise_levels_must_be_one_an_image(npz, levels):
    with pytest.raises(InputError, match=r"sigma_tn must be \[3\] noise levels >= 0"):
        open_images(npz(images=np.zeros((3, 4, 4)), sigma_tn=np.array(levels)), clean=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("clean", [True, False])
def test_nan_and_infinity_are_named(npz, bad, clean):
    stored = np.zeros((9, 4, 4))
    stored[7, 1, 2] = bad
    with pytest.raises(InputError, match=r"image 7 holds NaN or infinity \(1 such\)"):
        open_images(npz(images=stored), clean=clean)


def test_clean_values_outside_the_range_are_an_error_with_the_mend(npz):
    stored = np.linspace(0, 255, 32).reshape(2, 4, 4)
    mend = r"from 0 to 255, outside \(-1, 1\).*--config.data.range='\(0, 255\)'"
    with pytest.raises(InputError, match=mend):
        open_images(npz(images=stored))


def test_noisy_values_may_leave_the_range(npz):
    assert open_images(npz(images=np.full((2, 4, 4), 1.7)), clean=False).count == 2


def test_a_stated_range_is_used(npz):
    images = open_images(npz(images=np.full((2, 4, 4), 200, np.int32)), rule=ScalingRule((0, 200)))
    np.testing.assert_allclose(images.scaling.to_unit(images.read(0)), np.ones((4, 4, 1)), rtol=1e-6)


def test_clean_images_are_cropped_to_the_centre_and_averaged_by_area(npz, rng):
    stored = rng.uniform(-1, 1, (1, 4, 8, 2)).astype(np.float32)
    image = open_images(npz(images=stored), image_size=2).read(0)
    blocks = stored[0, :, 2:6].reshape(2, 2, 2, 2, 2)  # row block, row, column block, column, channel
    np.testing.assert_allclose(image, blocks.mean(axis=(1, 3)), atol=1e-6)


def test_resized_integers_are_rounded(npz):
    stored = np.uint8([[[0, 1], [1, 1]], [[0, 0], [0, 1]]])
    images = open_images(npz(images=stored), image_size=1)
    assert [images.read(i).item() for i in range(2)] == [1, 0]


@pytest.mark.parametrize(
    ("shape", "clean", "message"),
    [
        ((2, 8, 8, 1), False, "would change their noise: set it to 0"),
        ((2, 3, 3, 1), True, "data.image_size=4 would enlarge an image of 3×3"),
        ((2, 8), True, "holds vectors: set it to 0"),
    ],
)
def test_resizing_is_refused_where_it_makes_no_sense(npz, shape, clean, message):
    with pytest.raises(InputError, match=message):
        open_images(npz(images=np.zeros(shape)), image_size=4, clean=clean)


@pytest.mark.parametrize(
    "images",
    [np.zeros(5), np.zeros((1, 2, 3, 4, 5)), np.zeros((0, 4, 4)), np.array([["a"]]), np.zeros((2, 4, 4), complex)],
)
def test_arrays_that_are_no_images_are_refused(npz, images):
    with pytest.raises(InputError, match="`images` must be numbers of shape"):
        open_images(npz(images=images))


def test_an_empty_archive_is_refused(npz):
    with pytest.raises(InputError, match="holds nothing"):
        open_images(npz())


class Trap:
    """Unpickling one makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_pickled_objects_are_refused_and_never_run(tmp_path, suffix):
    path, sprung = tmp_path / f"a{suffix}", tmp_path / "sprung"
    planted = np.array([Trap(sprung)], dtype=object)
    np.savez(path, images=planted) if suffix == ".npz" else np.save(path, planted)
    with pytest.raises(InputError, match="is not a readable NumPy file"):
        open_images(str(path))
    assert not sprung.exists()
    pickle.loads(pickle.dumps(planted))
    assert sprung.exists(), "the trap does not work"


def damaged(kind, content):
    middle = len(content) // 2
    return {
        "truncated": content[:middle],
        "empty": b"",
        "text": b"not an array",
        "overwritten": content[:middle] + bytes(40) + content[middle + 40 :],
    }[kind]


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "overwritten"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_named(tmp_path, rng, save, kind):
    save(tmp_path / "good.npz", images=rng.normal(size=(5, 4, 4)))
    (tmp_path / "bad.npz").write_bytes(damaged(kind, (tmp_path / "good.npz").read_bytes()))
    with pytest.raises(InputError, match=r"bad.npz is not a readable NumPy file"):
        open_images(str(tmp_path / "bad.npz"))


@pytest.mark.parametrize("kind", ["truncated", "empty", "text"])
def test_a_damaged_npy_is_named(tmp_path, kind):
    np.save(tmp_path / "good.npy", np.zeros((5, 4, 4)))
    (tmp_path / "bad.npy").write_bytes(damaged(kind, (tmp_path / "good.npy").read_bytes()))
    with pytest.raises(InputError, match=r"bad.npy is not a readable NumPy file"):
        open_images(str(tmp_path / "bad.npy"))


def test_a_damaged_npy_header_is_named(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((5, 4, 4)))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes().replace(b"(5, 4, 4)", b"(5, 4, 4("))
    with pytest.raises(InputError, match="is not a readable NumPy file"):
        open_images(str(tmp_path / "a.npy"))


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(InputError, match=f"nowhere{suffix} does not exist"):
        open_images(str(tmp_path / f"nowhere{suffix}"))


@pytest.mark.parametrize("source", ["nowhere", "digit", "images.tar", "no/such/folder"])
def test_an_unknown_source_is_told_the_known_ones(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"does not exist: name a folder or pattern of images, .* or one of digits, mixture_2d"
    ):
        open_images(source)


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [(0, 1, r"data.range='\(0, 1\)' \(or '\(-1, 1\)'\)"), (-3, 255, "state the range of clean ones")],
)
def test_floats_that_plainly_mean_another_range_are_refused(tmp_path, low, high, message):
    np.save(tmp_path / "a.npy", np.linspace(low, high, 32, dtype=np.float32).reshape(2, 4, 4))
    with pytest.raises(InputError, match=message):
        open_images(str(tmp_path / "a.npy"), clean=False)


@pytest.mark.parametrize("features", [16, 64])
def test_the_mixtures_of_many_dimensions_have_unit_variance_and_their_exact_denoiser(features):
    images = open_images(f"mixture_{features}d", num_examples=20_000, seed=3)
    x_0 = np.stack([images.read(i) for i in range(images.count)])
    assert x_0.var(axis=0).mean() == pytest.approx(1.0, abs=0.05)
    x_t = x_0 + 0.3 * np.random.default_rng(0).standard_normal(x_0.shape).astype(np.float32)
    error = np.asarray(jax.jit(images.oracle)(x_t, 0.3), np.float64) - x_0
    # The error of the exact denoiser is orthogonal to every function of x_t.
    for probe in (x_t, np.tanh(x_t)):
        products = (error * probe).sum(axis=1)
        assert abs(products.mean()) < 5 * products.std() / len(products) ** 0.5
