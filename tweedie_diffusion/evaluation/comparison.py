"""Generated images beside real ones, and beside what real ones differ among themselves: the floor of each number."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import shuffled
from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.evaluation.distances import (
    SUBSET_SIZE,
    SUBSETS,
    energy_distance,
    frechet_distance,
    kernel_distance,
)
from tweedie_diffusion.evaluation.fidelity import NEIGHBOURS, fidelity
from tweedie_diffusion.evaluation.moments import Moments, check_sizes, enough_for

NEAREST = ("precision", "recall", "density", "coverage")
STATISTICS = ("frechet", "kid", *NEAREST)
SPLITS, FEWEST_SPLITS = 8, 2
MANY = 10**7  # numbers of features, beyond which a comparison takes its time


def compare(
    reference_features: np.ndarray,
    generated_features: np.ndarray,
    *,
    seed: int,
    neighbours: int = NEIGHBOURS,
    subsets: int = SUBSETS,
    subset_size: int = SUBSET_SIZE,
    statistics: Sequence[str] = STATISTICS,
    splits: int = 0,
) -> dict[str, dict[str, Any]]:
    """Every statistic of generated images, with its floor: the same one between two parts of the real images.

    All of these depend on how many images there are, the Fréchet distance most, which is biased upwards. So, of N real
    and M generated images, the real ones are split at random into two parts without a common image, of which one plays
    the generated images: it has n = min(M, N // 2), the other N − n. With M <= N/2 the floor thus has as many on the
    generated side as the value, and else the most there are. What may be set beside the floor is `matched`: the
    statistic of the same N − n real images and of n of the generated ones, all of them if M <= N/2; `value` is of all
    N and M. Both are means over several splits, and `difference_sd` is the standard deviation of matched − floor over
    them: a difference of no more says that these images do not tell the two laws apart.

    Args:
        reference_features: [N, F] of real images that the model was not trained on.
        generated_features: [M, F], in an order that means nothing.
        seed: of the splits, and of the subsets of the kernel distance.
        neighbours: of `fidelity`.
        subsets, subset_size: of `kernel_distance`.
        statistics: those wanted, of `STATISTICS`.
        splits: how many; 0 for 8, or 2 where features are more than 10⁷ numbers.

    Returns:
        {statistic: entry}, ready for JSON. An entry has value, matched, floor, difference_sd, n and floor_n, both
        {"reference", "generated"} (floor_n also holds for `matched`), splits and seed; matched, floor, difference_sd
        and floor_n are None if a part has no more than `neighbours` images. `kid` also has standard_error, of value;
        `frechet` has warning, empty unless there are too few images for a covariance that is not singular.

    Raises:
        InputError: if sizes differ, or there are too few images.
    """
    check_sizes(reference_features.shape[1], generated_features.shape[1])
    if unknown := set(statistics) - set(STATISTICS):
        raise InputError(f"there is no statistic {sorted(unknown)[0]!r}: choose of {', '.join(STATISTICS)}")
    options = {"seed": seed, "subsets": subsets, "subset_size": subset_size}
    measure = lambda real, other: _measure(real, other, statistics, neighbours, options)
    found, counts = measure(reference_features, generated_features), _counts(reference_features, generated_features)
    half = min(len(generated_features), len(reference_features) // 2)
    if half <= max(neighbours, 2):
        splits = 0
    elif not splits:
        splits = SPLITS if max(reference_features.size, generated_features.size) <= MANY else FEWEST_SPLITS
    matched, floor = [], []
    for k in range(splits):
        other, real = _split(reference_features, half, seed, 2 * k)
        matched.append(measure(real, _split(generated_features, half, seed, 2 * k + 1)[0]))
        floor.append(measure(real, other))
    parts = {"reference": len(reference_features) - half, "generated": half} if splits else None
    shared = {"n": counts, "floor_n": parts, "splits": splits, "seed": seed}
    entries = {name: {"value": found[name], **_over_splits(name, matched, floor), **shared} for name in statistics}
    if "kid" in entries:
        entries["kid"]["standard_error"] = found["kid_error"]
    if "frechet" in entries:
        entries["frechet"]["warning"] = _warning(reference_features.shape[1], parts or counts)
    return entries


def _over_splits(name, matched, floor):
    """Means of matched and floor, and the standard deviation of their difference."""
    if not matched:
        return {"matched": None, "floor": None, "difference_sd": None}
    pairs = np.array([(m[name], f[name]) for m, f in zip(matched, floor, strict=True)])
    means = pairs.mean(axis=0)
    spread = float(np.diff(pairs, axis=1).std(ddof=1)) if len(pairs) > 1 else None
    return {"matched": float(means[0]), "floor": float(means[1]), "difference_sd": spread}


def _split(rows, first, seed, purpose):
    """`first` of the rows, at random, and the others; both in their order."""
    order = shuffled(len(rows), seed, 2, purpose)
    return rows[np.sort(order[:first])], rows[np.sort(order[first:])]


def _measure(real, other, statistics, neighbours, options):
    """{statistic: value}, and `kid_error`."""
    found = {}
    if "frechet" in statistics:
        found["frechet"] = frechet_distance(Moments.of([real]), Moments.of([other]))
    if "kid" in statistics:
        found["kid"], found["kid_error"] = kernel_distance(real, other, **options)
    if set(statistics) & set(NEAREST):
        found |= fidelity(real, other, neighbours=neighbours)
    return found


def _counts(reference, generated):
    return {"reference": len(reference), "generated": len(generated)}


def _warning(size, counts):
    """One line if a covariance is singular."""
    if all(enough_for(size, count) for count in counts.values()):
        return ""
    fewest = min(counts, key=lambda side: counts[side])
    return (
        f"{counts[fewest]} {fewest} images make a singular covariance of {size} features: "
        f"N must exceed F: take at least {size + 1}"
    )


def proximal_distance(samples: np.ndarray, x_tn: np.ndarray, sigma_tn: np.ndarray, *, seed: int) -> dict[str, Any]:
    """Energy distance of samples, with noise added up to that of the data, from noisy images: no clean image is needed.

    0 for a model of the law whose noisy images these are: adding Gaussian noise of a known level loses no law. The
    floor is the same distance between two halves of the noisy images, of ⌈N/2⌉ and ⌊N/2⌋; the estimate is unbiased, so
    that both may be negative, and the floor spreads more, having fewer.

    Args:
        samples: [M, ...] in [-1, 1], at least 2.
        x_tn: [N, ...] noisy images that the model was not trained on, at least 2.
        sigma_tn: [N] their noise. Sample i gets the noise of image ⌊iN/M⌋.
        seed: of the noise and of the split.

    Returns:
        value, n {"reference", "generated"}, seed, floor, floor_n; ready for JSON. The last two are None if N < 4.

    Raises:
        InputError: if there are too few.
    """
    if len(x_tn) < 2 or len(samples) < 2:
        raise InputError(
            f"{len(x_tn)} noisy images and {len(samples)} samples are too few to compare: take at least 2 of each"
        )
    levels = sigma_tn[np.arange(len(samples)) * len(x_tn) // len(samples)]
    key = purpose_key(seed, "proximal distance")
    renoised = np.asarray(add_noise(key, jnp.asarray(samples), sigma_s=0.0, sigma_t=levels))
    found = {"value": energy_distance(renoised, x_tn), "n": _counts(x_tn, samples), "seed": seed}
    if len(x_tn) < 4:
        return found | {"floor": None, "floor_n": None}
    other, real = _split(x_tn, len(x_tn) // 2, seed, 0)
    return found | {"floor": energy_distance(real, other), "floor_n": _counts(real, other)}
