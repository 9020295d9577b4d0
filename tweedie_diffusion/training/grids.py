"""The levels that sampling goes through: those of the run, or any other."""

import math
from collections.abc import Sequence

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.facts import DataFacts


def sampling_levels(
    sampling: Config,
    facts: DataFacts,
    *,
    truncated: bool = False,
    sigmas: Sequence[float] = (),
    num_steps: int = 0,
    sigma_min: float = 0.0,
    sigma_max: float = 0.0,
    rho: float = 0.0,
) -> np.ndarray:
    """Levels [N], from the first to that of the last denoising.

    Args:
        sampling: config.sampling, for what is not stated.
        facts: of the data.
        truncated: end at the noise of the data instead of sigma_min.
        sigmas: all of them; nothing else is stated then.
        num_steps, sigma_min, sigma_max, rho: of `karras_sigmas`; 0 for those of the config.

    Raises:
        InputError: if they do not go down, end at 0 or below, or contradict one another.
    """
    if len(sigmas):
        if truncated or num_steps or sigma_min or sigma_max or rho:
            raise InputError("sigmas are the whole grid: leave out steps, sigma_min, sigma_max, rho and mode=truncated")
        return _stated(sigmas)
    if truncated and sigma_min:
        raise InputError("mode=truncated ends at the noise of the data: leave out sigma_min")
    if truncated and facts.sigma_tn_max <= 0:
        raise InputError("the training images have no noise to stop at: sample in full mode")
    for name, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max), ("rho", rho)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} must be > 0 (got {value:g})")
    if num_steps and num_steps < 2:
        raise InputError(f"steps must be at least 2 (got {num_steps})")
    lowest = facts.sigma_tn_max if truncated else sigma_min or sampling.sigma_min
    highest = sigma_max or sampling.sigma_max
    if lowest >= highest:
        raise InputError(f"sigma_max must exceed the last level, {lowest:g} (got {highest:g})")
    count, rho = num_steps or sampling.num_steps, rho or sampling.rho
    with np.errstate(over="ignore", under="ignore"):  # what float32 cannot hold is told below
        levels = np.asarray(karras_sigmas(count, sigma_min=lowest, sigma_max=highest, rho=rho))
    if not (np.isfinite(levels).all() and (levels > 0).all() and (np.diff(levels) <= 0).all()):
        raise InputError(
            f"float32 cannot hold {count} levels from sigma_max={highest:g} down to {lowest:g} by rho={rho:g}: "
            "take a rho nearer to 7, or levels that are less far apart"
        )
    return levels


def _stated(sigmas):
    levels = np.asarray(sigmas, np.float32)
    if not (np.isfinite(levels).all() and (levels > 0).all() and (np.diff(levels) < 0).all()):
        shown = ",".join(f"{level:g}" for level in sigmas)
        raise InputError(f"sigmas must go down and end above 0, as in 80,20,5,1,0.1 (got {shown})")
    return levels
