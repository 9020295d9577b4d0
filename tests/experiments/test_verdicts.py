import numpy as np
import pytest

from experiments.photons import CAMERA, photons_of, stored
from experiments.verdicts import NOISES, stabilised_spread
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.data.verdicts import VERDICTS


def test_photon_noise_of_the_right_gain_is_one_after_the_transform(rng):
    expected = np.repeat([2.0, 10.0, 30.0, 100.0], 20_000)
    counts = 3.3 * rng.poisson(expected)
    spread = stabilised_spread(PhotonNoise(3.3), counts, expected)
    assert len(spread) == 10
    np.testing.assert_allclose(spread, 1.0, atol=0.04)
    np.testing.assert_allclose(stabilised_spread(PhotonNoise(6.6), counts, expected), 0.5**0.5, atol=0.03)


def test_every_noise_has_a_verdict_that_exists():
    assert {right for _, _, right in NOISES.values()} <= set(VERDICTS)


def test_the_camera_has_the_law_it_states():
    photons = photons_of(np.full((1000, 28, 28, 1), 255, np.uint8))
    assert photons.shape == (1000, 14, 14)
    values = stored(photons, 0).astype(np.float64)
    signal = CAMERA.gain * 30 + CAMERA.offset
    assert values.mean() == pytest.approx(signal, rel=0.002)
    assert values.var() == pytest.approx(float(CAMERA.variance(signal)), rel=0.02)
