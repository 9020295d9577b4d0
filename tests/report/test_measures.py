import dataclasses

import numpy as np
import pytest

from tweedie_diffusion.evaluation.features import pixel_features
from tweedie_diffusion.report import measures, reference
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.datasets import open_data
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.trained import TrainedModel


@pytest.fixture(scope="module")
def data():
    config = default_config()
    config.data.source, config.data.sigma_tn, config.data.num_examples = "mixture_2d", 0.3, 3000
    return config, open_data(config.data)


@pytest.fixture(scope="module")
def exact(data):
    """The denoiser of the law that the data is drawn from, as a trained model."""
    config, dataset = data
    return TrainedModel(config, facts_of(dataset), lambda params, labels=None: dataset.images.oracle, params={})


@pytest.fixture(scope="module")
def shrunken(data, exact):
    """One that draws everything towards the middle."""
    oracle = data[1].images.oracle
    return dataclasses.replace(exact, make_denoise=lambda params, labels=None: lambda x, sigma: 0.5 * oracle(x, sigma))


def test_the_exact_denoiser_has_the_exact_error(exact, data):
    found, _ = measures.denoising(exact, data[1], seed=0)
    np.testing.assert_allclose(found["value"], found["oracle"], rtol=1e-5)
    np.testing.assert_allclose(found["psnr"], 10 * np.log10(4 / np.array(found["value"])), rtol=1e-6)
    assert pytest.approx(found["sigma"][4]) == 0.3


def test_noisy_images_tell_the_error_above_their_noise_only(exact, data):
    found, _ = measures.denoising(exact, data[1], seed=0)
    below = np.array(found["sigma"]) < 0.31
    by_noisy = found["from_noisy"]
    assert [value is None for value in by_noisy["value"]] == below.tolist()
    above = ~below
    difference = np.array(by_noisy["value"], float)[above] - np.array(found["value"])[above]
    errors = np.hypot(np.array(by_noisy["standard_error"], float), np.array(found["standard_error"]))[above]
    assert np.all(np.abs(difference) < 4 * errors)


@pytest.fixture(scope="module")
def entries(exact, shrunken, data, tmp_path_factory):
    real = reference.held_out(data[1])
    options = {"seed": 0, "cache": tmp_path_factory.mktemp("cache")}
    pixels = pixel_features((2,))
    return [measures.distances(model.sample(range(500)), real, pixels, **options) for model in (exact, shrunken)]


def test_samples_of_the_exact_model_are_told_from_real_ones_no_more_than_these_from_each_other(entries):
    exact, _ = entries
    for name in ("precision", "recall", "density", "coverage"):
        assert exact[name]["matched"] == pytest.approx(exact[name]["floor"], abs=0.08)
    for name in ("frechet", "kid"):
        assert exact[name]["matched"] - exact[name]["floor"] < 4 * exact[name]["difference_sd"]


def test_samples_of_another_law_are_told_by_every_number(entries):
    exact, shrunken = entries
    for name in ("frechet", "kid"):
        assert shrunken[name]["value"] > 5 * max(exact[name]["value"], exact[name]["floor"])
    for name in ("precision", "recall", "density", "coverage"):
        assert shrunken[name]["value"] < exact[name]["value"] - 0.1


def test_noised_samples_are_set_beside_noisy_images(exact, data, tmp_path):
    """Where no clean image exists: equal laws stay equal under noise."""
    noisy = reference.held_out(dataclasses.replace(data[1], held_out_clean=None))
    found = measures.distances(exact.sample(range(500)), noisy, pixel_features((2,)), seed=0, cache=tmp_path)
    assert "noisy" in found["kid"]["reference"]
    assert abs(found["kid"]["value"]) < 4 * found["kid"]["standard_error"] + abs(found["kid"]["floor"])
    assert measures.proximal(exact.sample(range(500)), data[1], seed=0)["value"] < 0.01


def test_samples_get_the_noise_of_all_images_though_these_are_in_an_order(data, tmp_path, rng):
    x_0 = np.stack([data[1].held_out_clean(i) for i in range(500)])
    levels = np.repeat(np.float32([0.1, 2.0]), 100)
    x_tn = x_0[:200] + levels[:, None] * rng.normal(size=(200, 2)).astype(np.float32)
    noisy = reference.Reference("noisy", x_tn, levels, "")
    found = measures.distances(x_0[400:], noisy, pixel_features((2,)), seed=0, cache=tmp_path)["frechet"]
    assert found["matched"] - found["floor"] < 4 * found["difference_sd"]


def test_the_exact_posterior_is_calibrated(exact, data):
    drawn = measures.draw_posterior(exact, data[1], images=200, draws=9, seed=0)
    found = measures.calibration(drawn, seed=0)
    levels = {name: np.array(values) for name, values in found["levels"].items()}
    assert np.all(np.abs(levels["coverage"] - levels["expected"]) < 4 * levels["standard_error"])
    assert sum(found["ranks"]) == 400
    assert abs(found["residual"]["sd"] - 1) < 4 * found["residual"]["sd_error"]


def test_clean_data_has_neither_calibration_nor_proximal_distance(data):
    config = data[0].copy_and_resolve_references()
    config.data.sigma_tn = 0.0
    dataset = open_data(config.data)
    model = TrainedModel(config, facts_of(dataset), lambda params, labels=None: dataset.images.oracle, params={})
    assert measures.draw_posterior(model, dataset, images=8, draws=2, seed=0) is None
    assert measures.proximal(np.zeros((4, 2)), dataset, seed=0) is None
    found, _ = measures.denoising(model, dataset, seed=0)
    assert "from_noisy" not in found
