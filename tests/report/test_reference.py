import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.report.reference import named, read_frames
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.trained import TrainedModel


@pytest.fixture
def model():
    """Of 8-bit images 8×8."""
    facts = DataFacts((8, 8, 1), 0.5, 0.2, 0.2, 0, Scaling(0.0, 255.0, "uint8"), 10, 10)
    return TrainedModel(default_config(), facts, lambda *_, **__: None, params={})


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_images_of_ones_own_are_scaled_as_the_model_has_it(model, tmp_path, rng):
    images = rng.integers(0, 256, (20, 8, 8), np.uint8)
    found = named(str(saved(tmp_path / "own.npz", images=images)), model)
    np.testing.assert_allclose(found.images[..., 0], images / 127.5 - 1, atol=1e-6)
    assert found.sigma_tn is None


@pytest.mark.parametrize("shape", [(20, 9, 8), (20, 8, 8, 3)])
def test_images_of_another_size_are_refused(model, tmp_path, shape):
    path = saved(tmp_path / "own.npz", images=np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match="8×8×1: name a set"):
        named(str(path), model)


def test_frames_come_with_the_noise_of_training_or_their_own(model, tmp_path):
    frames = np.full((3, 8, 8), 127.5)
    found = read_frames(saved(tmp_path / "a.npz", first=frames, second=frames), model)
    np.testing.assert_array_equal(found.sigma_tn, np.float32(0.2))
    np.testing.assert_allclose(found.first, np.zeros((3, 8, 8, 1)), atol=1e-6)
    found = read_frames(saved(tmp_path / "b.npz", first=frames, second=frames, sigma_tn=np.array([1, 2, 3.0])), model)
    np.testing.assert_array_equal(found.sigma_tn, [1, 2, 3])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"first": np.zeros((3, 8, 8))}, "no array 'second'"),
        ({"first": np.zeros((3, 8, 8)), "second": np.zeros((2, 8, 8))}, "must be as many"),
        ({"first": np.zeros((3, 4, 8)), "second": np.zeros((3, 4, 8))}, "at least two frames of 8×8×1"),
        ({"first": np.zeros((2, 8, 8)), "second": np.zeros((2, 8, 8)), "sigma_tn": np.zeros(2)}, "sigma_tn > 0"),
    ],
)
def test_frames_that_are_none_are_refused(model, tmp_path, arrays, words):
    with pytest.raises(InputError, match=words):
        read_frames(saved(tmp_path / "a.npz", **arrays), model)
