"""The losses, per example and unreduced: [B] out. The caller multiplies by `edm_weight` and averages."""

import jax
import jax.numpy as jnp

from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.reverse_steps import ancestral_step
from tweedie_diffusion.diffusion.rows import as_rows, check_levels, mean_features, split
from tweedie_diffusion.diffusion.tweedie import denoised_at_level, signal_fraction
from tweedie_diffusion.diffusion.types import DenoiseFn, MapDraws, ReverseStep


def edm_weight(sigma, *, sigma_data: float) -> jax.Array:
    """λ(σ) = (σ² + σ_d²)/(σσ_d)²: with EDM preconditioning every level weighs alike (EDM, table 1).

    Args:
        sigma: float or any shape, > 0.
        sigma_data: σ_d > 0.

    Returns:
        float32 of the shape of sigma.
    """
    check_levels(0.0, sigma, "sigma must be > 0", strict=True)
    sigma = jnp.asarray(sigma, jnp.float32)
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def denoising_loss(key: jax.Array, denoise: DenoiseFn, x_0: jax.Array, *, sigma_t) -> jax.Array:
    """‖denoise(x_0 + σ_t η, σ_t) − x_0‖²/D per example: denoising score matching (EDM, equation 2, without λ).

    Args:
        key: one key, or [B] keys.
        denoise: the denoiser.
        x_0: [B, ...] clean data.
        sigma_t: float or [B], > 0.

    Returns:
        [B], the mean of the squared residual over features.

    Raises:
        ValueError: if sigma_t <= 0 (levels under jit are not checked).
    """
    check_levels(0.0, sigma_t, "sigma_t must be > 0", strict=True)
    sigma_t = as_rows(sigma_t, x_0)
    x_t = add_noise(key, x_0, sigma_s=0.0, sigma_t=sigma_t)
    return mean_features(jnp.square(denoise(x_t, sigma_t) - x_0))


def ambient_loss(
    key: jax.Array,
    denoise: DenoiseFn,
    x_tn: jax.Array,
    *,
    sigma_tn,
    sigma_t,
    weight_cap: float = 16.0,
    antithetic: bool = False,
    map_draws: MapDraws = jax.vmap,
) -> jax.Array:
    """Ambient denoising score matching: exact above the data's noise, from noisy data alone.

    min(1/a², cap) · ‖a·denoise(x_t, σ_t) + (1 − a)·x_t − x_tn‖²/D,
    x_t = x_tn + √(σ_t² − σ_tn²) η,  a = 1 − (σ_tn/σ_t)²
    (arXiv:2404.10177, equation 3.4; weight: Ambient Omni). Its minimiser is E[x_0 | x_t] at every σ_t > σ_tn.
    With sigma_tn = 0 and the same key it equals `denoising_loss`. Without the 1/a² the loss is a² times the error,
    which vanishes with its gradient at σ_t = σ_tn.

    Args:
        key: one key, or [B] keys.
        denoise: the denoiser.
        x_tn: [B, ...] data at level sigma_tn.
        sigma_tn: float or [B], >= 0; 0 marks a clean example.
        sigma_t: float or [B], > sigma_tn.
        weight_cap: the cap on 1/a²; 1 is the plain loss.
        antithetic: the mean over η and −η, which cancels the part of the gradient's noise that is odd in η: near
            σ_tn, where 1/a² swells it, nearly all. Twice the calls.
        map_draws: makes the function of one of them that of both: `jax.vmap`, or `one_by_one` where B is split over
            devices.

    Returns:
        [B].

    Raises:
        ValueError: if sigma_t <= sigma_tn (levels under jit are not checked) or weight_cap < 1.
    """
    if weight_cap < 1:
        raise ValueError(f"weight_cap must be >= 1 (got {weight_cap}): 1 is plain ADSM")
    check_levels(sigma_tn, sigma_t, "sigma_t must exceed sigma_tn >= 0", strict=True)
    sigma_tn, sigma_t = as_rows(sigma_tn, x_tn), as_rows(sigma_t, x_tn)
    a = signal_fraction(sigma_t, sigma_tn)
    weight = 1 / jnp.maximum(jnp.square(a), 1 / weight_cap)

    def one(x_t):
        residual = denoised_at_level(x_t, denoise(x_t, sigma_t), sigma_t=sigma_t, sigma_tn=sigma_tn) - x_tn
        return weight * mean_features(jnp.square(residual))

    x_t = add_noise(key, x_tn, sigma_s=sigma_tn, sigma_t=sigma_t)
    if not antithetic:
        return one(x_t)
    return map_draws(one)(jnp.stack([x_t, 2 * x_tn - x_t])).mean(axis=0)


