import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.roads import ROADS
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.diffusion.reverse_steps import STOCHASTIC_STEPS
from tweedie_diffusion.diffusion.rows import normal
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.objective import consistency_term

MEAN, VARIANCE, SIGMA_TN = 0.3, 0.25, 0.5
ORACLE = gaussian_denoiser(MEAN, VARIANCE)


def consistency_of(road):
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict(ROADS[road])
    return config.consistency


def exact_step(key, denoise, x, sigma, sigma_next, *, sign=1.0):
    """The reverse kernel of N(MEAN, VARIANCE), whatever the denoiser."""
    sigma, sigma_next = sigma[:, None], sigma_next[:, None]
    kept = (sigma_next / sigma) ** 2
    posterior_mean = MEAN + VARIANCE * (x - MEAN) / (VARIANCE + sigma**2)
    variance = sigma_next**2 * (1 - kept) + (1 - kept) ** 2 * VARIANCE * sigma**2 / (VARIANCE + sigma**2)
    noise = sign * jnp.sqrt(variance) * normal(key, x.shape)
    return posterior_mean + kept * (x - posterior_mean) + noise


def slopes(consistency, rng, theta):
    """d/dθ of the term for the exact denoiser + θ·sin(3x), from 40 batches."""
    x_0 = MEAN + VARIANCE**0.5 * rng.standard_normal((40, 512, 2))
    x_tn = jnp.asarray(x_0 + SIGMA_TN * rng.standard_normal(x_0.shape), jnp.float32)
    denoise_of = lambda theta: lambda x, sigma: ORACLE(x, sigma) + theta * jnp.sin(3 * x)

    def term(theta, key, x_tn):
        teacher = denoise_of(jax.lax.stop_gradient(theta) if not consistency.ema_teacher else 0.0)
        options = {"consistency": consistency, "sigma_data": VARIANCE**0.5}
        return consistency_term(key, denoise_of(theta), teacher, x_tn, jnp.full(512, SIGMA_TN), 1.0, **options)

    keys = jax.random.split(jax.random.key(0), 40)
    return np.asarray(jax.jit(jax.vmap(jax.grad(term), in_axes=(None, 0, 0)))(theta, keys, x_tn), np.float64)


@pytest.mark.parametrize(
    "road", [name for name in ROADS if "consistency" in name or name in ("default", "paper's code")]
)
def test_a_road_is_stationary_at_the_gaussian_oracle_with_the_exact_kernel(road, rng, monkeypatch):
    consistency = consistency_of(road)
    consistency.ridge = 0.0  # its price is known: docs/maths.md, section 4
    monkeypatch.setitem(STOCHASTIC_STEPS, consistency.step, exact_step)
    there, elsewhere = slopes(consistency, rng, 0.0), slopes(consistency, rng, 0.3)
    tolerance = 5 * there.std(ddof=1) / np.sqrt(len(there)) + 1e-5
    assert abs(there.mean()) < tolerance
    assert abs(elsewhere.mean()) > 2 * tolerance
