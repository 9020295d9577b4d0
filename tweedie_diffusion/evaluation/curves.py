"""Denoising curves: how far a denoiser is from the clean images, level by level."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.diffusion.tweedie import denoised_at_level, signal_fraction
from tweedie_diffusion.diffusion.types import DenoiseFn

BATCH = 256
IDENTIFIABLE = 1.1  # times σ_tn: from there on noisy images tell the error of a denoiser (`ambient_curve`)


def denoising_curve(
    denoise: DenoiseFn, x_0: np.ndarray, *, sigmas: Sequence[float], seed: int = 0, oracle: DenoiseFn | None = None
) -> dict[str, np.ndarray]:
    """MSE/σ² of denoising clean images x_0 + σz, one noise z an image and level.

    Args:
        denoise: the denoiser, compiled by the caller.
        x_0: [N, ...] clean images it never saw.
        sigmas: levels.
        seed: of the noise.
        oracle: the exact denoiser, where it is known.

    Returns:
        sigma [S]; relative_mse [S], mean of ‖denoise − x_0‖²/(Dσ²); standard_error [S] over images; with an oracle
        also oracle_mse [S] and excess [S] = ‖denoise − oracle‖²/‖oracle − x_0‖².
    """

    def one_level(key, x_0, sigma):
        x_t = add_noise(key, x_0, sigma_s=0.0, sigma_t=sigma)
        x0_hat = denoise(x_t, sigma)
        squares = {"model": x0_hat - x_0}
        if oracle is not None:
            exact = oracle(x_t, sigma)
            squares |= {"oracle": exact - x_0, "gap": x0_hat - exact}
        return {name: _mean_square(v) for name, v in squares.items()}

    errors = [_over_batches(one_level, x_0, sigma, seed, i) for i, sigma in enumerate(sigmas)]
    levels = np.asarray(sigmas, np.float64)
    curve = _relative(np.stack([e["model"] for e in errors]), levels)
    if oracle is not None:
        exact = np.stack([e["oracle"].mean() for e in errors])
        curve |= {"oracle_mse": exact / levels**2, "excess": np.stack([e["gap"].mean() for e in errors]) / exact}
    return curve


def ambient_curve(
    denoise: DenoiseFn, x_tn: np.ndarray, sigma_tn: np.ndarray, *, sigmas: Sequence[float], seed: int = 0
) -> dict[str, np.ndarray]:
    """The same curve from noisy images alone, at the levels above their noise.

    With x_t = x_tn + √(σ_t² − σ_tn²) η and L = E‖E_θ[x_tn | x_t] − x_tn‖²/D, the error against the clean image is
    MSE = (L − aσ_tn²)/a², a = 1 − (σ_tn/σ_t)²: given x_t, x_tn has variance a²Cov[x_0 | x_t] + aσ_tn².

    Args:
        denoise: the denoiser.
        x_tn: [N, ...] noisy images it never saw.
        sigma_tn: [N] their noise.
        sigmas: levels; those at or below IDENTIFIABLE·max σ_tn are left out: there 1/a² swells the error of the
            estimate.
        seed: of the added noise.

    Returns:
        sigma, relative_mse, standard_error, all [S'].
    """
    kept = np.asarray([s for s in sigmas if s > IDENTIFIABLE * np.max(sigma_tn)], np.float64)
    levels = np.asarray(sigma_tn, np.float32)

    def one_level(key, batch, sigma):
        x_tn, sigma_tn = batch
        x_t = add_noise(key, x_tn, sigma_s=sigma_tn, sigma_t=sigma)
        x_tn_hat = denoised_at_level(x_t, denoise(x_t, sigma), sigma_t=sigma, sigma_tn=sigma_tn)
        a = signal_fraction(sigma, sigma_tn)
        return {"model": (_mean_square(x_tn_hat - x_tn) - a * sigma_tn**2) / a**2}

    errors = [_over_batches(one_level, (x_tn, levels), sigma, seed, i)["model"] for i, sigma in enumerate(kept)]
    return _relative(np.stack(errors) if errors else np.zeros((0, len(x_tn))), kept)


def _mean_square(x):
    return jnp.mean(jnp.square(x).reshape(x.shape[0], -1), axis=1)


def _relative(errors, sigmas):
    """[S, N] squared errors as mean and standard error over images, divided by σ²."""
    scale = sigmas**2
    spread = errors.std(axis=1, ddof=1) / np.sqrt(errors.shape[1])
    return {"sigma": sigmas, "relative_mse": errors.mean(axis=1) / scale, "standard_error": spread / scale}


def _over_batches(one_level: Callable, examples, sigma: float, seed: int, level: int) -> dict[str, np.ndarray]:
    """one_level(keys, rows, sigma) on every example: image n gets its noise from (seed, level, n)."""
    count = len(jax.tree.leaves(examples)[0])
    key = jax.random.fold_in(purpose_key(seed, "evaluation"), level)
    parts = []
    for start in range(0, count, BATCH):
        rows = np.minimum(np.arange(start, start + BATCH), count - 1)  # the last row again, to keep one shape
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(rows)
        batch = jax.tree.map(lambda v, rows=rows: v[rows], examples)
        values = one_level(keys, batch, jnp.full(BATCH, sigma, jnp.float32))
        parts.append({k: np.asarray(v, np.float64)[: count - start] for k, v in values.items()})
    return {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
