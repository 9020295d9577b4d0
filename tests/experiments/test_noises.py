import numpy as np
import pytest

from experiments.exactness import mistaken_data
from experiments.noises import MISTAKES
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import in_memory
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.loop import open_data

CLEAN = np.random.default_rng(0).uniform(-1, 1, (2000, 8, 8, 1)).astype(np.float32)

# Of two Gaussian filters of half a pixel, one pixel apart.
FILTER = np.exp(-2.0 * np.arange(-2, 3) ** 2)
CORRELATION = np.sum(FILTER[1:] * FILTER[:-1]) / np.sum(FILTER**2)


@pytest.fixture(scope="module")
def dataset():
    return open_dataset(in_memory(CLEAN, Scaling(-1, 1, "float32")), NoiseModel(0.3), held_out=0.1, split_seed=5)


def noise_of(dataset, name):
    return MISTAKES[name].images(dataset, 0.3, seed=5) - CLEAN


@pytest.mark.parametrize("name", [name for name in MISTAKES if name != "clipped to 8 bits"])
def test_noise_has_the_level_of_the_data_whatever_is_stated(dataset, name):
    noise = noise_of(dataset, name)
    assert noise.std() == pytest.approx(0.3, rel=0.01)
    assert abs(noise.mean()) < 0.005


def test_laws_have_their_fourth_moment(dataset):
    kurtosis = lambda name: np.mean(noise_of(dataset, name) ** 4, dtype=np.float64) / 0.3**4
    assert kurtosis("Laplace noise") == pytest.approx(6.0, rel=0.1)
    assert kurtosis("uniform noise") == pytest.approx(1.8, rel=0.02)
    assert kurtosis("σ_tn stated × 0.9") == pytest.approx(3.0, rel=0.03)


def test_counts_vary_in_proportion_to_their_mean(dataset):
    squared = np.square(noise_of(dataset, "Poisson noise"))
    slope, intercept = np.polyfit((CLEAN + 1.2).ravel(), squared.ravel(), 1)
    assert slope == pytest.approx(0.3**2 / 1.2, rel=0.05)
    assert abs(intercept) < 0.005


def test_only_correlated_noise_correlates(dataset):
    neighbours = lambda name: np.mean((n := noise_of(dataset, name))[:, 1:] * n[:, :-1]) / 0.3**2
    assert neighbours("correlated noise") == pytest.approx(CORRELATION, abs=0.01)
    assert abs(neighbours("Laplace noise")) < 0.01


def test_clipped_images_are_of_eight_bits(dataset):
    values = MISTAKES["clipped to 8 bits"].images(dataset, 0.3, seed=5)
    assert len(np.unique(values)) == 256
    assert (values.min(), values.max()) == (-1, 1)


def test_the_studys_own_noise_is_kept_and_split_as_the_study_splits(dataset, tmp_path):
    path = tmp_path / "stated"
    settings = mistaken_data(MISTAKES["σ_tn stated × 0.8"], dataset, 0.3, 5, path)
    config = default_config().data
    config.update(settings | {"held_out": 0.1, "split_seed": 5})
    again = open_data(config)
    for part, other in ((dataset.train, again.train), (dataset.held_out, again.held_out)):
        rows = np.arange(len(part))
        np.testing.assert_array_equal(part.rows(rows)["x_tn"], other.rows(rows)["x_tn"])
    assert again.train.sigma_tn[0] == pytest.approx(0.24)
