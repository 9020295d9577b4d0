"""What a run shows of itself when it ends: curve, samples, denoised images."""

from pathlib import Path

import numpy as np

from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.evaluation.curves import ambient_curve, denoising_curve
from tweedie_diffusion.evaluation.pictures import save_curves, save_examples, save_strip
from tweedie_diffusion.training.trained import TrainedModel
from tweedie_diffusion.training.workdir import write_curve

NUM_SHOWN = 64
STRIP = 12


def held_out_curve(model: TrainedModel, dataset: Dataset) -> dict[str, np.ndarray]:
    """MSE/σ² on held-out images: against the clean ones where they exist, else from the noisy ones alone."""
    settings = model.config.evaluation
    chosen = range(min(settings.num_images, len(dataset.held_out)))
    if dataset.held_out_clean is not None:
        x_0 = np.stack([dataset.held_out_clean(i) for i in chosen])
        return denoising_curve(model.denoise, x_0, sigmas=settings.sigmas, oracle=dataset.images.oracle)
    examples = [dataset.held_out[i] for i in chosen]
    x_tn, sigma_tn = (np.stack([e[name] for e in examples]) for name in ("x_tn", "sigma_tn"))
    return ambient_curve(model.denoise, x_tn, sigma_tn, sigmas=settings.sigmas)


def write_results(workdir: Path, model: TrainedModel, dataset: Dataset) -> dict[str, np.ndarray]:
    """Write denoising_curve.json/.png, samples.png, samples_truncated.png, denoised.png and held_out_noisy.npz.

    Returns:
        The curve of `held_out_curve`.
    """
    facts = model.facts
    curve = held_out_curve(model, dataset)
    curves = {"this run": curve}
    if "oracle_mse" in curve:
        curves["exact"] = {"sigma": curve["sigma"], "relative_mse": curve["oracle_mse"]}
    levels = [facts.sigma_tn_max] if facts.sigma_tn_max > 0 else []
    save_curves(workdir / "denoising_curve.png", curves, sigma_tn=levels)

    many = NUM_SHOWN if len(facts.shape) == 3 else 1024
    save_examples(workdir / "samples.png", model.sample(range(many)))
    if levels:
        save_examples(workdir / "samples_truncated.png", model.sample(range(many), truncated=True))

    count = min(NUM_SHOWN if len(facts.shape) == 3 else 1024, len(dataset.held_out))
    examples = [dataset.held_out[i] for i in range(count)]
    x_tn, sigma_tn = (np.stack([e[name] for e in examples]) for name in ("x_tn", "sigma_tn"))
    noisy = sigma_tn > 0
    x_tn, sigma_tn = x_tn[noisy], sigma_tn[noisy]
    if noisy.any():
        rows = {"noisy": x_tn, "denoised": model.denoise_all(x_tn, sigma_tn)}
        if dataset.held_out_clean is not None:
            rows["clean"] = np.stack([dataset.held_out_clean(i) for i in range(count) if noisy[i]])
        shown = STRIP if len(facts.shape) == 3 else None
        save_strip(workdir / "denoised.png", {name: x[:shown] for name, x in rows.items()})
        # Noisy floats in the data's units, not rounded or clipped: that would change their noise.
        np.savez(workdir / "held_out_noisy.npz", images=facts.scaling.noisy_values(x_tn), sigma_tn=sigma_tn)
    write_curve(workdir, curve)  # last: it says that the run is finished
    return curve
