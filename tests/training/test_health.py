import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import in_memory
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.health import data_warnings, health_warnings, held_out_health
from tweedie_diffusion.training.trained import TrainedModel

MEAN, VARIANCE = 0.3, 0.25


@pytest.fixture
def dataset():
    stored = np.random.default_rng(0).normal(MEAN, VARIANCE**0.5, (600, 32)).astype(np.float32)
    images = in_memory(stored, Scaling(-1, 1, "float32", bounded=False))
    return open_dataset(images, NoiseModel(0.4), held_out=0.45, split_seed=0)


def health_of(dataset, variance):
    """Of the exact denoiser of N(.3, variance)."""
    config = default_config()
    config.sampling.num_steps = 40
    make_denoise = lambda params, **_: gaussian_denoiser(MEAN, params["variance"])
    model = TrainedModel(config, facts_of(dataset), make_denoise, {"variance": jnp.float32(variance)})
    return held_out_health(model, dataset)


def test_the_exact_denoiser_is_healthy_and_scored_best(dataset):
    exact = health_of(dataset, VARIANCE)
    assert exact["sample_variance"] == pytest.approx(1.0, abs=0.25)
    # V·σ_tn²/(V + σ_tn²) over the error at 1.15 σ_tn
    above = (1.15 * 0.4) ** 2
    expected = 0.16 / (VARIANCE + 0.16) / (above / (VARIANCE + above))
    assert exact["posterior_variance"] == pytest.approx(expected, rel=0.35)
    assert abs(exact["proximal_distance"]) < 0.02
    assert health_warnings(exact) == []
    others = [health_of(dataset, variance)["score"] for variance in (0.02, 1.0)]
    assert exact["score"] < min(others)


def test_a_model_of_no_variance_is_called_collapsed(dataset):
    lines = health_warnings(health_of(dataset, 1e-4))
    assert len(lines) == 2
    assert "of the variance of the clean images: the model collapses" in lines[0]
    assert "the posterior collapses" in lines[1]


def test_clean_data_says_nothing(dataset):
    clean = open_dataset(dataset.images, NoiseModel(0.0), held_out=0.45, split_seed=0)
    assert health_of(clean, VARIANCE) == {}
    assert health_warnings({}) == []
    assert data_warnings(clean) == []


def test_noise_that_the_data_cannot_hold_is_told(dataset):
    flat = np.random.default_rng(1).normal(0, [1.0, 1.0, 0.3], (900, 3)).astype(np.float32)
    images = in_memory(flat, Scaling(-1, 1, "float32", bounded=False))
    stated = open_dataset(images, NoiseModel(0.4, present=True), held_out=0.45, split_seed=0)
    assert "data.sigma_tn=0.4 is more than the noisy images can hold, 0.3" in data_warnings(stated)[0]
    assert data_warnings(dataset) == []
