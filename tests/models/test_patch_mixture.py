import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from scipy.stats import norm

from tweedie_diffusion.diffusion.oracles import mixture_denoiser
from tweedie_diffusion.models.components import shrink
from tweedie_diffusion.models.patch_mixture import PatchMixture, fit_patch_mixture, patch_denoiser

K, SIDE, CHANNELS = 3, 2, 2
D = SIDE * SIDE * CHANNELS


@pytest.fixture
def mixture(rng):
    axes = np.stack([np.linalg.qr(rng.standard_normal((D, D)))[0] for _ in range(K)])
    means, variances = 0.3 * rng.standard_normal((K, D)), rng.uniform(1e-3, 0.2, (K, D))
    return PatchMixture(*(jnp.asarray(a, jnp.float32) for a in ([0.2, 0.3, 0.5], means, axes, variances, [0, 0])))


def oracle(mixture):
    """The exact denoiser of flattened patches."""
    covariances = np.einsum("kde,ke,kfe->kdf", mixture.axes, mixture.variances, mixture.axes)
    return mixture_denoiser(mixture.weights, mixture.means, covariances)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 10.0])
def test_of_one_patch_it_is_the_posterior_mean(rng, mixture, sigma):
    x_t = jnp.asarray(rng.standard_normal((5, SIDE, SIDE, CHANNELS)), jnp.float32)
    got = patch_denoiser(mixture, value_range=(-np.inf, np.inf))(x_t, sigma)
    np.testing.assert_allclose(got.reshape(5, D), oracle(mixture)(x_t.reshape(5, D), sigma), rtol=2e-3, atol=2e-4)


def test_a_pixel_is_the_mean_over_the_patches_that_hold_it(rng, mixture):
    x_t, sigma = rng.standard_normal((2, 4, 3, CHANNELS)).astype(np.float32), np.array([0.2, 0.7])
    total, held = np.zeros(x_t.shape), np.zeros(x_t.shape)
    for i in range(3):
        for j in range(2):
            patch = x_t[:, i : i + SIDE, j : j + SIDE]
            mean = np.asarray(oracle(mixture)(jnp.asarray(patch.reshape(2, D)), jnp.asarray(sigma)))
            total[:, i : i + SIDE, j : j + SIDE] += mean.reshape(patch.shape)
            held[:, i : i + SIDE, j : j + SIDE] += 1
    got = patch_denoiser(mixture, value_range=(-np.inf, np.inf))(jnp.asarray(x_t), jnp.asarray(sigma))
    np.testing.assert_allclose(got, total / held, atol=1e-4)


def test_draws_of_draws_are_denoised_as_they_are_one_by_one(rng, mixture):
    """XLA 0.10 crashed here when the arrays had an axis for rows, columns and channels each."""
    x_t = jnp.asarray(rng.standard_normal((1, 2, 4, 12, 12, CHANNELS)), jnp.float32)
    sigma = jnp.full((1, 2, 4), 0.3)
    denoise = patch_denoiser(dataclasses.replace(mixture, ends=jnp.array([0.5, 0.5])))
    got = jax.jit(jax.vmap(jax.vmap(denoise)))(x_t, sigma)
    one_by_one = denoise(x_t.reshape(8, *x_t.shape[3:]), 0.3)
    np.testing.assert_allclose(got.reshape(one_by_one.shape), one_by_one, atol=1e-5)


def test_no_mean_leaves_the_range_of_clean_images(mixture):
    x_t = jnp.linspace(-2, 2, 64).reshape(2, 4, 4, CHANNELS)
    for ends in ([0.0, 0.0], [0.5, 2.0]):
        denoise = patch_denoiser(dataclasses.replace(mixture, ends=jnp.array(ends)), value_range=(-0.1, 0.2))
        for sigma in (1e-3, 0.1, 80.0):
            got = denoise(x_t, sigma)
            assert np.isfinite(got).all()
            assert got.min() >= np.float32(-0.1)
            assert got.max() <= np.float32(0.2)
        assert (denoise(x_t, 1e-3).min(), denoise(x_t, 1e-3).max()) == (np.float32(-0.1), np.float32(0.2))


