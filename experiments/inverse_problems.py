"""Inpainting, super-resolution and deblurring with a run that saw noisy images alone: a picture and a table.

    python -m experiments.inverse_problems --workdir=runs/digits --out=inverse_problems.png

y = A x_0 + σ_y z of held-out images; samples of p(x_0 | y) by the reverse process of `conditioned`, and their mean.
The clean images are seen by the measuring alone.
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags

from experiments.clean import clean_images, split_of
from experiments.restoring import Problem, check_levels, check_model, measured, problems
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


def main(arguments: list[str]) -> None:
    """Measure, draw, and write the picture."""
    if arguments or not _WORKDIR.value:
        raise InputError("name a trained run, and nothing else: --workdir=runs/digits")
    check_levels({flag.name: flag.value for flag in (_SIGMA_Y, _SIGMA_MAX)})
    out = check_output(Path(_OUT.value).expanduser(), (".png",))
    model = load_run(_WORKDIR.value)
    check_model(model, _SIGMA_MAX.value)
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


if __name__ == "__main__":
    program.run(main)