def consistency_loss(
    key: jax.Array,
    denoise: DenoiseFn,
    x_t: jax.Array,
    *,
    sigma_t,
    sigma_s,
    step: ReverseStep = ancestral_step,
    teacher: DenoiseFn | None = None,
    sampler: DenoiseFn | None = None,
    draws: int = 2,
    antithetic: bool = False,
    ridge: float = 0.0,
    map_draws: MapDraws = jax.vmap,
) -> jax.Array:
    """⟨denoise(x_s¹, σ_s) − high, denoise(x_s², σ_s) − high⟩/D per example, high = denoise(x_t, σ_t).

    The exact denoiser is a martingale of the reverse process, denoise(x_t) = E[denoise(x_s) | x_t], so with two
    independent draws x_s¹, x_s² given x_t the mean of the product is ‖bias‖², without the +Var/K of a squared mean
    (arXiv:2404.10177, theorem 3.3 and equation 3.6). The estimator may be negative. With K draws it is the mean over
    all pairs, the U-statistic (‖Σd‖² − Σ‖d‖²)/(K(K − 1)) of the differences d. One antithetic draw takes half the calls
    of two on the low side: ‖(d⁺ + d⁻)/2‖², of mean ‖bias‖² plus the variance of what is even in the noise, which is of
    the order of (1 − r²)².

    Args:
        key: one key, or [B] keys.
        denoise: the denoiser that learns.
        x_t: [B, ...] at level sigma_t.
        sigma_t, sigma_s: floats or [B], sigma_t > 0, 0 < sigma_s <= sigma_t.
        step: the stochastic reverse step that draws x_s; its noise never carries a gradient. The identity holds for
            the reverse kernel and not along the ODE, so `euler_step` and `heun_step` bias even the exact denoiser.
        teacher: draws x_s in place of `denoise`, and gives the high side, without gradient. None: `denoise` does, and
            the gradient passes through the high side and all low sides.
        sampler: draws x_s, whatever gives the high side. None: the teacher, or `denoise` without one.
        draws: K >= 2, or 1 if antithetic.
        antithetic: each of the differences averages `denoise` over a draw and its mirror image (sign ±1), which
            cancels the noise that is odd in z. Twice the calls on the low side.
        ridge: κ in [0, 1]: adds κ·Var[denoise(x_s) | x_t], so that errors grow as σ^{−2(1−κ)} on the way down instead
            of σ^{−2} (docs/maths.md, section 4). 0 is exact, 1 the squared difference of one draw.
        map_draws: as of `ambient_loss`, over all draws.

    Returns:
        [B], unbiased for the squared bias plus the ridge if K >= 2.

    Raises:
        ValueError: if sigma_s > sigma_t or sigma_s <= 0 (levels under jit are not checked), draws < 2 (1 if
            antithetic), or ridge is outside [0, 1].
    """
    if draws < (1 if antithetic else 2):
        raise ValueError(
            f"draws must be >= 2, or 1 if antithetic (got {draws}): the square of one draw is biased by its variance"
        )
    if not 0 <= ridge <= 1:
        raise ValueError(f"ridge must lie in [0, 1] (got {ridge}): 0 is the unbiased loss")
    check_levels(sigma_s, sigma_t, "sigma_t must be at least sigma_s > 0")
    check_levels(0.0, sigma_s, "sigma_s must be > 0", strict=True)
    sigma_t, sigma_s = as_rows(sigma_t, x_t), as_rows(sigma_s, x_t)
    sampler = sampler or teacher or denoise
    high = jax.lax.stop_gradient(teacher(x_t, sigma_t)) if teacher else denoise(x_t, sigma_t)

    signs = jnp.array([1.0, -1.0] if antithetic else [1.0])

    def low(draw_key, sign):
        x_s = jax.lax.stop_gradient(step(draw_key, sampler, x_t, sigma_t, sigma_s, sign=sign))
        return denoise(x_s, sigma_s)

    # All draws over one axis [K draws · signs, B, ...], with vmap in one call: each more strains XLA on a CPU.
    keys = jnp.repeat(split(key, draws), len(signs), axis=0)
    differences = map_draws(low)(keys, jnp.tile(signs, draws)) - high[None]
    differences = differences.reshape(draws, len(signs), *x_t.shape)
    square = jnp.square(differences).mean(axis=(0, 1))
    each = differences.mean(axis=1)
    if draws <= 2:
        product = each[0] * each[-1]
    else:
        product = (jnp.square(each.sum(axis=0)) - jnp.square(each).sum(axis=0)) / (draws * (draws - 1))
    return mean_features((1 - ridge) * product + ridge * square)