def mean_of_a_held_pixel(x_t, sigma, mean, deviation, ends):
    """By quadrature: N(mean, deviation²), but its mass beyond an end with ρ > 0 at that end, times ρ/deviation."""
    seen = lambda x_0: norm.pdf(x_t, x_0, sigma)
    beyond = np.array([norm.cdf(-1, mean, deviation), norm.sf(1, mean, deviation)]) * ends / deviation
    at_ends = beyond * seen(np.array([-1, 1]))
    low, high = (end if rho else 6 * end for end, rho in zip((-1, 1), ends, strict=True))
    low, high = max(low, x_t - 12 * sigma), min(high, x_t + 12 * sigma)
    inside = lambda power: scipy.integrate.quad(
        lambda x_0: x_0**power * norm.pdf(x_0, mean, deviation) * seen(x_0), low, high, limit=200
    )[0]
    return np.clip((inside(1) + at_ends[1] - at_ends[0]) / (inside(0) + at_ends.sum()), -1, 1)


@pytest.mark.parametrize("ends", [(0.0, 0.0), (0.7, 0.0), (0.3, 1.5)])
@pytest.mark.parametrize("sigma", [0.002, 0.05, 0.3, 2.0])
def test_of_one_pixel_the_mass_beyond_the_range_sits_at_its_ends(ends, sigma):
    mean, deviation = -0.6, 0.5
    arrays = [1.0], [[mean]], [[[1.0]]], [[deviation**2]], ends
    denoise = patch_denoiser(PatchMixture(*(jnp.asarray(a, jnp.float32) for a in arrays)))
    x_t = np.array([-1 - 2 * sigma, -1 + sigma, -0.6, 0.1, 1 - sigma])
    expected = [mean_of_a_held_pixel(x, sigma, mean, deviation, ends) for x in x_t]
    np.testing.assert_allclose(
        denoise(jnp.asarray(x_t).reshape(5, 1, 1, 1), sigma).ravel(), expected, atol=min(2e-4, 0.02 * sigma)
    )


@pytest.mark.parametrize("ends", [[0.0, 0.0], [0.7, 0.0]])
@pytest.mark.parametrize("sigma", [0.002, 0.04, 0.4, 80.0])
@pytest.mark.parametrize("value_range", [(-1, 1), (0, np.inf)])
def test_its_derivative_is_finite_everywhere(ends, sigma, value_range):
    arrays = [0.5, 0.5], [[-1.0], [0.2]], [[[1.0]]] * 2, [[1e-4], [0.1]], ends
    mixture = PatchMixture(*(jnp.asarray(a, jnp.float32) for a in arrays))
    denoise = patch_denoiser(mixture, value_range=value_range)
    x_t = jnp.linspace(-3, 3, 601).reshape(601, 1, 1, 1)
    assert np.isfinite(jax.grad(lambda x: denoise(x, sigma).sum())(x_t)).all()


SIGMA_TN, TEXTURE = 0.4, 0.25


def flat_and_textured(rng, count=4000, size=8):
    """Half of the images are −1 everywhere, the others N(0, TEXTURE²) in each pixel."""
    textured = TEXTURE * rng.standard_normal((count, size, size, 1))
    return np.where(np.arange(count)[:, None, None, None] % 2, textured, -1.0).astype(np.float32)


@pytest.fixture(scope="module")
def fitted():
    rng = np.random.default_rng(0)
    x_0 = flat_and_textured(rng)
    x_tn = (x_0 + SIGMA_TN * rng.standard_normal(x_0.shape)).astype(np.float32)
    return fit_patch_mixture(x_tn, sigma_tn=SIGMA_TN, components=8, side=2)


def test_noisy_patches_tell_the_moments_of_clean_ones(fitted):
    mean = np.einsum("k,kd->d", fitted.weights, fitted.means)
    np.testing.assert_allclose(mean, -0.5, atol=0.01)
    second = np.einsum("k,kd->", fitted.weights, fitted.means**2 + fitted.variances) / 4
    np.testing.assert_allclose(second, (1 + TEXTURE**2) / 2, rtol=0.02)


