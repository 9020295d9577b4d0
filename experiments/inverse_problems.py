"""Inpainting, super-resolution and deblurring with a run that saw noisy images alone: a picture and a table.

    python -m experiments.inverse_problems --workdir=runs/digits --out=inverse_problems.png

y = A x_0 + σ_y z of held-out images; samples of p(x_0 | y) by the reverse process of `conditioned`, and their mean.
The clean images are seen by the measuring alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.clean import clean_images, split_of
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.files import check_output
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.diffusion.inverse_problems import conditioned
from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.diffusion.sampling import reverse_process
from tweedie_diffusion.evaluation.figures import save_figure
from tweedie_diffusion.evaluation.pictures import strip_figure
from tweedie_diffusion.training.datasets import open_data_again
from tweedie_diffusion.training.trained import TrainedModel, load_run

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run of images, whose noise was added to clean ones.")
_OUT = flags.DEFINE_string("out", "inverse_problems.png", "The picture.")
_IMAGES = flags.DEFINE_integer("images", 12, "Held-out images.", lower_bound=1)
_DRAWS = flags.DEFINE_integer("draws", 4, "Samples an image.", lower_bound=2)
_SIGMA_Y = flags.DEFINE_float("sigma_y", 0.05, "Noise of the measurements, in [-1, 1].")
_ITERATIONS = flags.DEFINE_integer("iterations", 8, "Of Lanczos.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 12, "Levels of the grid.", lower_bound=2)
_STEP = flags.DEFINE_enum("step", "heun", list(REVERSE_STEPS), "Reverse step.")
_SIGMA_MAX = flags.DEFINE_float("sigma_max", 20.0, "First level.")
_SEED = flags.DEFINE_integer("seed", 0, "Of all noise.", lower_bound=0, upper_bound=2**31 - 1)
SHOWN = 12  # images of the picture


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


def posterior_samples(model: TrainedModel, problem: Problem, y: np.ndarray, key: jax.Array) -> np.ndarray:
    """[draws, N, H, W, C] of p(x_0 | y) for y [N, ...]."""
    sigmas = karras_sigmas(
        _STEPS.value,
        sigma_min=model.config.sampling.sigma_min,
        sigma_max=_SIGMA_MAX.value,
        rho=model.config.sampling.rho,
    )

    @jax.jit
    def draw(key, y):
        denoise = conditioned(
            model.denoise, problem.linear_map, y, sigma_y=_SIGMA_Y.value, iterations=_ITERATIONS.value
        )
        key_start, key_steps = jax.random.split(key)
        x_init = sigmas[0] * jax.random.normal(key_start, (len(y), *model.facts.shape))
        return reverse_process(key_steps, denoise, x_init, sigmas, step=REVERSE_STEPS[_STEP.value])

    return np.stack([np.asarray(draw(jax.random.fold_in(key, k), y)) for k in range(_DRAWS.value)])


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


def check_flags() -> None:
    """Raise InputError for levels that are none, before any work is done."""
    for flag in (_SIGMA_Y, _SIGMA_MAX):
        if not 0 < flag.value < np.inf:
            raise InputError(f"--{flag.name} must be > 0 (got {flag.value:g})")


def check_model(model: TrainedModel) -> None:
    """Raise InputError for a run whose images cannot be measured here, or whose levels end above --sigma_max."""
    shape, lowest = model.facts.shape, model.config.sampling.sigma_min
    if len(shape) != 3 or model.config.data.noisy_already:
        raise InputError("this needs a run of images that were clean before training added noise")
    if any(side % 2 or side < 4 for side in shape[:2]):
        raise InputError(f"this needs images with even sides of 4 pixels or more (got {shape[0]}×{shape[1]})")
    if _SIGMA_MAX.value <= lowest:
        raise InputError(
            f"--sigma_max must exceed sampling.sigma_min of the run, {lowest:g} (got {_SIGMA_MAX.value:g})"
        )


def main(arguments: list[str]) -> None:
    """Measure, draw, and write the picture."""
    if arguments or not _WORKDIR.value:
        raise InputError("name a trained run, and nothing else: --workdir=runs/digits")
    check_flags()
    out = check_output(Path(_OUT.value).expanduser(), (".png",))
    model = load_run(_WORKDIR.value)
    check_model(model)
    dataset = open_data_again(model.config, model.facts, _WORKDIR.value)
    x_0 = clean_images(dataset, split_of(dataset, model.config.data.split_seed)[1][: _IMAGES.value])
    key = purpose_key(_SEED.value, "inverse problems")
    rows = {"clean": x_0[:SHOWN]}
    for number, (name, problem) in enumerate(problems(model.facts.shape).items()):
        key_y, key_draws = jax.random.split(jax.random.fold_in(key, number))
        y = np.asarray(problem.linear_map(x_0))
        y = y + _SIGMA_Y.value * np.asarray(jax.random.normal(key_y, y.shape))
        draws = posterior_samples(model, problem, y, key_draws)
        found = measured(problem, x_0, y, draws, _SIGMA_Y.value)
        print(f"{name}: " + ", ".join(f"{what} {value:.2f}" for what, value in found.items()), flush=True)
        shown = {"sample": draws[0], "another": draws[1], f"mean of {len(draws)}": draws.mean(axis=0)}
        rows[name] = problem.guess(y)[:SHOWN]
        rows |= {title + " " * number: images[:SHOWN] for title, images in shown.items()}
    with whole(out) as (unfinished,):
        save_figure(unfinished, strip_figure(rows))
    print(f"Look at {out}")


def _blur(size: int) -> np.ndarray:
    """[size, size], a Gaussian of a standard deviation of one pixel along an axis; its rows sum to 1."""
    distance = np.arange(size)[:, None] - np.arange(size)[None]
    weights = np.exp(-(distance**2) / 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    program.run(main)
