import numpy as np
import pytest

from experiments.restoring import check_levels, check_model, measured, problems, psnr
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.trained import TrainedModel


@pytest.fixture
def x_0(rng):
    return rng.uniform(-1, 1, (3, 8, 4, 2)).astype(np.float32)


@pytest.fixture
def maps():
    return problems((8, 4, 2))


def test_the_middle_is_hidden(maps, x_0):
    y = np.asarray(maps["inpainting"].linear_map(x_0))
    assert y.shape == (3, 8 * 4 - 4 * 2, 2)
    guess = maps["inpainting"].guess(y)
    middle = np.zeros((8, 4), bool)
    middle[2:6, 1:3] = True
    np.testing.assert_array_equal(guess[:, ~middle], x_0[:, ~middle])
    np.testing.assert_allclose(guess[1, middle], np.tile(x_0[1][~middle].mean(axis=0), (8, 1)), rtol=1e-5)


def test_pixels_are_averaged_in_squares(maps, x_0):
    y = np.asarray(maps["super-resolution"].linear_map(x_0))
    np.testing.assert_allclose(y[2, 3, 0], x_0[2, 6:8, 0:2].mean(axis=(0, 1)), rtol=1e-5)
    assert maps["super-resolution"].guess(y).shape == x_0.shape


def test_the_blur_keeps_a_constant_and_spreads_a_point(maps):
    np.testing.assert_allclose(maps["deblurring"].linear_map(np.ones((1, 8, 4, 2), np.float32)), 1, rtol=1e-5)
    point = np.zeros((1, 8, 4, 1), np.float32)
    point[0, 4, 2] = 1
    y = np.asarray(maps["deblurring"].linear_map(point))[0, ..., 0]
    assert y[3, 2] / y[4, 2] == pytest.approx(np.exp(-0.5), rel=0.02)


def test_levels_that_are_none_are_refused():
    check_levels({"sigma_y": 0.05, "sigma_max": 20.0})
    for value in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="--sigma_max must be > 0"):
            check_levels({"sigma_y": 0.05, "sigma_max": value})


@pytest.mark.parametrize(
    ("shape", "sigma_max", "message"),
    [
        ((7, 8, 1), 20.0, "even sides of 4 pixels or more"),
        ((8, 2, 1), 20.0, "even sides of 4 pixels or more"),
        ((8,), 20.0, "needs a run of images"),
        ((8, 8, 1), 0.01, "--sigma_max must exceed sampling.sigma_min"),
    ],
)
def test_what_cannot_be_measured_is_refused(shape, sigma_max, message):
    facts = DataFacts(shape, 0.5, 0.4, 0.4, 0, Scaling(0, 16, "uint8"), 9, 9)
    with pytest.raises(InputError, match=message):
        check_model(TrainedModel(default_config(), facts, lambda params, **_: None, {}), sigma_max)


def test_decibels():
    assert psnr(np.full(4, 0.2), np.zeros(4)) == pytest.approx(20)


def test_exact_samples_have_an_error_of_their_spread(maps, rng):
    # x_0 and its samples are alike: the same law, drawn around the same centres.
    centres = rng.normal(size=(50, 8, 4, 2))
    x_0, *draws = centres + 0.3 * rng.normal(size=(9, 50, 8, 4, 2))
    found = measured(maps["deblurring"], x_0, np.asarray(maps["deblurring"].linear_map(x_0)), np.stack(draws), 0.1)
    assert found["error / spread"] == pytest.approx(1, rel=0.03)
