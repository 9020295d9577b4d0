import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tweedie_diffusion
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.training import trained
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.trained import TrainedModel, load_run

MEAN, VARIANCE = 0.3, 0.25


@pytest.fixture
def model():
    """The exact denoiser of N(.3, .25) in the place of a network."""
    facts = DataFacts((3,), 0.5, 0.4, 0.4, 0, Scaling(-1, 1, "float32"), 10, 10)
    make_denoise = lambda params, **_: gaussian_denoiser(params["mean"], params["variance"])
    return TrainedModel(
        default_config(), facts, make_denoise, {"mean": np.float32(MEAN), "variance": np.float32(VARIANCE)}
    )


def test_sample_i_depends_on_seed_and_i_alone(model, monkeypatch):
    many = model.sample(range(70), seed=3)
    monkeypatch.setattr(trained, "BATCH", 8)
    np.testing.assert_allclose(model.sample([65, 2], seed=3), many[[65, 2]], atol=1e-5)


def test_another_seed_draws_other_samples(model):
    assert not np.allclose(model.sample([0], seed=0), model.sample([0], seed=1))


def test_full_samples_follow_the_clean_law(model):
    x_0 = model.sample(range(4096), num_steps=80)
    assert x_0.mean() == pytest.approx(MEAN, abs=5 * (VARIANCE / x_0.size) ** 0.5)
    assert x_0.var() == pytest.approx(VARIANCE, rel=0.05)


def test_truncated_samples_are_posterior_means_at_the_noise_of_the_data(model):
    x_0 = model.sample(range(4096), truncated=True)
    assert x_0.var() == pytest.approx(VARIANCE**2 / (VARIANCE + 0.4**2), rel=0.05)  # Var E[x_0 | x_tn]


def test_truncated_sampling_needs_noise_in_the_data(model):
    model.facts = DataFacts((3,), 0.5, 0.0, 0.0, 0, Scaling(-1, 1, "float32"), 10, 10)
    with pytest.raises(InputError, match="no noise to stop at"):
        model.sample([0], truncated=True)


def test_denoise_all_takes_a_level_an_image_and_leaves_clean_ones(model, rng):
    x_t, sigma = rng.normal(size=(70, 3)).astype(np.float32), np.linspace(0, 1, 70, dtype=np.float32)
    exact = MEAN + VARIANCE / (VARIANCE + sigma[:, None] ** 2) * (x_t - MEAN)
    np.testing.assert_allclose(model.denoise_all(x_t, sigma), exact, atol=1e-5)


def test_posterior_samples_have_the_posterior_law(model):
    x_t, sigma = np.tile(np.float32([[0.9, 0.0, -0.5]]), (2000, 1)), np.full(2000, 0.4, np.float32)
    draws = model.posterior_sample(x_t, sigma, 0)
    shrink = VARIANCE / (VARIANCE + 0.4**2)
    spread = (shrink * 0.4**2) ** 0.5
    np.testing.assert_allclose(draws.mean(0), MEAN + shrink * (x_t[0] - MEAN), atol=5 * spread / 2000**0.5)
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.1)


def test_posterior_draws_differ_and_clean_images_stay(model):
    x_t, sigma = np.ones((2, 3), np.float32), np.float32([0.0, 0.4])
    first, second = (model.posterior_sample(x_t, sigma, n) for n in range(2))
    assert np.array_equal(first[0], x_t[0])
    assert not np.allclose(first[1], second[1])


def test_denoise_refuses_other_shapes_and_levels(model):
    with pytest.raises(ValueError, match=r"the model takes images \[3\] \(got \[4\]\)"):
        model.denoise(np.zeros((1, 4), np.float32), 0.5)
    with pytest.raises(ValueError, match="sigma must be > 0"):
        model.denoise(np.zeros((1, 3), np.float32), 0.0)


def test_load_gives_the_averaged_denoiser(config, tmp_path, rng):
    config.model.class_conditional = True
    train(config, tmp_path)
    denoise = tweedie_diffusion.load(tmp_path)
    x_t = rng.normal(size=(5, 2)).astype(np.float32)
    model = load_run(tmp_path)
    expected = model.make_denoise(model.params, labels=np.arange(5))(x_t, np.full(5, 0.2, np.float32))
    np.testing.assert_allclose(denoise(x_t, 0.2, np.arange(5)), expected, atol=1e-6)
    assert not np.allclose(model.sample([0], label=1), model.sample([0], label=2))


def test_load_says_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        tweedie_diffusion.load(tmp_path)


def test_denoise_can_be_differentiated(config, tmp_path):
    train(config, tmp_path)
    denoise = tweedie_diffusion.load(tmp_path)
    slope = jax.grad(lambda x: denoise(x, 0.3).sum())(np.ones((1, 2), np.float32))
    assert np.isfinite(slope).all()


def test_without_a_label_samples_take_each_class_in_turn(model):
    model.config.model.class_conditional = True
    model.facts = DataFacts((3,), 0.5, 0.4, 0.4, 4, Scaling(-1, 1, "float32"), 10, 10)
    by_class = lambda params, labels=None: lambda x, sigma: jnp.broadcast_to(labels[:, None], x.shape).astype(x.dtype)
    model = TrainedModel(model.config, model.facts, by_class, {})
    np.testing.assert_allclose(model.sample(range(6))[:, 0], [0, 1, 2, 3, 0, 1], atol=1e-5)
    np.testing.assert_allclose(model.sample(range(2), label=2)[:, 0], [2, 2], atol=1e-5)