def test_components_find_what_the_patches_are(fitted):
    flat = np.abs(fitted.means + 1).max(axis=1) < 0.2
    np.testing.assert_allclose(fitted.weights[flat].sum(), 0.5, atol=0.03)
    textured = np.einsum("k,kd->d", fitted.weights[~flat], fitted.means[~flat] ** 2 + fitted.variances[~flat]).mean()
    np.testing.assert_allclose(textured / fitted.weights[~flat].sum(), TEXTURE**2, rtol=0.1)


def test_it_denoises_far_below_the_noise_it_has_seen(fitted, rng):
    x_0, sigma = flat_and_textured(rng, count=400), SIGMA_TN / 8
    x_t = x_0 + sigma * rng.standard_normal(x_0.shape).astype(np.float32)
    error = np.square(np.asarray(patch_denoiser(fitted)(jnp.asarray(x_t), sigma)) - x_0).mean(axis=(1, 2, 3)) / sigma**2
    assert error[::2].mean() < 0.2  # nothing but noise was there
    assert error[1::2].mean() < 1.08 * TEXTURE**2 / (TEXTURE**2 + sigma**2)


@pytest.mark.parametrize(("mean", "sits"), [(-0.8, True), (0.0, False)])
def test_pixels_sit_at_an_end_of_the_range_if_the_noisy_images_tell(rng, mean, sits):
    """Each pixel is N(mean, .3²), cut off at −1 as by an exposure; none is near the upper end."""
    x_0 = np.maximum(mean + 0.3 * rng.standard_normal((4000, 6, 6, 1)), -1).astype(np.float32)
    x_tn = x_0 + np.float32(0.2) * rng.standard_normal(x_0.shape).astype(np.float32)
    fitted = fit_patch_mixture(x_tn, sigma_tn=0.2, components=8, side=2)
    assert (fitted.ends > 0).tolist() == [sits, False]
    without = dataclasses.replace(fitted, ends=jnp.zeros(2))
    x_t = jnp.asarray(x_0 + 0.04 * rng.standard_normal(x_0.shape), jnp.float32)
    error = lambda mixture: np.square(np.asarray(patch_denoiser(mixture)(x_t, 0.04)) - x_0).mean()
    assert error(fitted) <= (0.95 if sits else 1.0) * error(without)


@pytest.mark.parametrize("components", [2, 12])
def test_a_vector_is_one_patch(rng, components):
    """Two Gaussians on two of four axes: close to the exact denoiser far below the noise, of 12 components too."""
    means, variances = (
        np.array([[1.0, 0, 0, 0], [0, 1, 1, 0]]),
        np.array([[0.3, 0.01, 0.01, 0.01], [0.01, 0.01, 0.2, 0.01]]),
    )
    which = rng.integers(2, size=40_000)
    x_0 = means[which] + np.sqrt(variances[which]) * rng.standard_normal((40_000, 4))
    x_tn = (x_0 + SIGMA_TN * rng.standard_normal(x_0.shape)).astype(np.float32)
    denoise = patch_denoiser(fit_patch_mixture(x_tn, sigma_tn=SIGMA_TN, components=components))
    exact = mixture_denoiser(np.ones(2), means, np.stack([np.diag(v) for v in variances]))
    x_t = jnp.asarray(x_0[:2000] + 0.1 * rng.standard_normal((2000, 4)), jnp.float32)
    excess = np.square(denoise(x_t, 0.1) - exact(x_t, 0.1)).mean() / np.square(x_0[:2000] - exact(x_t, 0.1)).mean()
    assert excess < 0.05


def test_parts_of_one_gaussian_become_one(rng):
    x_0 = 4 * np.eye(3, 8)[np.arange(30_000) % 3]
    x_tn = (x_0 + rng.standard_normal(x_0.shape)).astype(np.float32)
    fitted = fit_patch_mixture(x_tn, sigma_tn=1.0, components=9)
    np.testing.assert_allclose(fitted.weights, [1 / 3] * 3, atol=0.01)
    np.testing.assert_allclose(np.sort(fitted.means[:, :3], axis=0), [[0] * 3, [0] * 3, [4] * 3], atol=0.05)


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_gaussians_that_overlap_stay_apart(seed):
    x_0 = 2.5 * np.eye(2, 4)[np.arange(40_000) % 2]  # 3.5 standard deviations of the noise between them
    x_tn = (x_0 + np.random.default_rng(seed).standard_normal(x_0.shape)).astype(np.float32)
    fitted = fit_patch_mixture(x_tn, sigma_tn=1.0, components=8)
    np.testing.assert_allclose(np.sort(fitted.means[:, 0]), [0, 2.5], atol=0.1)


