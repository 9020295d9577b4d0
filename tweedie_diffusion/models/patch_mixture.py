"""A Gaussian mixture of small patches, fitted to noisy images, and the denoiser it makes at every level.

Below the noise of the data a network has no example of what fine detail looks like; of a patch it is a matter of a few
covariances, and these the noise hides from no one: each noisy patch has the covariance of a clean one plus σ_tn²I.
(Mixtures of patches as a prior of images: Zoran and Weiss 2011; fitted to the noisy image itself: Yu, Sapiro and Mallat
2012, Houdard, Bouveyron and Delon 2018.)
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from tweedie_diffusion.diffusion.oracles import mixture_denoiser_along
from tweedie_diffusion.diffusion.rows import as_rows
from tweedie_diffusion.diffusion.types import DenoiseFn
from tweedie_diffusion.models.components import FLOOR, components_of, merge, shrink, symmetric
from tweedie_diffusion.models.range_ends import in_range, weigh

POINTS = 4  # components that are one patch, as a background is: no variance
MAX_PATCHES = 4_000_000
FEW_PATCHES = 200_000  # for the first passes
PASSES, LAST_PASSES = 15, 3  # of expectation-maximisation, over few patches and over all of them
END = 1.0  # ρ of an end of the range at which pixels sit
END_GAIN = 0.005  # of the log-likelihood of a pixel by such an end: less may be a tail that is not quite Gaussian
END_LEVEL = 0.1  # the least noise through which ends are looked for
END_PIXELS = 200_000  # in which they are looked for
FAR = 1e6  # where an end of the range is, that does not matter
MAX_FEATURES = 256  # of a vector or patch
CHUNK = 8192  # patches in one call, about

_highest = jax.default_matmul_precision("highest")  # an accelerator would round away what is left of a covariance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PatchMixture:
    """Σ_k weights[k]·N(means[k], axes[k]·diag(variances[k])·axes[k]ᵀ) of clean patches [P, P, C], flat, or vectors.

    Attributes:
        weights: [K].
        means: [K, D], D = P·P·C of patches.
        axes: [K, D, D], orthonormal columns.
        variances: [K, D].
        ends: [2], lengths ρ >= 0 that say how much of a pixel sits at the ends of the range; 0 for nothing.
    """

    weights: jax.Array
    means: jax.Array
    axes: jax.Array
    variances: jax.Array
    ends: jax.Array


def patch_denoiser(mixture: PatchMixture, *, value_range: tuple[float, float] = (-1.0, 1.0)) -> DenoiseFn:
    """The posterior mean of every patch under the mixture, averaged over all patches that hold a pixel.

    E[p_0 | p_t] = Σ_k r_k·(m_k + G_k(p_t − m_k)), G_k = S_k(S_k + σ²I)⁻¹, r_k ∝ w_k·N(p_t; m_k, S_k + σ²I).

    Where pixels sit at an end of the range (ρ > 0), the mean μ of a pixel and the part g of its own noise in it,
    averages over patches, are taken as those of the Gaussian N((μ − g·x_t)/(1 − g), s²), s² = σ²g/(1 − g), seen through
    the noise: exact for one component and one patch. The pixel is drawn from it inside the range; its mass beyond the
    end sits at the end, times ρ/s. The value is the mean that these have given x_t.

    Args:
        mixture: of patches with as many channels as the images, or of vectors.
        value_range: that of clean images, which holds every value; ends may be infinite. Vectors have none.

    Returns:
        denoise(x_t [B, H, W, C], sigma float or [B], > 0) -> x0_hat [B, H, W, C], H and W at least the side of a patch;
        or [B, D] -> [B, D]. It raises ValueError for images or vectors that the mixture is not of.
    """
    prepared = _prepare(mixture)
    of_vectors = mixture_denoiser_along(mixture.weights, mixture.means, mixture.variances, mixture.axes)
    low, high = value_range

    def denoise(x_t, sigma):
        if x_t.ndim == 2:
            if x_t.shape[1] != mixture.means.shape[1]:
                held = mixture.means.shape[1]
                raise ValueError(f"the mixture is of {held} values, and the vectors have {x_t.shape[1]}")
            return of_vectors(x_t, sigma)
        # Pixels in one row, and few axes in `_average`: XLA (0.10) crashes on a CPU that fuses reductions over seven
        # axes, and `vmap` over draws makes seven of [3, B, H, W, C].
        pixels = x_t.reshape(len(x_t), -1)
        mean, own, rest = (average.reshape(pixels.shape) for average in _posterior(prepared, x_t, sigma))
        bounds = jnp.where(mixture.ends > 0, jnp.clip(jnp.array([low, high]), -FAR, FAR), jnp.array([-FAR, FAR]))
        noise_variance = jnp.square(as_rows(sigma, x_t))[:, None]
        places, _, posterior = in_range(pixels, mean, own, rest, noise_variance, bounds)
        share = jax.nn.softmax(weigh(posterior, mixture.ends), axis=0)
        return jnp.clip(jnp.sum(share * places, axis=0), low, high).reshape(x_t.shape)

    return denoise


def fit_patch_mixture(
    x_tn: np.ndarray, *, sigma_tn: float, components: int = 64, side: int = 4, seed: int = 0
) -> PatchMixture:
    """Expectation-maximisation from noisy images, by the likelihood of at most 4 million of their noisy patches.

    A noisy patch of component k is N(m_k, S_k + σ_tn²I), whose covariance is estimated and the noise's taken away. What
    is left of an eigenvalue within the spread of noise, σ_tn²(2γ + γ²) with γ² = D/n_k (Marchenko and Pastur), is
    replaced by the mean of all such of the component, shrunk towards that of all components as far as chance spreads
    them; D patches without detail are added to each. Pixels are taken to sit at an end of [-1, 1] if that explains
    single pixels of some images better, by .005 of log-likelihood each, at level σ_tn or .1 if that is more.

    Args:
        x_tn: [N, H, W, C] at level sigma_tn, in [-1, 1] units; or [N, D], vectors, which have no points and no ends.
        sigma_tn: >= 0.
        components: K; of patches four of them are points, of no variance. Of vectors at most so many: two that one
            Gaussian describes as well are merged.
        side: P of the patches [P, P, C].
        seed: of the images and patches chosen, and of the first components among them.

    Raises:
        ValueError: if the images are smaller than a patch or hold too few of them, a patch or vector has more than 256
            values, or components <= 4 (of vectors, 0).
    """
    points = POINTS if x_tn.ndim == 4 else 0
    if x_tn.ndim == 2:
        x_tn, side = x_tn[:, None, None], 1
    count, height, width, channels = x_tn.shape
    if min(height, width) < side:
        raise ValueError(f"images of {height}×{width} hold no patch of {side}×{side}")
    if components <= points:
        raise ValueError(f"components must exceed {points}, the number of points (got {components})")
    dim, positions = side * side * channels, (height - side + 1) * (width - side + 1)
    if dim > MAX_FEATURES:
        raise ValueError(f"patches or vectors of {dim} values are too long for a mixture: at most {MAX_FEATURES}")
    if count * positions < 10 * components:
        raise ValueError(f"{count * positions} patches are too few for a mixture of {components}")
    rng = np.random.Generator(np.random.Philox(seed))
    images = x_tn[rng.permutation(count)]
    kept = min(positions, max(MAX_PATCHES // count, 1), 8 * CHUNK)
    rows = max(count // -(-count * kept // CHUNK), 1)  # images in a call, nearly all of them in equal parts
    chosen = rng.random((count, positions)).argpartition(kept - 1, axis=1)[:, :kept]

    @jax.jit
    @_highest
    def statistics(mixture, images, chosen):
        """[K, F] sums of the features of patches, each by its share in every component; and their log likelihood."""
        patches = _patches(images, side).reshape(len(images), positions, dim)
        features = _features(jnp.take_along_axis(patches, chosen[..., None], axis=1).reshape(-1, dim))
        logits, _, _ = _coefficients(_prepare(mixture), jnp.float32(sigma_tn**2))
        log_densities = features @ logits
        return jax.nn.softmax(log_densities, axis=-1).T @ features, logsumexp(log_densities, axis=-1).sum()

    def expect(mixture, num_images):
        total, log_likelihood = np.zeros(()), 0.0
        for first in range(0, num_images - rows + 1, rows):  # what does not fill a call is left out
            part = slice(first, first + rows)
            found = statistics(mixture, images[part], chosen[part])
            total, log_likelihood = total + np.asarray(found[0], np.float64), log_likelihood + float(found[1])
        return total, log_likelihood

    maximise = lambda total: _maximise(total, dim, sigma_tn**2, points)
    few = int(np.clip(FEW_PATCHES // kept, rows, count))
    mixture = _first_mixture(images[:few], chosen[:few], side, components, points, sigma_tn**2)
    for _ in range(PASSES):
        mixture = maximise(expect(mixture, few)[0])
    if not points:
        one_pass = lambda total: expect(maximise(total), few)
        mixture = maximise(merge(expect(mixture, few)[0], one_pass, dim, sigma_tn**2))
    for _ in range(LAST_PASSES):
        mixture = maximise(expect(mixture, count)[0])
    if not points:
        return mixture
    level = max(sigma_tn, END_LEVEL)
    some = images[: max(min(few, END_PIXELS // images[0].size), 1)]
    some = some + math.sqrt(level**2 - sigma_tn**2) * rng.standard_normal(some.shape, np.float32)
    return dataclasses.replace(mixture, ends=_fit_ends(mixture, some, level))


def _first_mixture(images, chosen, side, components, points, noise_variance) -> PatchMixture:
    """Components of equal weight about patches taken at random, shrunk as one Gaussian for all would have it."""
    patches = np.asarray(_patches(jnp.asarray(images), side))
    flat = np.take_along_axis(patches.reshape(len(images), -1, patches.shape[-1]), chosen[..., None], axis=1)
    flat = flat.reshape(-1, patches.shape[-1]).astype(np.float64)
    mean, covariance = flat.mean(axis=0), np.atleast_2d(np.cov(flat.T))
    variance, axes = np.linalg.eigh(covariance)
    variance = np.maximum(variance - noise_variance, 1e-3)
    some = flat[np.linspace(0, len(flat) - 1, components).astype(int)]
    some[:points] = np.quantile(flat.mean(axis=1), np.linspace(0.05, 0.95, points))[:, None]
    means = mean + (some - mean) @ (axes * (variance / (variance + noise_variance))) @ axes.T
    return _mixture(
        np.full(components, 1 / components),
        means,
        np.broadcast_to(axes, (components, *axes.shape)),
        np.broadcast_to(variance / 4 + 1e-3, means.shape),
        points,
    )


def _maximise(total: np.ndarray, dim: int, noise_variance: float, points: int) -> PatchMixture:
    """The mixture of largest likelihood for the shares that gave the sums `total` [K, F]."""
    count, mean, axes, values, small = components_of(total, dim, noise_variance)
    number = np.maximum(small.sum(axis=1), 1)
    level = np.where(small, values, 0.0).sum(axis=1) / number
    known = small.any(axis=1) & (count > 1) & (np.arange(len(count)) >= points)
    if known.sum() > 1:
        error = 2 * (noise_variance + FLOOR) ** 2 / (count * number)
        level[known] = shrink(level[known], error[known])
    return _mixture(count / count.sum(), mean, axes, np.where(small, level[:, None], values), points)


def _mixture(weights, means, axes, variances, points) -> PatchMixture:
    variances = np.maximum(variances, FLOOR)
    variances[:points] = FLOOR
    arrays = np.maximum(weights, 1e-8), means, axes, variances, np.zeros(2)
    return PatchMixture(*(jnp.asarray(a, jnp.float32) for a in arrays))


def _fit_ends(mixture: PatchMixture, x_t: np.ndarray, sigma: float) -> jax.Array:
    """[2], END for an end of [-1, 1] that makes the pixels likelier, given the rest of the image, and else 0."""

    @jax.jit
    def gains(prepared, x_t):
        mean, own, rest = _posterior(prepared, x_t, sigma)
        _, prior, posterior = in_range(x_t, mean, own, rest, jnp.float32(sigma**2), jnp.array([-1.0, 1.0]))
        evidence = lambda log_masses, ends: logsumexp(weigh(log_masses, jnp.array(ends)), axis=0)
        log_likelihood = lambda *ends: jnp.sum(evidence(posterior, ends) - evidence(prior, ends))
        return log_likelihood(END, END) - jnp.stack([log_likelihood(0.0, END), log_likelihood(END, 0.0)])

    prepared = _prepare(mixture)
    rows = min(max(CHUNK // (x_t.shape[1] * x_t.shape[2]), 1), len(x_t))
    x_t = x_t[: len(x_t) // rows * rows]  # calls of one size, so one compilation
    gain = sum(np.asarray(gains(prepared, x_t[first : first + rows])) for first in range(0, len(x_t), rows))
    return jnp.where(gain > END_GAIN * x_t.size, END, 0.0)


@_highest
def _posterior(prepared, x_t, sigma):
    """[B, H, W, C] averages over the patches that hold a pixel: its mean given a patch, g (see above), 1 − g."""
    _, variances, axes, _, _ = prepared
    dim, channels = variances.shape[1], x_t.shape[-1]
    side = math.isqrt(dim // channels)
    if side * side * channels != dim or min(x_t.shape[1:3]) < side:
        raise ValueError(f"the patches of {dim} values are not of images of {list(x_t.shape[1:])}")
    noise_variance = jnp.square(as_rows(sigma, x_t))
    logits, gains, offsets = jax.vmap(lambda variance: _coefficients(prepared, variance))(noise_variance)
    patches = _patches(x_t, side)
    flat = patches.reshape(len(x_t), -1, dim)
    share = jax.nn.softmax(jnp.einsum("bpf,bfk->bpk", _features(flat), logits), axis=-1)
    gain = symmetric(jnp.einsum("bpk,bks->bps", share, gains), dim)
    mean = jnp.einsum("bpde,bpe->bpd", gain, flat) + jnp.einsum("bpk,bkd->bpd", share, offsets)
    own = jnp.diagonal(gain, axis1=-2, axis2=-1)
    noise_variance = noise_variance[:, None, None]
    lost = jnp.einsum("kde,bke->bkd", jnp.square(axes), noise_variance / (variances[None] + noise_variance))
    rest = jnp.einsum("bpk,bkd->bpd", share, lost)  # 1 − own would be rounded away
    averages = _average(jnp.stack([mean, own, rest], axis=1).reshape(len(x_t), 3, *patches.shape[1:]), channels)
    return averages[:, 0], averages[:, 1], averages[:, 2]


@_highest
def _prepare(mixture: PatchMixture):
    """All of `_coefficients` that does not depend on the level, and that XLA would take minutes to fold."""
    first, second = np.triu_indices(mixture.means.shape[1])
    outer = jnp.swapaxes(mixture.axes[:, first] * mixture.axes[:, second], 1, 2)  # [K, D, S]: of each axis with itself
    along = jnp.einsum("kde,kd->ke", mixture.axes, mixture.means)
    return jnp.log(mixture.weights), mixture.variances, mixture.axes, along, outer


def _coefficients(prepared, noise_variance):
    """What is linear in `_features`: [F, K] log of weight times density; and G_k [K, S], m_k − G_k m_k [K, D]."""
    log_weights, variances, axes, along, outer = prepared
    first, second = np.triu_indices(axes.shape[1])
    total = variances + noise_variance
    upper = lambda values: jnp.einsum("ke,kes->ks", values, outer)
    back = lambda values: jnp.einsum("kde,ke->kd", axes, values)
    constant = log_weights - (jnp.log(total) + along**2 / total).sum(axis=1) / 2
    quadratic = -upper(1 / total) * np.where(first == second, 0.5, 1.0)[None]
    logits = jnp.concatenate([constant[:, None], back(along / total), quadratic], axis=1).T
    return logits, upper(variances / total), back(along * noise_variance / total)


def _features(x):
    """[..., D] -> [..., F]: 1, x and the products of its entries, each once."""
    first, second = np.triu_indices(x.shape[-1])
    return jnp.concatenate([jnp.ones_like(x[..., :1]), x, x[..., first] * x[..., second]], axis=-1)


def _patches(x, side):
    """[B, H, W, C] -> [B, H − P + 1, W − P + 1, P·P·C], every patch that lies inside."""
    rows = jnp.stack([x[:, i : x.shape[1] - side + 1 + i] for i in range(side)], axis=-2)
    both = jnp.stack([rows[:, :, j : x.shape[2] - side + 1 + j] for j in range(side)], axis=-2)
    return both.reshape(*both.shape[:3], -1)


def _average(patches, channels):
    """[..., H − P + 1, W − P + 1, P·P·C] -> [..., H, W, C]: of each pixel the mean over its patches."""
    *others, rows, columns, dim = patches.shape
    side = math.isqrt(dim // channels)
    across = _overlap_mean(patches.reshape(-1, columns, side, side, channels))
    both = _overlap_mean(across.reshape(-1, rows, columns + side - 1, side, channels))
    return both.reshape(*others, *both.shape[1:])


def _overlap_mean(parts):
    """[N, L − P + 1, K, P, C] -> [N, L, K, C]: of each place the mean over the windows of length P that hold it."""
    number, side = parts.shape[1], parts.shape[3]
    shifted = [jnp.pad(parts[..., i, :], [(0, 0), (i, side - 1 - i), (0, 0), (0, 0)]) for i in range(side)]
    held = np.convolve(np.ones(number), np.ones(side))
    return sum(shifted) / jnp.asarray(held[None, :, None, None], parts.dtype)
