"""Every number of an evaluation: denoising, distances with their floors, calibration."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.diffusion.corruption import add_noise
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.evaluation.calibration import (
    against_frames,
    coverage,
    rank_histogram,
    residual_whiteness,
    uniformity,
)
from tweedie_diffusion.evaluation.comparison import compare, proximal_distance
from tweedie_diffusion.evaluation.curves import IDENTIFIABLE, ambient_curve, denoising_curve
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.evaluation.reference_cache import cached_features
from tweedie_diffusion.report.reference import Frames, Reference
from tweedie_diffusion.training.trained import TrainedModel

CURVE_IMAGES = 512  # of a denoising curve
PEAK_TO_PEAK = 2.0  # of images in [-1, 1]: PSNR = 10 log10(4/MSE)
PROXIMAL_IMAGES = 2000  # of each kind: the distance takes all pairs


@dataclasses.dataclass(frozen=True)
class Posterior:
    """Draws for some held-out noisy images.

    Attributes:
        x_tn: [N, ...] the images.
        sigma_tn: [N] their noise.
        mean: [N, ...] E[x_0 | x_tn].
        samples: [S, N, ...].
        x_0: [N, ...] clean images, or None where none exist.
    """

    x_tn: np.ndarray
    sigma_tn: np.ndarray
    mean: np.ndarray
    samples: np.ndarray
    x_0: np.ndarray | None


def levels_of(model: TrainedModel) -> np.ndarray:
    """Log-spaced levels: σ_tn/16 to 8σ_tn, a factor 2 apart, so that the data's own noise is one; of clean data
    0.02 to 5.12."""
    sigma_tn = model.facts.sigma_tn_max
    return sigma_tn * 2.0 ** np.arange(-4, 4) if sigma_tn > 0 else 0.02 * 2.0 ** np.arange(9)


def denoising(
    model: TrainedModel, dataset: Dataset, *, seed: int, clean_trained: TrainedModel | None = None
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """The error of denoising at `levels_of`: against held-out clean images where they exist, and from noisy ones alone.

    From noisy images MSE(σ_t) = (L − aσ_tn²)/a², L the unweighted mean of ambient score matching, for σ_t > 1.1 σ_tn
    only: below that they say nothing of it.

    Returns:
        JSON: sigma; value, psnr, standard_error at each, None where not identifiable; oracle, the exact denoiser's,
        where it is known; from_noisy, the same three by noisy images alone; reference, n, seed. And the curves of
        MSE/σ² by name, for a picture: "this run" (by clean images), "exact", "trained on clean images", "by noisy
        images alone".
    """
    chosen = dataset.some_held_out(CURVE_IMAGES)
    sigmas: list[float] = levels_of(model).tolist()
    curves: dict[str, dict[str, np.ndarray]] = {}
    examples = dataset.held_out.rows(chosen)
    noisy = examples["sigma_tn"] > 0
    x_tn, sigma_tn = examples["x_tn"][noisy], examples["sigma_tn"][noisy]
    if len(x_tn) > 1:
        curves["by noisy images alone"] = ambient_curve(model.denoise, x_tn, sigma_tn, sigmas=sigmas, seed=seed)
    reference, x_0 = _clean(dataset, chosen, examples)
    if len(x_0) > 1:
        options = {"sigmas": sigmas, "seed": seed}
        curves["this run"] = denoising_curve(model.denoise, x_0, oracle=dataset.images.oracle, **options)
        if "oracle_mse" in curves["this run"]:
            curves["exact"] = {"sigma": np.asarray(sigmas), "relative_mse": curves["this run"]["oracle_mse"]}
        if clean_trained is not None:
            curves["trained on clean images"] = denoising_curve(clean_trained.denoise, x_0, **options)
    found: dict[str, Any] = {"reference": reference, "n": len(x_0), "seed": seed, "sigma": sigmas}
    if "this run" not in curves:
        found |= {"reference": "held-out noisy images", "n": len(x_tn)}
    found |= _at(sigmas, curves.get("this run", curves.get("by noisy images alone")))
    if "exact" in curves:
        found["oracle"] = (curves["exact"]["relative_mse"] * np.square(sigmas)).tolist()
    if "by noisy images alone" in curves:
        found["from_noisy"] = _at(sigmas, curves["by noisy images alone"])
        found["identifiable_above"] = IDENTIFIABLE * float(sigma_tn.max())
    return found, curves


def _clean(dataset, chosen, examples):
    """What clean held-out images are called, and these: without noise at their source, or stated to have none."""
    if dataset.held_out_clean is not None:
        return "held-out clean images", np.stack([dataset.held_out_clean(int(i)) for i in chosen])
    return "held-out images stated as clean", examples["x_tn"][examples["sigma_tn"] == 0]


def _at(sigmas, curve):
    """value, psnr and standard_error at each level, None where the curve does not reach, or there is none."""
    curve = curve or dict.fromkeys(("sigma", "relative_mse", "standard_error"), ())
    relative = dict(zip(curve["sigma"], zip(curve["relative_mse"], curve["standard_error"], strict=True), strict=True))
    pairs = [(s**2 * v, s**2 * e) for s in sigmas for v, e in [relative.get(s, (np.nan, np.nan))]]
    psnr = [10 * np.log10(PEAK_TO_PEAK**2 / mse) if mse > 0 else np.nan for mse, _ in pairs]
    return {
        "value": _numbers(mse for mse, _ in pairs),
        "psnr": _numbers(psnr),
        "standard_error": _numbers(error for _, error in pairs),
    }


def _numbers(values):
    return [float(value) if np.isfinite(value) else None for value in values]


def distances(
    samples: np.ndarray, reference: Reference, features: FeatureSet, *, seed: int, cache: Path
) -> dict[str, dict[str, Any]]:
    """Fréchet and kernel distance, precision, recall, density and coverage, each with its floor and what it is of.

    Samples are compared with clean images. Where there are none, with noisy ones: noise of the same levels is added to
    the samples, which makes equal laws of equal laws and of no others.

    Args:
        samples: [M, ...] of the model.
        reference: real images the model was not trained on.
        features: what they are compared by.
        seed: of the noise, the halves and the subsets.
        cache: folder of the reference's features.
    """
    if reference.sigma_tn is not None:
        levels = reference.sigma_tn[np.arange(len(samples)) * len(reference.sigma_tn) // len(samples)]
        key = purpose_key(seed, "samples seen through noise")
        samples = np.asarray(add_noise(key, jnp.asarray(samples), sigma_s=0.0, sigma_t=levels))
    real = cached_features(cache, features, reference.digest, lambda: [reference.images])
    known = {"features": features.name, "size": features.size, "reference": reference.name}
    entries = compare(real, features(samples), seed=seed)
    return {name: entry | known for name, entry in entries.items()}


def proximal(samples: np.ndarray, dataset: Dataset, *, seed: int) -> dict[str, Any] | None:
    """Energy distance of samples seen through the data's noise from held-out noisy images; None if none are noisy."""
    chosen = dataset.some_held_out(PROXIMAL_IMAGES, noisy=True)
    if len(chosen) < 2:
        return None
    examples = dataset.held_out.rows(chosen)
    found = proximal_distance(samples[:PROXIMAL_IMAGES], examples["x_tn"], examples["sigma_tn"], seed=seed)
    return found | {"reference": "held-out noisy images"}


