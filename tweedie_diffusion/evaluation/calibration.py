"""Whether posterior samples vary as much as they should: coverage, ranks, and what is left of the noise.

Everything stands on one fact. Of a calibrated model the truth is one more draw of the same law: given x_tn, the clean
image and S posterior samples are S + 1 independent draws of p(x_0 | x_tn), so the rank of the truth among the samples
is uniform on 0 … S, pixel by pixel, for every S exactly (Talts et al. 2018, arXiv:1804.06788). Pixels of an image are
not independent of one another: errors are taken over images.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2

from tweedie_diffusion.diffusion.rows import expand, normal, purpose_key


def ranks(samples: np.ndarray, truth: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """How many of the samples lie below the truth, pixel by pixel; ties are broken at random.

    Args:
        samples: [S, N, ...] of p(x_0 | x_tn), S draws for each of N images.
        truth: [N, ...].
        seed: of the ties; image n's depend on it and on n.

    Returns:
        [N, D] integers from 0 to S, uniform if truth and samples are draws of one law, also of one with atoms.

    Raises:
        ValueError: if the shapes do not fit, or there is no sample.
    """
    samples, truth = np.asarray(samples), np.asarray(truth)
    if samples.shape[1:] != truth.shape or not len(samples):
        raise ValueError(f"samples must be [S, {', '.join(map(str, truth.shape))}] (got {list(samples.shape)})")
    below = (samples < truth).sum(axis=0).reshape(len(truth), -1)
    equal = (samples == truth).sum(axis=0).reshape(len(truth), -1)
    if equal.any():
        uniform = np.random.Generator(np.random.Philox(seed)).random(equal.shape)  # image after image, whatever N is
        below = below + np.floor(uniform * (equal + 1)).astype(below.dtype)
    return below


def coverage(
    samples: np.ndarray, truth: np.ndarray, *, levels: Sequence[float] = (0.5, 0.9), seed: int = 0
) -> dict[str, np.ndarray]:
    """The share of true pixels inside the central interval of their posterior samples.

    Between the order statistics number lo and hi of S samples the truth of a calibrated model lies with probability
    (hi − lo)/(S + 1), whatever the law is. The interval of a level p goes from lo = k to hi = S + 1 − k with k ≥ 1 the
    whole number nearest to (1 − p)(S + 1)/2: `expected` is what it covers, 1 − 2k/(S + 1), and not p.

    Args:
        samples: [S, N, ...], at least two draws for each of at least two images.
        truth: [N, ...] clean images, or what else the samples predict.
        levels: L nominal levels, in (0, 1).
        seed: of ties with an end, as of pixels at the end of the range.

    Returns:
        level, expected, coverage, standard_error, each [L]; errors are over images.

    Raises:
        ValueError: if the shapes do not fit, or there is too little of anything.
    """
    _check_count(len(samples), "samples an image")
    _check_count(len(truth), "images")
    draws, rank = len(samples), ranks(samples, truth, seed=seed)
    lows = [max(1, round((1 - level) * (draws + 1) / 2)) for level in levels]
    shares = np.stack([np.mean((rank >= k) & (rank <= draws - k), axis=1) for k in lows])
    mean, error = mean_and_error(shares)
    expected = 1 - 2 * np.asarray(lows) / (draws + 1)
    return {"level": np.asarray(levels), "expected": expected, "coverage": mean, "standard_error": error}


def rank_histogram(samples: np.ndarray, truth: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """How many pixels have each rank, [S + 1]: level if calibrated, a U if the samples vary too little, a hill if too
    much, a slope if they are shifted. Arguments and errors as `ranks`.
    """
    return np.bincount(ranks(samples, truth, seed=seed).ravel(), minlength=len(samples) + 1)


def uniformity(samples: np.ndarray, truth: np.ndarray, *, seed: int = 0) -> dict[str, float]:
    """How far the ranks are from uniform, as χ² would say, but with images as what is independent.

    Q = Σ_r (h_r − u)²/u, h the mean over images of each image's shares of ranks and u = 1/(S + 1). Under calibration
    Q is a sum of χ² variables with the eigenvalues of M = C/(uN) as weights, C the covariance of the shares over
    images: `ratio` is Q/tr M, 1 on average, and `p_value` that of χ² with ν = (tr M)²/tr M² degrees of freedom (Rao
    and Scott 1981: χ² of clustered data).

    Args:
        samples: [S, N, ...], at least two images; ten and more for the p-value.
        truth: [N, ...].
        seed: of ties.

    Returns:
        ratio, p_value; mean_rank and mean_rank_error, of rank/S, ½ if calibrated; dispersion and dispersion_error, of
        E(rank/S − ½)² over its value of uniform ranks, (S + 2)/(12S): 1 if calibrated, more if the samples vary too
        little, less if too much.

    Raises:
        ValueError: if the shapes do not fit, or there are fewer than two images.
    """
    _check_count(len(truth), "images")
    draws, rank = len(samples), ranks(samples, truth, seed=seed)
    shares = np.stack([np.mean(rank == r, axis=1) for r in range(draws + 1)], axis=1)  # [N, S + 1]
    uniform = 1 / (draws + 1)
    distance = np.sum(np.square(shares.mean(axis=0) - uniform)) / uniform
    covariance = np.cov(shares, rowvar=False) / (uniform * len(shares))
    trace, squares = np.trace(covariance), np.sum(np.square(covariance))
    ratio = distance / trace if trace > 0 else (np.inf if distance > 0 else 1.0)
    freedom = trace**2 / squares if squares > 0 else 1.0
    relative = rank / draws
    mean_rank, mean_rank_error = mean_and_error(relative.mean(axis=1))
    spread = np.mean(np.square(relative - 0.5), axis=1) * 12 * draws / (draws + 2)
    dispersion, dispersion_error = mean_and_error(spread)
    return {
        "ratio": float(ratio),
        "p_value": float(chi2.sf(ratio * freedom, freedom)),
        "mean_rank": float(mean_rank),
        "mean_rank_error": float(mean_rank_error),
        "dispersion": float(dispersion),
        "dispersion_error": float(dispersion_error),
    }


def residual_whiteness(x_tn: np.ndarray, x0_hat: np.ndarray, sigma_tn: np.ndarray | float) -> dict[str, float]:
    """The residual (x_tn − x0_hat)/σ_tn: its mean, its standard deviation, and the correlation of neighbours.

    For a posterior sample x in the place of x0_hat: (x, x_tn) of a calibrated model has the law of (x_0, x_tn), so
    x_tn − x has that of the noise σ_tn z itself: mean 0, standard deviation 1 exactly, neighbours uncorrelated. More
    or less than 1, or structure in the residual, is an error of the model, or of σ_tn.
    For the posterior mean less than 1 is right: x_0 − x0_hat is orthogonal to all that is known from x_tn, hence
    E‖x_tn − x0_hat‖² = σ_tn²D − E tr Cov[x_0 | x_tn] = σ_tn²(D − E tr J), J = ∂denoise/∂x_tn of D features; and its
    neighbours are correlated, as the posterior covariance is.

    Args:
        x_tn: [N, ...] noisy images, at least two.
        x0_hat: [N, ...], or [S, N, ...] of several samples of each.
        sigma_tn: float or [N], > 0.

    Returns:
        mean, sd (about 0), and correlation of pixels beside and below one another, each with its _error over images;
        the correlation only of images [H, W, C] (of vectors, or of one pixel, it is left out).

    Raises:
        ValueError: if the shapes do not fit, or an image has no noise.
    """
    x_tn, x0_hat = np.asarray(x_tn, np.float64), np.asarray(x0_hat, np.float64)
    _check_count(len(x_tn), "images")
    if x_tn.shape not in (x0_hat.shape, x0_hat.shape[1:]):
        raise ValueError(f"x_tn {list(x_tn.shape)} and x0_hat {list(x0_hat.shape)} must be of the same images")
    sigma = np.broadcast_to(np.asarray(sigma_tn, np.float64), len(x_tn))
    if not (sigma > 0).all():
        raise ValueError("sigma_tn must be > 0: an image without noise has no residual")
    residual = (x_tn - x0_hat) / sigma.reshape(-1, *[1] * (x_tn.ndim - 1))
    residual = residual.reshape(-1, *x_tn.shape)  # [S, N, ...]
    per_image = lambda values: values.mean(axis=(0, *range(2, values.ndim)))
    mean, mean_error = mean_and_error(per_image(residual))
    squares = per_image(np.square(residual))
    sd = np.sqrt(squares.mean())
    found = {"mean": float(mean), "mean_error": float(mean_error)}
    found |= {"sd": float(sd), "sd_error": float(mean_and_error(squares)[1] / (2 * sd))}
    if x_tn.ndim == 4 and min(x_tn.shape[1:3]) > 1:
        found |= _correlation(residual, squares, per_image)
    return found


def against_frames(
    samples: np.ndarray,
    other_frame: np.ndarray,
    sigma_tn: np.ndarray | float,
    *,
    levels: Sequence[float] = (0.5, 0.9),
    seed: int = 0,
) -> dict[str, np.ndarray | float]:
    """Coverage and uniformity where no clean image exists, by a second frame of the same scene.

    Given the first frame, sample + σ_tn·z and the second frame x_0 + σ_tn z' are draws of one law if the model is
    calibrated. What is tested is the posterior seen through σ_tn: where its spread is far below σ_tn, the noise of
    the second frame hides what is wrong with it.

    Args:
        samples: [S, N, ...] of p(x_0 | first frame).
        other_frame: [N, ...] second frames, with noise of their own.
        sigma_tn: float or [N], the noise of the second frames.
        levels, seed: as of `coverage`; the noise of sample s of image n depends on (seed, n, s).

    Returns:
        All of `coverage` and of `uniformity`.

    Raises:
        ValueError: as `coverage`.
    """
    samples, other_frame = np.asarray(samples), np.asarray(other_frame)
    sigma = np.broadcast_to(np.asarray(sigma_tn, np.float32), len(other_frame))
    key = purpose_key(seed, "second frames")
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(np.arange(len(other_frame)))

    def predicted(s, sample):
        own = jax.vmap(lambda k: jax.random.fold_in(k, s))(keys)
        return sample + np.asarray(expand(jnp.asarray(sigma), sample) * normal(own, sample.shape))

    frames = np.stack([predicted(s, sample) for s, sample in enumerate(samples)])
    return coverage(frames, other_frame, levels=levels, seed=seed) | uniformity(frames, other_frame, seed=seed)


def mean_and_error(per_image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over the last axis, that of images."""
    per_image = np.asarray(per_image, np.float64)
    return per_image.mean(axis=-1), per_image.std(axis=-1, ddof=1) / np.sqrt(per_image.shape[-1])


def _correlation(residual, squares, per_image):
    """Of neighbours, a ratio of two means over images; its error is that of the ratio."""
    right = per_image(residual[:, :, :, 1:] * residual[:, :, :, :-1])
    down = per_image(residual[:, :, 1:] * residual[:, :, :-1])
    products = (right + down) / 2
    correlation = products.mean() / squares.mean()
    error = mean_and_error(products - correlation * squares)[1] / squares.mean()
    return {"correlation": float(correlation), "correlation_error": float(error)}


def _check_count(count, what):
    if count < 2:
        raise ValueError(f"at least two {what} are needed (got {count})")
