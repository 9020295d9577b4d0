import numpy as np
import pytest
from scipy import stats

from tweedie_diffusion.data.photon_fit import fit_photon_noise, grows, noise_curve, repeats_curve
from tweedie_diffusion.data.photon_noise import PhotonNoise


def counts(rng, signal, noise):
    """Stored values whose mean is `signal`."""
    photons = rng.poisson((signal - noise.offset) / noise.gain)
    return noise.gain * photons + noise.offset + noise.read * rng.standard_normal(np.shape(signal))


def mean_of_transform(noise, photons):
    """E[f(z) | λ], by summing over counts and integrating over the read noise."""
    k = np.arange(0, int(photons + 20 * np.sqrt(photons) + 40))
    t = np.linspace(-8, 8, 4001)
    z = noise.gain * k[:, None] + noise.offset + noise.read * t
    inside = noise.gain * (z - noise.offset) + 0.375 * noise.gain**2 + noise.read**2
    f = 2 / noise.gain * np.sqrt(np.maximum(inside, 0))
    return stats.poisson.pmf(k, photons) @ np.trapezoid(f * stats.norm.pdf(t), t, axis=1)


@pytest.mark.parametrize("noise", [PhotonNoise(1.0), PhotonNoise(4.1, 3.3), PhotonNoise(2.0, 100.0, 3.0)])
@pytest.mark.parametrize("photons", [0.0, 0.7, 5.0, 40.0, 190.0, 210.0, 3000.0])
def test_the_way_back_inverts_the_mean_of_the_transform(noise, photons):
    restored = noise.restore(mean_of_transform(noise, photons))
    assert restored == pytest.approx(noise.offset + noise.gain * photons, rel=2e-4, abs=0.02 * noise.gain)


@pytest.mark.parametrize("noise", [PhotonNoise(1.0), PhotonNoise(4.1, 3.3), PhotonNoise(2.0, 100.0, 3.0)])
@pytest.mark.parametrize("photons", [5, 20, 100, 1000])
def test_stabilised_noise_is_of_one_level(rng, noise, photons):
    z = counts(rng, np.full(100_000, noise.offset + noise.gain * photons), noise)
    assert noise.stabilise(z).std() == pytest.approx(1, abs=0.04 if photons < 20 else 0.015)


def test_noisy_values_come_back_themselves(rng):
    noise = PhotonNoise(2.0, 100.0, 3.0)
    z = counts(rng, np.linspace(100, 400, 1000), noise)
    inside = z > noise.offset - 0.375 * noise.gain - noise.read**2 / noise.gain
    np.testing.assert_allclose(noise.unstabilise(noise.stabilise(z))[inside], z[inside], rtol=1e-9)


def smooth_scenes(rng, count=400, side=24):
    """Waves between dark and bright."""
    grid = np.arange(side) / side
    slope, phase = rng.uniform(-3, 3, (count, 2, 1, 1)), rng.uniform(0, 2 * np.pi, (count, 1, 1))
    return 0.5 + 0.5 * np.cos(slope[:, 0] * grid[:, None] + slope[:, 1] * grid + phase)[..., None]


@pytest.mark.parametrize("noise", [PhotonNoise(1.0), PhotonNoise(4.1, 3.3, 2.0), PhotonNoise(2.0, 100.0, 3.0)])
@pytest.mark.parametrize("peak", [20, 200])
def test_the_gain_is_found_from_noisy_images_alone(rng, noise, peak):
    x = counts(rng, noise.offset + noise.gain * peak * smooth_scenes(rng), noise)
    curve = noise_curve(x)
    found = fit_photon_noise(curve)
    assert found.gain == pytest.approx(noise.gain, rel=0.05)
    assert grows(found, curve)
    dark = noise.offset + noise.gain
    assert found.variance(dark) == pytest.approx(noise.variance(dark), rel=0.3)


def test_noise_of_one_level_does_not_grow(rng):
    curve = noise_curve(smooth_scenes(rng) + 0.2 * rng.standard_normal((400, 24, 24, 1)))
    found = fit_photon_noise(curve)
    assert found is None or not grows(found, curve)


def test_one_value_has_no_gain():
    assert fit_photon_noise(noise_curve(np.full((100, 12, 12, 1), 7.0))) is None


def test_repeated_images_show_the_line_itself_however_detailed_they_are(rng):
    noise, x_0 = PhotonNoise(4.1, 3.3, 2.0), rng.uniform(0, 1, (100, 24, 24, 1))
    signal = noise.offset + noise.gain * 50 * x_0
    curve = repeats_curve(counts(rng, signal, noise), counts(rng, signal, noise))
    np.testing.assert_allclose(curve.variance, noise.variance(curve.signal), rtol=0.1)
    assert fit_photon_noise(curve).gain == pytest.approx(noise.gain, rel=0.05)