def test_a_few_long_vectors_keep_their_gaussians(rng):
    x_0 = 14 * np.eye(4, 32)[np.arange(1000) % 4]  # of noise, not of a covariance of 528 numbers each
    x_tn = (x_0 + rng.standard_normal(x_0.shape)).astype(np.float32)
    fitted = fit_patch_mixture(x_tn, sigma_tn=1.0, components=8)
    np.testing.assert_allclose(fitted.weights, [0.25] * 4, atol=0.01)


@pytest.mark.parametrize(("error", "left"), [(1e-6, 1.0), (0.5, 0.75), (2.0, 0.0), (9.0, 0.0)])
def test_values_shrink_by_what_chance_would_spread_them(error, left):
    """Of 5 ± 1 with errors of variance v: Q − 1 = 2/v − 1 over 2/v − 1/v is 2 − v, and the share (2 − v)/2 is left."""
    got = shrink(np.array([4.0, 6.0]), np.array([error, error]))
    np.testing.assert_allclose(got, [5 - left, 5 + left], atol=1e-5)


def test_the_mixture_of_a_seed_is_always_the_same(rng):
    x_tn = rng.standard_normal((20, 6, 6, 1)).astype(np.float32)
    first, second = (fit_patch_mixture(x_tn, sigma_tn=0.3, components=8, side=2, seed=1) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert (fit_patch_mixture(x_tn, sigma_tn=0.3, components=8, side=2, seed=2).means != first.means).any()


@pytest.mark.parametrize("sigma_tn", [0.0, 0.5])
def test_images_without_detail_leave_a_mixture_that_is_finite(sigma_tn):
    mixture = fit_patch_mixture(np.full((40, 6, 6, 1), 0.5, np.float32), sigma_tn=sigma_tn, components=8, side=3)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(mixture))
    got = patch_denoiser(mixture)(jnp.full((1, 6, 6, 1), 0.45), 0.1)
    np.testing.assert_allclose(got, 0.5, atol=0.01)


@pytest.mark.parametrize(
    ("shape", "message"), [((50, 3, 9, 1), "3×9 hold no patch of 4×4"), ((2, 6, 6, 1), "18 patches are too few")]
)
def test_fitting_refuses(shape, message):
    with pytest.raises(ValueError, match=message):
        fit_patch_mixture(np.zeros(shape, np.float32), sigma_tn=0.1, components=8)


def test_a_mixture_of_points_alone_is_refused():
    with pytest.raises(ValueError, match="components must exceed 4"):
        fit_patch_mixture(np.zeros((50, 8, 8, 1), np.float32), sigma_tn=0.1, components=4)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 4, 4, 3), r"8 values are not of images of \[4, 4, 3\]"),
        ((1, 1, 4, 2), r"8 values are not of images of \[1, 4, 2\]"),
        ((1, 4), "of 8 values, and the vectors have 4"),
    ],
)
def test_data_that_the_mixture_is_not_of_is_refused(mixture, shape, message):
    with pytest.raises(ValueError, match=message):
        patch_denoiser(mixture)(jnp.zeros(shape), 0.1)


def test_vectors_are_denoised_exactly_at_levels_of_their_own(rng, mixture):
    x_t, sigma = jnp.asarray(rng.standard_normal((3, D)), jnp.float32), jnp.array([0.05, 0.3, 20.0])
    got, slope = jax.jvp(lambda x: patch_denoiser(mixture)(x, sigma), (x_t,), (jnp.ones_like(x_t),))
    expected, expected_slope = jax.jvp(lambda x: oracle(mixture)(x, sigma), (x_t,), (jnp.ones_like(x_t),))
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(slope, expected_slope, rtol=2e-2, atol=2e-3)
