import numpy as np
import pytest

from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.evaluation import curves
from tweedie_diffusion.evaluation.curves import IDENTIFIABLE, ambient_curve, denoising_curve

VARIANCE = 0.4
SIGMAS = np.array([0.1, 0.5, 2.0])
ORACLE = gaussian_denoiser(0.0, VARIANCE)
N, D = 1500, 6


@pytest.fixture(scope="module")
def x_0():
    return np.sqrt(VARIANCE) * np.random.default_rng(0).standard_normal((N, D)).astype(np.float32)


@pytest.fixture(scope="module")
def noisy(x_0):
    """(x_tn, sigma_tn) with a different level for every other image, some clean."""
    sigma_tn = np.resize(np.float32([0.0, 0.2, 0.4]), N)
    return x_0 + sigma_tn[:, None] * np.random.default_rng(1).standard_normal((N, D)).astype(np.float32), sigma_tn


def scaled(factor):
    """A wrong denoiser: the oracle times a factor. Its error is that of the oracle + (1 − factor)²·E|oracle|²."""
    return lambda x_t, sigma: factor * ORACLE(x_t, sigma)


def relative_mse(factor, sigmas):
    """Closed form for `scaled(factor)`: posterior variance vσ²/(v+σ²), and E|oracle|² = v²/(v+σ²) a feature."""
    return (VARIANCE + (1 - factor) ** 2 * VARIANCE**2 / sigmas**2) / (VARIANCE + sigmas**2)


@pytest.fixture(scope="module")
def oracle_curve(x_0):
    return denoising_curve(ORACLE, x_0, sigmas=SIGMAS, oracle=ORACLE)


def test_the_oracle_reaches_the_posterior_variance(oracle_curve):
    np.testing.assert_array_equal(oracle_curve["sigma"], SIGMAS)
    deviation = oracle_curve["relative_mse"] - VARIANCE / (VARIANCE + SIGMAS**2)
    assert (abs(deviation) < 5 * oracle_curve["standard_error"]).all()


def test_the_standard_error_is_that_of_a_mean_of_squares(oracle_curve):
    # D squares of N(0, p) have variance 2p²/D a mean; a sample standard deviation of N is good to 1/√(2N), fat-tailed.
    expected = VARIANCE / (VARIANCE + SIGMAS**2) * np.sqrt(2 / (D * N))
    np.testing.assert_allclose(oracle_curve["standard_error"], expected, rtol=5 * 2 / np.sqrt(2 * N))


@pytest.mark.parametrize("factor", [0.5, 1.3])
def test_a_wrong_denoiser_reaches_its_closed_form(x_0, factor):
    curve = denoising_curve(scaled(factor), x_0, sigmas=SIGMAS)
    assert (abs(curve["relative_mse"] - relative_mse(factor, SIGMAS)) < 5 * curve["standard_error"]).all()


def test_the_oracle_has_no_excess(oracle_curve):
    np.testing.assert_array_equal(oracle_curve["excess"], np.zeros(3))
    np.testing.assert_allclose(oracle_curve["oracle_mse"], oracle_curve["relative_mse"], rtol=1e-6)


def test_the_excess_of_a_wrong_denoiser_has_its_closed_form(x_0):
    curve = denoising_curve(scaled(1.3), x_0, sigmas=SIGMAS, oracle=ORACLE)
    expected = 0.3**2 * VARIANCE / SIGMAS**2
    # A ratio of two independent means of N·D squares, each good to √(2/ND).
    np.testing.assert_allclose(curve["excess"], expected, rtol=5 * np.sqrt(4 / (N * D)))


def test_there_is_no_excess_without_an_oracle(x_0):
    assert set(denoising_curve(ORACLE, x_0[:4], sigmas=SIGMAS)) == {"sigma", "relative_mse", "standard_error"}


@pytest.mark.parametrize("batch", [7, 64])
def test_curves_do_not_depend_on_the_batch_size(x_0, noisy, monkeypatch, batch):
    x_tn, sigma_tn = noisy[0][:20], noisy[1][:20]
    clean = denoising_curve(scaled(0.5), x_0[:20], sigmas=SIGMAS)
    ambient = ambient_curve(scaled(0.5), x_tn, sigma_tn, sigmas=SIGMAS)
    monkeypatch.setattr(curves, "BATCH", batch)
    clean_again = denoising_curve(scaled(0.5), x_0[:20], sigmas=SIGMAS)
    ambient_again = ambient_curve(scaled(0.5), x_tn, sigma_tn, sigmas=SIGMAS)
    for key in clean:
        np.testing.assert_allclose(clean_again[key], clean[key], rtol=1e-5)
        np.testing.assert_allclose(ambient_again[key], ambient[key], rtol=1e-5)


def test_the_seed_fixes_the_noise(x_0):
    curve = lambda seed: denoising_curve(ORACLE, x_0[:20], sigmas=SIGMAS, seed=seed)["relative_mse"]
    np.testing.assert_array_equal(curve(0), curve(0))
    assert (curve(0) != curve(1)).all()


def test_images_keep_their_shape(x_0):
    seen = []

    def denoise(x_t, sigma):
        seen.append((x_t.shape[1:], sigma.shape == x_t.shape[:1]))
        return ORACLE(x_t, sigma)

    denoising_curve(denoise, x_0[:4].reshape(4, 2, 3, 1), sigmas=[0.5])
    assert set(seen) == {((2, 3, 1), True)}


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_noisy_images_alone_give_the_clean_curve(noisy, factor):
    curve = ambient_curve(scaled(factor), *noisy, sigmas=[0.5, 1.0, 2.0])
    assert (abs(curve["relative_mse"] - relative_mse(factor, curve["sigma"])) < 5 * curve["standard_error"]).all()
    assert (curve["standard_error"] < 0.2 * curve["relative_mse"]).all()


def test_the_ambient_curve_leaves_out_levels_at_or_near_the_noise(noisy):
    curve = ambient_curve(ORACLE, *noisy, sigmas=[0.1, 0.3, 0.4, 0.43, 0.45, 2.0])
    np.testing.assert_array_equal(curve["sigma"], [0.45, 2.0])
    assert {v.shape for v in curve.values()} == {(2,)}


def test_the_ambient_curve_begins_where_errors_are_identifiable(noisy):
    least = IDENTIFIABLE * noisy[1].max()
    assert ambient_curve(ORACLE, *noisy, sigmas=[least, 1.001 * least])["sigma"] == pytest.approx([1.001 * least])


def test_the_ambient_curve_is_empty_when_no_level_is_left(noisy):
    assert {v.shape for v in ambient_curve(ORACLE, *noisy, sigmas=[0.1, 0.4]).values()} == {(0,)}


def test_on_clean_images_the_ambient_curve_is_the_denoising_curve(x_0):
    ambient = ambient_curve(ORACLE, x_0, np.zeros(N, np.float32), sigmas=SIGMAS)
    clean = denoising_curve(ORACLE, x_0, sigmas=SIGMAS)
    for key in clean:
        np.testing.assert_allclose(ambient[key], clean[key], rtol=1e-5)
