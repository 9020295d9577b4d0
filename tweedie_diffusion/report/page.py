"""An evaluation as one HTML page that needs no other file and no network."""

import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.diffusion.sampling import reverse_trajectory
from tweedie_diffusion.evaluation.pages import Section, figure, notice, page, paragraph, section, table
from tweedie_diffusion.evaluation.pictures import posterior_figure, samples_picture
from tweedie_diffusion.evaluation.plots import calibration_figure, curves_figure, floors_figure
from tweedie_diffusion.evaluation.training_plot import training_figure
from tweedie_diffusion.evaluation.trajectory import trajectory_gif
from tweedie_diffusion.report.evaluation import FLOORED, Evaluation
from tweedie_diffusion.report.words import MEANING, NOT_IDENTIFIABLE, verdicts
from tweedie_diffusion.training.trained import TrainedModel

CURVES = ("this run", "exact", "trained on clean images", "by noisy images alone")
SHOWN, ROWS, MOVING, POINTS = 64, 8, 16, 1024  # samples, rows of posteriors, images of the animation; points of each


def report_page(found: Evaluation, metrics: Path) -> str:
    """The page of an evaluation; `metrics` is the metrics.jsonl of its run, if that exists."""
    about = found.numbers["about"]
    lead = (
        f"{about['data']}, {' × '.join(map(str, about['shape']))}: {about['training_images']} training images with "
        f"noise σ_tn = {_levels(about['sigma_tn'])} in [−1, 1]"
    ) + (f", step {about['step']}." if about["step"] else ".")
    said = [notice(text, "good" if good else "doubtful") for text, good in verdicts(found.numbers)]
    sections = [section("In words", *said)] if said else []
    sections += [_samples(found), _denoising(found), _distances(found.numbers), *_posterior(found)]
    if metrics.is_file():
        picture = figure(training_figure(metrics), "", "loss, gradient norm and held-out scores over steps")
        sections.append(section("Training", picture))
    return page(f"Evaluation of {about['workdir']}", lead, *sections, _about(about))


