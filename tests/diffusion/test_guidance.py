import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tweedie_diffusion.diffusion.guidance import guided
from tweedie_diffusion.diffusion.oracles import mixture_denoiser

# Two classes of two Gaussians each, in the plane.
WEIGHTS, VARIANCES = np.array([0.1, 0.3, 0.4, 0.2]), np.array([0.04, 0.09, 0.02, 0.16])
MEANS = np.array([[-1.0, 0.0], [-0.2, 0.8], [1.0, 0.3], [0.4, -1.0]])
OF_CLASS = [slice(0, 2), slice(2, 4)]
SIGMA = np.float32([0.1, 0.4, 1.0, 3.0])
LABELS = np.array([0, 1, 1, 0])
X_T = np.float32([[-0.4, 0.3], [0.9, -0.5], [0.0, 0.2], [-2.0, 1.0]])

exact = [mixture_denoiser(WEIGHTS[k], MEANS[k], VARIANCES[k]) for k in (*OF_CLASS, slice(0, 4))]


def oracle(x_t, sigma, labels):
    """The exact denoiser of each row's class; of the whole mixture for label −1."""
    rows = [denoise(x_t, sigma) for denoise in exact]
    return jnp.select([(labels == c)[:, None] for c in (0, 1, -1)], rows)


def log_density(x, sigma, components):
    weights = WEIGHTS[components] / WEIGHTS[components].sum()
    laws = zip(weights, MEANS[components], VARIANCES[components], strict=True)
    return np.log(sum(w * stats.multivariate_normal.pdf(x, m, (v + sigma**2) * np.eye(2)) for w, m, v in laws))


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_the_guided_score_is_that_of_the_geometric_mixture(weight):
    def log_mixed(x, sigma, label):
        unconditional, conditional = (log_density(x, sigma, k) for k in (slice(0, 4), OF_CLASS[label]))
        return (1 - weight) * unconditional + weight * conditional

    step, expected = 1e-5 * np.eye(2), []
    for x, sigma, label in zip(np.float64(X_T), np.float64(SIGMA), LABELS, strict=True):
        slope = [(log_mixed(x + d, sigma, label) - log_mixed(x - d, sigma, label)) / 2e-5 for d in step]
        expected.append(x + sigma**2 * np.array(slope))
    got = jax.jit(guided(oracle, LABELS, weight=weight))(X_T, SIGMA)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_weight_one_is_the_conditional_model():
    np.testing.assert_allclose(
        guided(oracle, LABELS, weight=1.0)(X_T, SIGMA), oracle(X_T, SIGMA, LABELS), rtol=1e-5, atol=1e-6
    )


def test_each_row_may_have_its_own_weight():
    got = guided(oracle, LABELS, weight=jnp.array([0.0, 1.0, 0.0, 1.0]))(X_T, SIGMA)
    np.testing.assert_allclose(got, oracle(X_T, SIGMA, jnp.array([-1, 1, -1, 0])), rtol=1e-5, atol=1e-6)


def test_outside_of_the_interval_is_the_conditional_model_bit_for_bit():
    inside = guided(oracle, LABELS, weight=4.0, interval=(0.1, 1.0))(X_T, SIGMA)
    everywhere, conditional = guided(oracle, LABELS, weight=4.0)(X_T, SIGMA), oracle(X_T, SIGMA, LABELS)
    acts = np.array([[False], [True], [True], [False]])  # low < σ <= high
    np.testing.assert_array_equal(inside, np.where(acts, everywhere, conditional))


def test_the_network_is_called_once_with_each_row_twice():
    seen = []

    def denoise(x_t, sigma, labels):
        seen.append((x_t.shape, sigma.tolist(), labels.tolist()))
        return x_t

    guided(denoise, np.array([5, 7]), weight=2.0)(jnp.ones((2, 3)), jnp.array([0.1, 0.2]))
    assert seen == [((4, 3), pytest.approx([0.1, 0.1, 0.2, 0.2]), [5, -1, 7, -1])]


@pytest.mark.parametrize("interval", [(0.5, 0.5), (-0.1, 1.0), (2.0, 1.0)])
def test_an_empty_interval_is_refused(interval):
    with pytest.raises(ValueError, match="must be 0 <= low < high"):
        guided(oracle, LABELS, weight=2.0, interval=interval)
