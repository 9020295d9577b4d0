import numpy as np
import pytest

from experiments.noises import MISTAKES
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import in_memory

CLEAN = np.random.default_rng(0).uniform(-1, 1, (2000, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(in_memory(CLEAN, Scaling(-1, 1, "float32")), NoiseModel(0.3), held_out=0.1, split_seed=5)


def noise_of(dataset, name):
    """x_tn − x_0 of the training images."""
    train = dataset.train._indices
    return MISTAKES[name].images(dataset, 0.3, seed=5) - CLEAN[train], CLEAN[train]


@pytest.mark.parametrize("name", [name for name in MISTAKES if name != "clipped to 8 bits"])
def test_noise_has_the_level_of_the_data_whatever_is_stated(dataset, name):
    noise, _ = noise_of(dataset, name)
    assert noise.std() == pytest.approx(0.3, rel=0.01)
    assert abs(noise.mean()) < 0.005


def test_laws_have_their_fourth_moment(dataset):
    kurtosis = lambda name: np.mean(noise_of(dataset, name)[0] ** 4, dtype=np.float64) / 0.3**4
    assert kurtosis("Laplace noise") == pytest.approx(6.0, rel=0.1)
    assert kurtosis("uniform noise") == pytest.approx(1.8, rel=0.02)
    assert kurtosis("σ_tn stated × 1") == pytest.approx(3.0, rel=0.03)


def test_counts_vary_in_proportion_to_their_mean(dataset):
    noise, x_0 = noise_of(dataset, "Poisson noise")
    slope, intercept = np.polyfit((x_0 + 1.2).ravel(), np.square(noise).ravel(), 1)
    assert slope == pytest.approx(0.3**2 / 1.2, rel=0.05)
    assert abs(intercept) < 0.005


def test_only_correlated_noise_correlates(dataset):
    neighbours = lambda name: np.mean((n := noise_of(dataset, name)[0])[:, 1:] * n[:, :-1]) / 0.3**2
    assert 0.2 < neighbours("correlated noise") < 0.5
    assert abs(neighbours("Laplace noise")) < 0.01


def test_clipped_images_are_of_eight_bits(dataset):
    values = MISTAKES["clipped to 8 bits"].images(dataset, 0.3, seed=5)
    assert len(np.unique(values)) == 256
    assert (values.min(), values.max()) == (-1, 1)