def draw_posterior(model: TrainedModel, dataset: Dataset, *, images: int, draws: int, seed: int) -> Posterior | None:
    """Posterior samples of some held-out noisy images; None if there are fewer than two."""
    chosen = dataset.some_held_out(images, noisy=True)
    if len(chosen) < 2:
        return None
    examples = dataset.held_out.rows(chosen)
    x_tn, sigma_tn = examples["x_tn"], examples["sigma_tn"]
    clean = dataset.held_out_clean
    return Posterior(
        x_tn,
        sigma_tn,
        model.denoise_all(x_tn, sigma_tn),
        np.stack([model.posterior_sample(x_tn, sigma_tn, draw, seed=seed) for draw in range(draws)]),
        None if clean is None else np.stack([clean(int(i)) for i in chosen]),
    )


def calibration(posterior: Posterior, *, seed: int) -> dict[str, Any]:
    """Whether the truth lies among posterior samples as one of them would, and whether they explain the noisy images.

    Returns:
        JSON: residual, of `residual_whiteness` of samples; with clean images also levels, of `coverage`, ranks, of
        `rank_histogram`, and uniformity; n, draws, seed.
    """
    residual = residual_whiteness(posterior.x_tn, posterior.samples, posterior.sigma_tn)
    found = {"n": len(posterior.x_tn), "draws": len(posterior.samples), "seed": seed, "residual": residual}
    if posterior.x_0 is None:
        return found
    return found | {
        "reference": "held-out clean images",
        "levels": _lists(coverage(posterior.samples, posterior.x_0, seed=seed)),
        "ranks": rank_histogram(posterior.samples, posterior.x_0, seed=seed).tolist(),
        "uniformity": uniformity(posterior.samples, posterior.x_0, seed=seed),
    }


def calibration_of_frames(model: TrainedModel, frames: Frames, *, draws: int, seed: int) -> dict[str, Any]:
    """`against_frames`: second frames of the same scenes in the place of clean images."""
    drawn = [model.posterior_sample(frames.first, frames.sigma_tn, draw, seed=seed) for draw in range(draws)]
    found = against_frames(np.stack(drawn), frames.second, frames.sigma_tn, seed=seed)
    levels = ("level", "expected", "coverage", "standard_error")
    return {
        "reference": "second frames",
        "n": len(frames.first),
        "draws": draws,
        "seed": seed,
        "residual": residual_whiteness(frames.first, np.stack(drawn), frames.sigma_tn),
        "levels": _lists({name: found[name] for name in levels}),
        "uniformity": {name: value for name, value in found.items() if name not in levels},
    }


def _lists(arrays: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: np.asarray(values, np.float64).tolist() for name, values in arrays.items()}
