"""What held-out noisy images alone say of a model: how good it is, and whether it collapses."""

from collections.abc import Callable

import numpy as np

from tweedie_diffusion.data.noise import noise_warning
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.evaluation.comparison import proximal_distance
from tweedie_diffusion.evaluation.curves import ambient_curve
from tweedie_diffusion.training.trained import TrainedModel

NUM_IMAGES = 256
ABOVE = (1.15, 1.5, 2.5)  # of the data's noise
LEAST_SHARE = 0.5  # of the variance that samples should have


def held_out_health(
    model: TrainedModel, dataset: Dataset, draw: Callable[[], np.ndarray] | None = None
) -> dict[str, float]:
    """Scalars from at most 256 noisy held-out images and as many samples; none if no image is noisy.

    Args:
        model: its weights and config.
        dataset: whose held-out images are looked at.
        draw: the first 256 samples of the model, or more; by default they are drawn here.

    Returns:
        held_out_ambient: mean MSE/σ² at 1.15, 1.5 and 2.5 times the data's noise, read from noisy images alone.
        proximal_distance: energy distance of samples, with noise added up to σ_tn, from noisy images.
        sample_variance: of samples, over that of the clean images, var(x_tn) − σ_tn².
        posterior_variance: of samples given one noisy image, over the error of denoising just above its noise.
        score: held_out_ambient + proximal_distance, the least of which is the best checkpoint.
    """
    chosen = dataset.some_held_out(NUM_IMAGES, noisy=True)
    if len(chosen) < 2:
        return {}
    examples = dataset.held_out.rows(chosen)
    x_tn, sigma_tn = examples["x_tn"], examples["sigma_tn"]
    top = float(sigma_tn.max())
    curve = ambient_curve(model.denoise, x_tn, sigma_tn, sigmas=[top * factor for factor in ABOVE])
    samples = draw()[: len(x_tn)] if draw else model.sample(range(len(x_tn)))
    first, second = (model.posterior_sample(x_tn[:64], sigma_tn[:64], draw) for draw in (0, 1))
    error = max(curve["relative_mse"][0] * (ABOVE[0] * top) ** 2, 1e-12)
    ambient, distance = float(curve["relative_mse"].mean()), proximal_distance(samples, x_tn, sigma_tn, seed=0)["value"]
    return {
        "held_out_ambient": ambient,
        "proximal_distance": distance,
        "score": ambient + max(distance, 0.0),
        "sample_variance": float(np.var(samples, axis=0).mean()) / _clean_variance(x_tn, sigma_tn),
        "posterior_variance": float(np.mean(np.square(first - second)) / 2 / error),
    }


def _clean_variance(x_tn, sigma_tn):
    """Mean variance of a clean feature over the images."""
    return max(float(np.var(x_tn, axis=0).mean() - np.mean(np.square(sigma_tn))), 1e-12)


def health_warnings(health: dict[str, float]) -> list[str]:
    """One line for each sign of collapse."""
    lines = []
    if not health.get("sample_variance", 1.0) >= LEAST_SHARE:  # true of NaN too
        lines.append(
            f"samples have {health['sample_variance']:.0%} of the variance of the clean images: "
            "the model collapses; lower consistency.weight or refresh.weight, or go back to an earlier save"
        )
    if not health.get("posterior_variance", 1.0) >= LEAST_SHARE / 2:
        lines.append(
            f"samples given one noisy image differ by {health['posterior_variance']:.0%} of what they should: "
            "the posterior collapses; lower consistency.weight or refresh.weight, or use a second-order step"
        )
    return lines


def data_warnings(dataset: Dataset) -> list[str]:
    """One line if the stated noise does not suit the held-out noisy images."""
    chosen = dataset.some_held_out(2048, noisy=True)
    if not len(chosen):
        return []
    examples = dataset.held_out.rows(chosen)
    top = examples["sigma_tn"].max()
    warning = noise_warning(examples["x_tn"][examples["sigma_tn"] == top], float(top))
    return [warning] if warning else []
