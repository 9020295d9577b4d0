"""Inpainting, super-resolution and deblurring as y = A x_0 + σ_y z, and what samples of p(x_0 | y) are measured by."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.trained import TrainedModel


class Problem(NamedTuple):
    """What is measured of images [B, H, W, C], and a first guess from that."""

    linear_map: Callable[[jax.Array], jax.Array]
    guess: Callable[[np.ndarray], np.ndarray]


def problems(shape: tuple[int, ...]) -> dict[str, Problem]:
    """By name, for images of a shape [H, W, C] with even sides."""
    height, width, channels = shape
    seen = np.ones((height, width), bool)
    seen[height // 4 : -(height // 4), width // 4 : -(width // 4)] = False
    rows, columns = _blur(height), _blur(width)

    def fill(y):
        guess = np.repeat(y.mean(axis=1, keepdims=True), height * width, axis=1)
        guess[:, seen.ravel()] = y
        return guess.reshape(-1, *shape)

    def halve(x):
        return x.reshape(-1, height // 2, 2, width // 2, 2, x.shape[-1]).mean(axis=(2, 4))

    def blur(x):
        return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x)

    return {
        "inpainting": Problem(lambda x: x.reshape(-1, height * width, channels)[:, seen.ravel()], fill),
        "super-resolution": Problem(halve, lambda y: y.repeat(2, axis=1).repeat(2, axis=2)),
        "deblurring": Problem(blur, lambda y: y),
    }


def psnr(x: np.ndarray, x_0: np.ndarray) -> float:
    """10 log₁₀(2²/MSE) of images in [-1, 1], in decibels."""
    return float(10 * np.log10(4 / np.mean(np.square(x - x_0, dtype=np.float64))))


def measured(problem: Problem, x_0: np.ndarray, y: np.ndarray, draws: np.ndarray, sigma_y: float) -> dict[str, float]:
    """A row of the table; of exact samples, the last two are 1."""
    mean, count = draws.mean(axis=0), len(draws)
    residual = np.stack([np.asarray(problem.linear_map(draw)) for draw in draws]) - y
    error = np.mean(np.square(mean - x_0)) / (1 + 1 / count)
    return {
        "guess": psnr(problem.guess(y), x_0),
        "one sample": psnr(draws[0], x_0),
        "mean": psnr(mean, x_0),
        "residual of y / σ_y": float(np.sqrt(np.mean(np.square(residual))) / sigma_y),
        "error / spread": float(np.sqrt(error / draws.var(axis=0, ddof=1).mean())),
    }


def check_levels(levels: dict[str, float]) -> None:
    """Raise InputError for levels, by the names of their flags, that are none."""
    for name, value in levels.items():
        if not 0 < value < np.inf:
            raise InputError(f"--{name} must be > 0 (got {value:g})")


def check_model(model: TrainedModel, sigma_max: float) -> None:
    """Raise InputError for a run whose images cannot be measured here, or whose levels end above sigma_max."""
    shape, lowest = model.facts.shape, model.config.sampling.sigma_min
    if len(shape) != 3 or model.config.data.noisy_already:
        raise InputError("this needs a run of images that were clean before training added noise")
    if any(side % 2 or side < 4 for side in shape[:2]):
        raise InputError(f"this needs images with even sides of 4 pixels or more (got {shape[0]}×{shape[1]})")
    if sigma_max <= lowest:
        raise InputError(f"--sigma_max must exceed sampling.sigma_min of the run, {lowest:g} (got {sigma_max:g})")


def _blur(size: int) -> np.ndarray:
    """[size, size], a Gaussian of a standard deviation of one pixel along an axis; its rows sum to 1."""
    distance = np.arange(size)[:, None] - np.arange(size)[None]
    weights = np.exp(-(distance**2) / 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
