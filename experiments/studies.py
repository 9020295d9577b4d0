"""The data of each study, the network and budget that all its rows share, and its rows."""

import dataclasses
from collections.abc import Callable

import numpy as np

from configs import digits_noisy, mixture_2d
from experiments.noises import MISTAKES, NOISY_AS_CLEAN
from experiments.roads import ADSM, ADSM_NOISE_UNITS, CLEAN
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.config import Config

BASELINES = (CLEAN, NOISY_AS_CLEAN, ADSM, "paper's code", "default")
IMAGE_BASELINES = (
    *BASELINES,
    "patch mixture alone",
    ADSM_NOISE_UNITS,
    "ADSM (default network)",
    "consistency (noise units)",
    "clean images (noise units)",
    "clean images (network of EDM)",
)
IMAGE_ROADS = (
    *IMAGE_BASELINES,
    "consistency (two plain draws)",
    "consistency (two antithetic draws)",
    "consistency (corrected)",
    "refresh",
    "consistency and refresh",
    "default (1 % clean)",
    "default (10 % clean)",
)
MISTAKEN = (CLEAN, ADSM, "default", *(name for name in MISTAKES if name != NOISY_AS_CLEAN))


@dataclasses.dataclass(frozen=True)
class Study:
    """What the rows of a study have in common.

    Attributes:
        config: (σ_tn, path of the data) -> the settings of its default row.
        sigma_tn: the noise of the data, one table each.
        roads: the rows trained when none are named.
        levels: σ_tn -> the levels at which the denoiser is measured.
        num_images: held-out images it is measured on.
        num_samples: compared with clean images; 0 for none.
        oracle: whether the exact denoiser is known, and the excess over it is the measure.
        target: of the worst excess, or of the gap closed.
        target_sigma_tn: the data noise for which the target is stated.
        bars: whether its picture compares the gap closed of all rows, instead of the curves of a few.
    """

    config: Callable[[float, str], Config]
    sigma_tn: tuple[float, ...]
    roads: tuple[str, ...]
    levels: Callable[[float], tuple[float, ...]]
    num_images: int
    num_samples: int
    oracle: bool
    target: float
    target_sigma_tn: tuple[float, ...]
    bars: bool = False


def _below(sigma_tn):
    """Six log-spaced levels in [σ_tn/10, σ_tn)."""
    return tuple(np.geomspace(sigma_tn / 10, sigma_tn, 7)[:-1].round(6).tolist())


def _mixture_2d(sigma_tn, path):
    config = mixture_2d.get_config()
    config.data.sigma_tn = sigma_tn
    config.data.num_examples = 220_000  # 200 000 to train on
    config.data.held_out = 1 / 11
    return config


def _mixture_of(source):
    """Many dimensions: no draw of the posterior buffer explains another point, so the road is that of images.

    That a mixture corrects well what is one, says little of other data.
    """

    def config_of(sigma_tn, path):
        config = _mixture_2d(sigma_tn, path)
        config.data.source = source
        config.model.width = 256
        config.model.fourier_features = 0
        config.model.patch_components = 16
        config.refresh.weight = 0.0
        config.consistency.weight = 4.0
        config.consistency.batch_fraction = 0.125
        config.consistency.roll_steps = 2
        config.consistency.start = 1000
        config.consistency.sigma_min = sigma_tn / 10
        return config

    return config_of


def _of_images():
    """The digits' settings, with as many rows, steps and renewals as these tables were measured with.

    Today's defaults, which take fewer, change MSE/σ² on the digits by .0012 at most (benchmarks/NOTES.md).
    """
    config = digits_noisy.get_config()
    config.consistency.batch_fraction = 0.125
    config.consistency.roll_steps = 2
    config.refresh.batch_fraction = 0.5
    config.refresh.every = 8
    config.refresh.num_steps = 16
    return config


def _digits(sigma_tn, path):
    config = _of_images()
    config.data.sigma_tn = sigma_tn
    config.consistency.sigma_min = sigma_tn / 5
    config.refresh.sigma_min = sigma_tn / 10
    return config


def _from_file(sigma_tn, path):
    if not path:
        raise InputError("this study needs its images: give --data=PATH of an .npz with train_images")
    config = _digits(sigma_tn, path)
    config.data.source = path
    return config


def _fashion(sigma_tn, path):
    """14×14, for two CPU cores."""
    config = _from_file(sigma_tn, path)
    config.data.image_size = 14
    config.model.patch_components = 64
    config.evaluation.num_images = 512
    return config


def _cifar(sigma_tn, path):
    """Sized for two CPU cores; a larger network and more steps are settings away."""
    config = _from_file(sigma_tn, path)
    config.training.steps = 300
    config.consistency.start = config.refresh.start = 150
    config.consistency.ramp_steps = 50
    config.model.channels = 32
    config.model.channel_multipliers = (1, 2, 2)
    config.model.patch_components = 64
    config.model.patch_side = 3
    config.training.batch_size = 32
    config.data.flip = True
    return config


_MIXTURE = ((0.3,), BASELINES, lambda _: (0.03, 0.06, 0.1, 0.2, 0.3), 20_000, 0, True, 0.1, (0.3,))
STUDIES = {
    "mixture_2d": Study(_mixture_2d, *_MIXTURE),
    "mixture_16d": Study(_mixture_of("mixture_16d"), *_MIXTURE),
    "mixture_64d": Study(_mixture_of("mixture_64d"), *_MIXTURE),
    "digits": Study(_digits, (0.3, 0.5), IMAGE_ROADS, _below, 512, 300, False, 0.9, (0.3, 0.5)),
    "robustness": Study(_digits, (0.5,), MISTAKEN, _below, 512, 300, False, 0.9, (0.5,), bars=True),
    "fashion": Study(_fashion, (0.2, 0.4, 0.8), IMAGE_BASELINES, _below, 1000, 1000, False, 0.9, (0.2, 0.4)),
    "cifar": Study(_cifar, (0.1, 0.2), IMAGE_BASELINES, _below, 512, 512, False, 0.9, (0.1, 0.2)),
}
