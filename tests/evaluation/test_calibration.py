import numpy as np
import pytest
from scipy.stats import binom, kstest, norm

from tweedie_diffusion.evaluation.calibration import (
    against_frames,
    coverage,
    rank_histogram,
    ranks,
    residual_whiteness,
    uniformity,
)

N, SIDE, SIGMA = 400, 4, 0.5
MEANS, SD = np.array([-0.6, 0.6]), 0.2  # of a mixture of two levels an image, pixels of which share the level


def drawn(rng, draws, *, narrowed=1.0, shifted=0.0):
    """Clean images, noisy ones, and exact posterior samples [S, N, 4, 4, 1] whose spread is times `narrowed`.

    x_0 = m_k + SD·ε with one k an image: pixels of an image are far from independent. The posterior of k is that of
    all pixels, and given k each pixel is Gaussian.
    """
    shape = (N, SIDE, SIDE, 1)
    level = lambda k: MEANS[k][..., None, None, None]
    x_0 = level(rng.integers(2, size=N)) + SD * rng.standard_normal(shape)
    x_tn = x_0 + SIGMA * rng.standard_normal(shape)
    gain = SD**2 / (SD**2 + SIGMA**2)
    log_odds = np.sum((x_tn - MEANS[0]) ** 2 - (x_tn - MEANS[1]) ** 2, axis=(1, 2, 3)) / (2 * (SD**2 + SIGMA**2))
    k = (rng.random((draws, N)) < 1 / (1 + np.exp(-log_odds))).astype(int)
    spread = narrowed * np.sqrt(gain) * SIGMA
    centre = level(k) + gain * (x_tn - level(k))
    return x_0, x_tn, centre + shifted + spread * rng.standard_normal((draws, *shape))


@pytest.mark.parametrize("draws", [2, 9, 24])
def test_of_the_exact_posterior_coverage_is_as_expected_for_every_number_of_draws(rng, draws):
    x_0, _, samples = drawn(rng, draws)
    found = coverage(samples, x_0, levels=(0.5, 0.9))
    assert np.all(np.abs(found["coverage"] - found["expected"]) < 4 * found["standard_error"])
    assert np.all(found["standard_error"] < 0.02)


def test_expected_is_that_of_order_statistics():
    found = coverage(np.zeros((9, 2, 1)), np.zeros((2, 1)), levels=(0.5, 0.9, 0.99))
    assert found["expected"] == pytest.approx([0.6, 0.8, 0.8])  # 2.5 goes to 2 of 10, then the widest there is


def test_the_error_of_coverage_is_over_images():
    truth = np.repeat([[0.0], [9.0]], 8, axis=0) * np.ones(50)  # half of the images, in all pixels, outside
    samples = np.broadcast_to(np.array([-1.0, 1.0])[:, None, None], (2, 16, 50))
    found = coverage(samples, truth, levels=(0.3,))
    assert found["coverage"] == pytest.approx([0.5])
    assert found["standard_error"] == pytest.approx([0.5 / np.sqrt(15)])


def test_a_too_narrow_posterior_is_caught(rng):
    x_0, _, samples = drawn(rng, 9, narrowed=0.8)
    found, shape = coverage(samples, x_0), uniformity(samples, x_0)
    assert np.all(found["coverage"] < found["expected"] - 4 * found["standard_error"])
    assert shape["p_value"] < 1e-6
    assert shape["dispersion"] > 1 + 4 * shape["dispersion_error"]


def test_a_shifted_posterior_is_caught(rng):
    x_0, _, samples = drawn(rng, 9, shifted=0.05)
    found = uniformity(samples, x_0)
    assert found["mean_rank"] < 0.5 - 4 * found["mean_rank_error"]
    assert found["p_value"] < 1e-6


def test_ranks_of_the_exact_posterior_are_uniform(rng):
    x_0, _, samples = drawn(rng, 9)
    counts = rank_histogram(samples, x_0)
    assert counts.sum() == x_0.size
    assert counts == pytest.approx(x_0.size / 10, rel=0.15)
    found = uniformity(samples, x_0)
    assert abs(found["mean_rank"] - 0.5) < 4 * found["mean_rank_error"]
    assert abs(found["dispersion"] - 1) < 4 * found["dispersion_error"]


def test_p_values_are_uniform_although_pixels_hang_together(rng):
    values = []
    for _ in range(200):  # one number an image in nearly all of its pixels
        image = rng.standard_normal((60, 1)) + 0.1 * rng.standard_normal((60, 20))
        draws = rng.standard_normal((4, 60, 1)) + 0.1 * rng.standard_normal((4, 60, 20))
        values.append(uniformity(draws, image)["p_value"])
    assert kstest(values, "uniform").pvalue > 0.01


