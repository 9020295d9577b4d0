"""Diffusion models of clean images, learned from noisy images alone (arXiv:2404.10177), in JAX.

Everything here is a pure function on jax arrays; importing it loads jax and nothing heavier.
"""

from tweedie_diffusion.diffusion.corruption import add_noise, corrupt_example
from tweedie_diffusion.diffusion.guidance import guided
from tweedie_diffusion.diffusion.inverse_problems import conditioned
from tweedie_diffusion.diffusion.losses import ambient_loss, consistency_loss, denoising_loss, edm_weight
from tweedie_diffusion.diffusion.noise_levels import karras_sigmas, log_normal_sigma, ve_to_vp, vp_to_ve
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser, mixture_denoiser
from tweedie_diffusion.diffusion.reverse_steps import (
    ancestral_step,
    corrected_step,
    euler_step,
    heun_step,
    midpoint_step,
)
from tweedie_diffusion.diffusion.sampling import reverse_process, reverse_trajectory
from tweedie_diffusion.diffusion.tweedie import (
    denoised_at_level,
    denoised_from_score,
    posterior_covariance_product,
    score_from_denoised,
)
from tweedie_diffusion.diffusion.types import DenoiseFn, ReverseStep
from tweedie_diffusion.models.noise_units import noise_units
from tweedie_diffusion.models.patch_mixture import PatchMixture, fit_patch_mixture, patch_denoiser
from tweedie_diffusion.models.preconditioning import precondition

__version__ = "0.1.0"
__all__ = [
    "DenoiseFn",
    "PatchMixture",
    "ReverseStep",
    "add_noise",
    "ambient_loss",
    "ancestral_step",
    "conditioned",
    "consistency_loss",
    "corrected_step",
    "corrupt_example",
    "denoised_at_level",
    "denoised_from_score",
    "denoising_loss",
    "edm_weight",
    "euler_step",
    "fit_patch_mixture",
    "gaussian_denoiser",
    "guided",
    "heun_step",
    "karras_sigmas",
    "load",
    "log_normal_sigma",
    "midpoint_step",
    "mixture_denoiser",
    "noise_units",
    "patch_denoiser",
    "posterior_covariance_product",
    "precondition",
    "reverse_process",
    "reverse_trajectory",
    "score_from_denoised",
    "ve_to_vp",
    "vp_to_ve",
]


def load(workdir, *, best: bool = False) -> DenoiseFn:
    """The trained denoiser of a run: its EMA weights at the newest checkpoint in `workdir`, or at the best one if the
    newest is a fifth worse by held-out noisy images.

    Args:
        workdir: the directory given to `python -m tweedie_diffusion.main --workdir=...`; or a folder that
            `tweedie_diffusion.export` or `import_edm` wrote; or hub:USER/NAME[@REVISION], of the Hugging Face Hub.
        best: the checkpoint that held-out noisy images liked best in any case (`score` in metrics.jsonl); the last two
            hold one set of weights.

    Returns:
        denoise(x_t [B, ...], sigma) -> x0_hat [B, ...], images in [-1, 1], jit-compiled. A class-conditional model
        takes `labels=[B]` as a third argument.

    Raises:
        FileNotFoundError: if there is no trained model in `workdir`.
    """
    from tweedie_diffusion.training.trained import load_run

    return load_run(workdir, best=best).denoise
