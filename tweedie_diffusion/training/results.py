"""What a run shows of itself, at every save and when it ends: curve, samples, denoised images."""

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.evaluation.curves import ambient_curve, denoising_curve
from tweedie_diffusion.evaluation.figures import png_of, save_figure
from tweedie_diffusion.evaluation.pictures import samples_picture, strip_figure
from tweedie_diffusion.evaluation.plots import denoising_curve_figure
from tweedie_diffusion.training.metrics import show_pictures
from tweedie_diffusion.training.trained import TrainedModel
from tweedie_diffusion.training.workdir import write_curve

NUM_SHOWN, NUM_POINTS = 64, 1024
STRIP = 12
BOARD_DPI = 80
PICTURES = ("samples.png", "samples_truncated.png", "denoised.png", "denoising_curve.png")


def held_out_curve(model: TrainedModel, dataset: Dataset) -> dict[str, np.ndarray]:
    """MSE/σ² on held-out images: against the clean ones where they exist, else from the noisy ones alone."""
    settings = model.config.evaluation
    chosen = dataset.some_held_out(settings.num_images)
    if dataset.held_out_clean is not None:
        x_0 = np.stack([dataset.held_out_clean(int(i)) for i in chosen])
        return denoising_curve(model.denoise, x_0, sigmas=settings.sigmas, oracle=dataset.images.oracle)
    examples = dataset.held_out.rows(chosen)
    return ambient_curve(model.denoise, examples["x_tn"], examples["sigma_tn"], sigmas=settings.sigmas)


def write_results(workdir: Path, model: TrainedModel, dataset: Dataset) -> dict[str, np.ndarray]:
    """Write denoising_curve.json/.png, samples.png, samples_truncated.png, denoised.png and held_out_noisy.npz.

    Returns:
        The curve of `held_out_curve`.
    """
    facts = model.facts
    curve = held_out_curve(model, dataset)
    save_figure(workdir / "denoising_curve.png", denoising_curve_figure(curve, sigma_tn=facts.sigma_tn_max))

    many = NUM_SHOWN if len(facts.shape) == 3 else NUM_POINTS
    save_figure(workdir / "samples.png", samples_picture(model.sample(range(many))))
    if facts.sigma_tn_max > 0:
        save_figure(workdir / "samples_truncated.png", samples_picture(model.sample(range(many), truncated=True)))

    rows, sigma_tn = _denoised(model, dataset, many)
    if len(sigma_tn):
        shown = STRIP if len(facts.shape) == 3 else None
        save_figure(workdir / "denoised.png", strip_figure({name: x[:shown] for name, x in rows.items()}))
        # Noisy floats in the data's units, not rounded or clipped: that would change their noise.
        np.savez(workdir / "held_out_noisy.npz", images=facts.scaling.noisy_values(rows["noisy"]), sigma_tn=sigma_tn)
    write_curve(workdir, curve)  # last: it says that the run is finished
    return curve


def scored_pictures(
    model: TrainedModel, dataset: Dataset, curve: dict[str, np.ndarray], draw: Callable[[], np.ndarray]
) -> dict[str, bytes]:
    """PNGs for TensorBoard of what a scoring has found: its samples, its curve, and a strip of held-out images.

    Args:
        model, dataset: that were scored.
        curve: of `held_out_curve`.
        draw: its samples, of which 64 images or all points are shown.
    """
    top, samples = model.facts.sigma_tn_max, draw()
    samples = samples[: NUM_SHOWN if samples.ndim == 4 else None]
    pictures = {"samples": samples_picture(samples), "denoising_curve": denoising_curve_figure(curve, sigma_tn=top)}
    rows, sigma_tn = _denoised(model, dataset, STRIP if samples.ndim == 4 else NUM_SHOWN)
    if len(sigma_tn):
        pictures["denoised"] = strip_figure(rows)
    drawn = {name: png_of(picture, dpi=BOARD_DPI) for name, picture in pictures.items()}
    del pictures
    gc.collect()  # a figure refers to itself: many would wait for the collector, 25 MB of them
    return drawn


def show_results(workdir: Path, step: int) -> None:
    """The pictures of `write_results` in TensorBoard, beside those of every save; without them if it is not possible.

    Args:
        workdir: of the run.
        step: of the model that they show.
    """
    files = [workdir / name for name in PICTURES if (workdir / name).is_file()]
    with contextlib.suppress(OSError):
        if files:
            show_pictures(workdir, step, {f"results/{file.stem}": file.read_bytes() for file in files})


def _denoised(model, dataset, count):
    """Some noisy held-out images: noisy, denoised, clean where it is known; and their levels."""
    chosen = dataset.some_held_out(count, noisy=True)
    if not len(chosen):
        return {}, np.zeros(0, np.float32)
    examples = dataset.held_out.rows(chosen)
    x_tn, sigma_tn = examples["x_tn"], examples["sigma_tn"]
    rows = {"noisy": x_tn, "denoised": model.denoise_all(x_tn, sigma_tn)}
    if dataset.held_out_clean is not None:
        rows["clean"] = np.stack([dataset.held_out_clean(int(i)) for i in chosen])
    return rows, sigma_tn