def _levels(sigma_tn):
    low, high = sigma_tn
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _samples(found) -> Section:
    images = samples_picture(found.samples[: _many(found, SHOWN)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trajectory.gif"
        frames, sigmas = moving(found.model, _many(found, MOVING), found.numbers["mse"]["seed"])
        trajectory_gif(path, frames, sigmas)
        animation = path.read_bytes()
    return section(
        "Samples",
        figure(
            images, f"The first {len(found.samples[:SHOWN])} samples, not chosen.", "a grid of samples", pixels=True
        ),
        figure(animation, "On the way: x_t and E[x_0 | x_t] as the noise level falls.", "the reverse process"),
    )


def _many(found, images):
    """How many examples are shown: so many images, or many points."""
    return images if found.samples.ndim == 4 else POINTS


def moving(model: TrainedModel, count: int, seed: int):
    """(x_t, x0_hat) [T, N, ...] of some samples on their way down, and the levels [T]."""
    sampling = model.config.sampling
    sigmas = karras_sigmas(
        sampling.num_steps, sigma_min=sampling.sigma_min, sigma_max=sampling.sigma_max, rho=sampling.rho
    )
    key = purpose_key(seed, "animation")
    first, steps = jax.random.split(key)
    x_init = sigmas[0] * jax.random.normal(first, (count, *model.facts.shape))
    labels = np.arange(count) % max(model.facts.num_classes, 1) if model.config.model.class_conditional else None
    denoise = lambda x_t, sigma: model.denoise(x_t, sigma, labels)
    step = REVERSE_STEPS[sampling.step]
    x_t, x0_hat = reverse_trajectory(steps, denoise, x_init, sigmas, step=step)
    return (np.asarray(x_t), np.asarray(x0_hat)), np.asarray(sigmas)


def _denoising(found) -> Section:
    mse, facts = found.numbers["mse"], found.model.facts
    levels = [facts.sigma_tn_max] if facts.sigma_tn_max > 0 else []
    picture = curves_figure(found.curves, sigma_tn=levels, order=CURVES)
    columns = [("σ", mse["sigma"]), ("MSE", mse["value"]), ("± ", mse["standard_error"]), ("PSNR, dB", mse["psnr"])]
    columns += [("exact MSE", mse["oracle"])] if "oracle" in mse else []
    columns += [("MSE by noisy images", mse["from_noisy"]["value"])] if "from_noisy" in mse else []
    rows = [[NOT_IDENTIFIABLE if v is None else v for v in row] for row in zip(*(c for _, c in columns), strict=True)]
    caption = f"Mean squared error of denoising {mse['n']} {mse['reference']}, seed {mse['seed']}."
    if "from_noisy" in mse:
        caption += (
            " By noisy images: (L − aσ_tn²)/a² with L the unweighted mean of ambient score matching, for "
            f"σ > {mse['identifiable_above']:.3g}; below that noisy images say nothing of it."
        )
    return section(
        "Denoising",
        figure(picture, "Error of denoising, level by level.", "mean squared error over σ², against σ"),
        table([name for name, _ in columns], rows, caption),
    )


def _distances(numbers: dict[str, Any]) -> Section:
    entry = numbers["frechet"]
    rows = [["Fréchet" if name == "frechet" else name, *_row(numbers[name]), MEANING[name]] for name in FLOORED]
    caption = f"Samples beside {entry['reference']}, by {entry['features']}."
    if numbers["proximal"]:
        meaning = f"energy distance of samples, noised to σ_tn, from {numbers['proximal']['reference']}"
        rows.append(["proximal", *_row(numbers["proximal"]), meaning])
    headers = ["", "value", "matched", "floor", "n real", "n samples", "seed", ""]
    parts = [table(headers, rows, caption)]
    if entry["floor_n"]:
        words = (
            f"The floor is what real images differ among themselves: {entry['floor_n']['generated']} of them beside "
            f"{entry['floor_n']['reference']} others. Matched is the same of as many samples: what may be set "
            "beside it."
        )
        parts.append(paragraph(words))
        matched = {name: {"samples": numbers[name]["matched"]} for name in FLOORED}
        floors = {name: numbers[name]["floor"] for name in FLOORED}
        errors = {name: {"samples": numbers[name]["difference_sd"] or 0.0} for name in FLOORED}
        picture = floors_figure(matched, floors, errors=errors, more_is_better=FLOORED[2:])
        parts.append(
            figure(picture, "Samples (matched) beside what real images are to each other (floor).", "bars and floors")
        )
    if entry["warning"]:
        parts.insert(0, notice(entry["warning"], "doubtful"))
    return section("Distance from real images", *parts)


def _row(entry):
    n = entry["n"]
    return [entry["value"], entry.get("matched"), entry["floor"], n["reference"], n["generated"], entry["seed"]]


def _posterior(found) -> list[Section]:
    by_frames = found.numbers.get("calibration_by_frames")
    frames = [_calibration_table(by_frames)] if by_frames else []
    if found.posterior is None:
        return [section("Posterior samples", *frames)] if frames else []
    drawn, numbers = found.posterior, found.numbers["calibration"]
    rows = ROWS if found.samples.ndim == 4 else len(drawn.x_tn)
    clean = None if drawn.x_0 is None else drawn.x_0[:rows]
    picture = posterior_figure(
        drawn.x_tn[:rows],
        drawn.mean[:rows],
        drawn.samples[:3, :rows],
        drawn.samples[:, :rows].std(axis=0, ddof=1),
        clean=clean,
    )
    parts = [figure(picture, "Held-out noisy images.", "noisy images, their posterior means, samples and spread")]
    if "levels" in numbers:
        parts.append(
            figure(
                _ranks_and_levels(numbers),
                "Calibration: ranks of the clean pixels among their posterior samples, and what intervals hold.",
                "a rank histogram and coverage of intervals",
            )
        )
    title = "Denoised images, and what is not known of them"
    return [section(title, *parts, _calibration_table(numbers), *frames)]


def _ranks_and_levels(numbers):
    levels = numbers["levels"]
    held = dict(zip(levels["expected"], levels["coverage"], strict=True))
    expected, error = np.asarray(levels["expected"]), np.asarray(levels["standard_error"])
    # Pixels are not independent: as many that are would have the errors that were found over images.
    independent = int(np.min(expected * (1 - expected) / np.maximum(error, 1e-6) ** 2))
    return calibration_figure(np.asarray(numbers["ranks"]), held, independent=max(independent, 1))


def _calibration_table(found):
    rows = []
    if levels := found.get("levels"):
        columns = (levels[name] for name in ("level", "coverage", "standard_error", "expected"))
        rows += [[f"in the central {p:.0%}", v, e, x] for p, v, e, x in zip(*columns, strict=True)]
        uniformity = found["uniformity"]
        rows.append(["spread of ranks", uniformity["dispersion"], uniformity["dispersion_error"], 1.0])
    residual = found["residual"]
    rows.append(["residual, in σ_tn", residual["sd"], residual["sd_error"], 1.0])
    if "correlation" in residual:
        rows.append(["correlation of its neighbours", residual["correlation"], residual["correlation_error"], 0.0])
    caption = f"{found['draws']} posterior samples of each of {found['n']} noisy images, seed {found['seed']}"
    caption += f", beside {found['reference']}." if "reference" in found else "."
    return table(["", "value", "±", "calibrated"], rows, caption)


def _about(about) -> Section:
    flat = {**about, **about["versions"]}
    rows = [[name, str(value)] for name, value in flat.items() if name != "versions"]
    return section("What this is of", table(["", ""], rows, "Model, data and versions."))