def test_ties_are_broken_at_random():
    atoms = lambda seed, *shape: np.random.default_rng(seed).integers(2, size=shape)  # a law of two atoms
    counts = rank_histogram(atoms(0, 4, 50, 200), atoms(1, 50, 200), seed=2)
    spread = binom(10_000, 1 / 5).std()
    assert np.all(np.abs(counts - 2000) < 4 * spread)


def test_ties_of_an_image_do_not_depend_on_the_others():
    zeros = np.zeros((3, 8, 5))
    assert np.array_equal(ranks(zeros, zeros[0])[:4], ranks(zeros[:, :4], zeros[0, :4]))


def test_the_residual_of_posterior_samples_is_the_noise(rng):
    _, x_tn, samples = drawn(rng, 3)
    for x in (samples, samples[0]):
        found = residual_whiteness(x_tn, x, SIGMA)
        assert abs(found["sd"] - 1) < 4 * found["sd_error"]
        assert abs(found["correlation"]) < 4 * found["correlation_error"]
        assert abs(found["mean"]) < 4 * found["mean_error"]
        assert found["sd_error"] == pytest.approx(1 / np.sqrt(2 * x_tn.size), rel=0.5)


def test_the_residual_of_the_posterior_mean_is_smaller_by_the_trace(rng):
    x_0 = SD * rng.standard_normal((N, SIDE, SIDE, 1))
    sigma = np.linspace(0.2, 0.8, N)
    x_tn = x_0 + sigma[:, None, None, None] * rng.standard_normal(x_0.shape)
    gain = SD**2 / (SD**2 + sigma**2)  # tr J / D
    found = residual_whiteness(x_tn, gain[:, None, None, None] * x_tn, sigma)
    assert abs(found["sd"] - np.sqrt(1 - gain.mean())) < 4 * found["sd_error"]


def test_structure_in_the_residual_shows_as_correlation(rng):
    noise = rng.standard_normal((N, SIDE, SIDE, 2))
    smooth = noise + np.roll(noise, 1, axis=2)  # neighbours to the right share half, those below nothing
    found = residual_whiteness(smooth[:, :, 1:], np.zeros((N, SIDE, SIDE - 1, 2)), np.sqrt(2))
    assert found["correlation"] == pytest.approx(0.25, abs=4 * found["correlation_error"])
    assert 0 < found["correlation_error"] < 0.02


def test_the_error_of_the_correlation_is_its_spread_over_repetitions(rng):
    def one():  # images of very different energy, all with a correlation of ½ to the right
        noise = rng.standard_normal((20, 8, 9, 1)) * np.linspace(0.2, 3, 20)[:, None, None, None]
        smooth = noise[:, :, 1:] + noise[:, :, :-1]
        return residual_whiteness(smooth, np.zeros_like(smooth), 1.0)

    found = [one() for _ in range(300)]
    spread = np.std([f["correlation"] for f in found])
    assert np.mean([f["correlation_error"] for f in found]) == pytest.approx(spread, rel=0.25)


def test_vectors_have_no_neighbours(rng):
    assert set(residual_whiteness(rng.random((5, 3)), np.zeros((5, 3)), 1.0)) == {
        "mean",
        "mean_error",
        "sd",
        "sd_error",
    }


def test_a_second_frame_stands_for_the_clean_image(rng):
    x_0, _, samples = drawn(rng, 9)
    other = x_0 + SIGMA * rng.standard_normal(x_0.shape)
    found = against_frames(samples, other, SIGMA)
    assert np.all(np.abs(found["coverage"] - found["expected"]) < 4 * found["standard_error"])
    narrow = against_frames(samples, other, 0.7 * SIGMA)
    assert np.all(narrow["coverage"] < narrow["expected"] - 4 * narrow["standard_error"])


def test_predicted_frames_have_the_noise_of_each_image():
    sigma = np.linspace(0.5, 2, 40, dtype=np.float32)
    quartile = sigma[:, None] * norm.ppf(0.25) * np.ones(1000)
    found = against_frames(np.zeros((9, 40, 1000)), quartile, sigma)
    assert abs(found["mean_rank"] - 0.25) < 4 * found["mean_rank_error"] < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coverage(np.zeros((1, 3, 2)), np.zeros((3, 2))), "two samples"),
        (lambda: coverage(np.zeros((4, 1, 2)), np.zeros((1, 2))), "two images"),
        (lambda: ranks(np.zeros((4, 3, 2)), np.zeros((3, 5))), "samples must be"),
        (lambda: residual_whiteness(np.zeros((3, 2)), np.zeros((4, 2)), 1.0), "the same images"),
        (lambda: residual_whiteness(np.zeros((3, 2)), np.zeros((3, 2)), [1.0, 0.0, 1.0]), "without noise"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
