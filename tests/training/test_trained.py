import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tweedie_diffusion
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.models.patch_mixture import PatchMixture
from tweedie_diffusion.training import trained
from tweedie_diffusion.training.config import default_config, from_json, to_json
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.parts import request_of
from tweedie_diffusion.training.trained import TrainedModel, digest, load_run

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


def changed(model, key, value):
    config = from_json(to_json(model.config))
    config.update_from_flattened_dict({key: value})
    return dataclasses.replace(model, config=config)


def mixture(mean):
    axes, one = np.eye(3, dtype=np.float32)[None], np.ones(1, np.float32)
    return PatchMixture(one, np.full((1, 3), mean, np.float32), axes, np.ones((1, 3), np.float32), np.zeros(2))


@pytest.mark.parametrize(
    ("key", "value"), [("data.source", "elsewhere"), ("training.log_every", 7), ("evaluation.num_images", 7)]
)
def test_the_digest_of_a_model_is_of_nothing_that_leaves_it_as_it_is(model, key, value):
    assert digest(changed(model, key, value)) == digest(model)


def test_the_digest_of_a_model_is_of_all_that_changes_it(model):
    others = [
        changed(model, "model.sigma_data", 0.7),
        changed(model, "sampling.rho", 5.0),
        dataclasses.replace(model, facts=dataclasses.replace(model.facts, scaling=Scaling(-1, 2, "float32"))),
        dataclasses.replace(model, params=model.params | {"mean": np.float32(0.31)}),
        dataclasses.replace(model, mixture=mixture(0.0)),
        dataclasses.replace(model, mixture=mixture(0.1)),
    ]
    assert len({digest(other) for other in [model, *others]}) == 7


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


@pytest.fixture
def of_classes():
    """Four classes, of which the model returns the number; −1 without one."""
    config = default_config()
    config.model.class_conditional = True
    facts = DataFacts((3,), 0.5, 0.4, 0.4, 4, Scaling(-1, 1, "float32", bounded=False), 10, 10)
    by_class = lambda params, labels: lambda x, sigma: jnp.broadcast_to(labels[:, None], x.shape).astype(x.dtype)
    return TrainedModel(config, facts, by_class, {})


def test_posterior_samples_of_a_class_are_of_it(of_classes):
    x_t, sigma, labels = np.zeros((4, 3), np.float32), np.float32([0.4, 0, 0.4, 0.4]), np.array([3, 1, 2, -1])
    draws = of_classes.posterior_sample(x_t, sigma, 0, labels=labels)
    np.testing.assert_allclose(draws[:, 0], [3, 0, 2, -1], atol=1e-5)


def test_without_a_class_a_model_that_always_had_one_is_not_asked(of_classes):
    of_classes.config.model.label_dropout = 0.0
    x_t, sigma = np.zeros((2, 3), np.float32), np.full(2, 0.4, np.float32)
    for labels in (None, np.array([1, -1])):
        with pytest.raises(InputError, match=r"give labels, or train with model.label_dropout > 0"):
            of_classes.denoise(x_t, sigma, labels)
        with pytest.raises(InputError, match=r"give labels, or train with model.label_dropout > 0"):
            of_classes.posterior_sample(x_t, sigma, 0, labels=labels)
    np.testing.assert_allclose(of_classes.denoise(x_t, sigma, np.array([1, 2]))[:, 0], [1, 2], atol=1e-5)


def test_guidance_goes_beyond_the_class(of_classes):
    # −1 + w (label − −1), by the last denoising.
    np.testing.assert_allclose(of_classes.sample(range(4), guidance=3.0)[:, 0], [2, 5, 8, 11], atol=1e-4)
    np.testing.assert_allclose(of_classes.sample(range(4), guidance=0.0)[:, 0], [-1] * 4, atol=1e-4)


def test_guidance_acts_between_its_levels_only(of_classes):
    draw = lambda interval: of_classes.sample([1], guidance=3.0, guidance_interval=interval, sigmas=(4.0, 2.0, 1.0))
    np.testing.assert_allclose(draw((0.1, 1.0))[0], [5] * 3, atol=1e-4)
    np.testing.assert_allclose(draw((1.0, 9.0))[0], [1] * 3, atol=1e-4)


def test_stated_levels_are_those_that_are_denoised(model):
    # Of one level, a sample is the posterior mean of the noise that it starts from.
    noise = model.sample(range(8), sigmas=(1e-3,), seed=5)
    far = model.sample(range(8), sigmas=(2.0,), seed=5)
    shrink = lambda sigma: VARIANCE / (VARIANCE + sigma**2)
    starts = (noise - MEAN) / shrink(1e-3) + MEAN
    np.testing.assert_allclose((far - MEAN) / shrink(2.0) + MEAN, starts * 2000, atol=2e-2)


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({}, {"guidance": float("nan")}, "guidance must be a number"),
        ({}, {"guidance": 2.0, "guidance_interval": (1.0, 1.0)}, "guidance_interval must be LOW,HIGH"),
        ({}, {"guidance_interval": (0.1, 1.0)}, "state guidance too"),
        ({"label_dropout": 0.0}, {"guidance": 2.0}, "guidance needs training with model.label_dropout > 0"),
        ({"class_conditional": False}, {"guidance": 2.0}, "guidance needs classes, and the model has none"),
        ({}, {"label": 4}, "label=4: the model has no such class, it has 0 to 3"),
        ({"class_conditional": False}, {"label": 0}, "label=0: the model has no such class, it has none"),
        ({}, {"sigmas": (1.0, 2.0)}, "sigmas must go down"),
    ],
)
def test_sampling_refuses_before_any_work(of_classes, change, settings, message):
    of_classes.config.model.update(change)
    with pytest.raises(InputError, match=message):
        request_of(of_classes, 10, **settings)


ON_EIGHT_DEVICES = """
import sys
import jax
import numpy as np
from tweedie_diffusion.training import trained
from tests.training.test_parts import with_network
from tests.training.conftest import small_config

assert jax.device_count() == 8
network, noise = with_network((2,), small_config()), with_network((2,), small_config())
noise.make_denoise = lambda params, **_: lambda x, sigma: (sigma[:, None] < 0.45) * x  # the end of a walk of noise
found = {}
for devices, count in (("many", trained.devices_for), ("one", lambda *_: 1)):
    trained.devices_for = count
    found[f"noise_{devices}"] = noise.sample(range(700), step="ancestral", sigmas=(3.0, 1.0, 0.5, 0.4))
    found[f"images_{devices}"] = network.sample(range(700), step="midpoint")
    found[f"last_{devices}"] = network.sample([699], step="midpoint")
np.savez(sys.argv[1], **found)
"""


def test_samples_are_the_same_on_any_number_of_devices(tmp_path):
    flags = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    run = [sys.executable, "-c", ON_EIGHT_DEVICES, str(tmp_path / "found.npz")]
    subprocess.run(run, env=flags, cwd=Path(__file__).parents[2], check=True)
    found = np.load(tmp_path / "found.npz", allow_pickle=False)
    assert min(len(np.unique(found[f"{name}_one"])) for name in ("noise", "images")) > 1000
    np.testing.assert_array_equal(found["noise_many"], found["noise_one"])
    np.testing.assert_array_equal(found["images_many"], found["images_one"])
    np.testing.assert_array_equal(found["last_many"], found["images_one"][699:])
