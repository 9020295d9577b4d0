"""Every road below the data's noise, as settings that differ from those of the study; all else stays equal.

That the network corrects a mixture of patches, and sees images in units of their noise, is itself a road: what stands
for other ways than this library's (ADSM alone, paper's code, noisy images as clean) has the network of EDM as it is.
"""

from typing import Any

from experiments.noises import MISTAKES, NOISY_AS_CLEAN

CLEAN, ADSM, ADSM_NOISE_UNITS = "clean images", "ADSM alone", "ADSM (noise units)"

_ALONE = {"consistency.weight": 0.0, "refresh.weight": 0.0}
_NO_MIXTURE = {"model.patch_components": 0}
_BASELINE = _ALONE | _NO_MIXTURE | {"model.noise_units": False}
_CONSISTENCY = _ALONE | {"consistency.weight": 4.0}
_PLAIN = _CONSISTENCY | {"consistency.antithetic": False, "consistency.draws": 2}
_REFRESH = _ALONE | {"refresh.weight": 1.0}

ROADS: dict[str, dict[str, Any]] = {
    CLEAN: _ALONE | {"data.sigma_tn": 0.0},
    "clean images (noise units)": _ALONE | _NO_MIXTURE | {"data.sigma_tn": 0.0},
    "clean images (network of EDM)": _BASELINE | {"data.sigma_tn": 0.0},
    NOISY_AS_CLEAN: _BASELINE,
    ADSM: _BASELINE,
    "ADSM (clamped embedding)": _BASELINE | {"model.embedding": "clamped"},
    "ADSM (no embedding)": _BASELINE | {"model.embedding": "none"},
    ADSM_NOISE_UNITS: _ALONE | _NO_MIXTURE,
    "ADSM (default network)": _ALONE,
    "patch mixture alone": _ALONE | {"training.steps": 1, "training.learning_rate": 1e-12},  # the network adds nothing
    # One ancestral step from real noise above σ_tn, two plain draws by the weights themselves, gradient on both sides.
    "paper's code": _BASELINE
    | {
        "consistency.weight": 0.01,
        "consistency.start": 200,
        "consistency.anchor": "above",
        "consistency.step": "ancestral",
        "consistency.max_log_step": 0.1,
        "consistency.anneal": 0.0,
        "consistency.ema_teacher": False,
        "consistency.gradient": "both",
        "consistency.antithetic": False,
        "consistency.draws": 2,
        "consistency.batch_fraction": 0.25,
        "consistency.ridge": 0.0,
    },
    "consistency": _CONSISTENCY,
    "consistency (midpoint)": _CONSISTENCY | {"consistency.step": "midpoint"},
    "consistency (corrected)": _CONSISTENCY  # hops of r >= .8, for which the step is made
    | {"consistency.step": "corrected", "consistency.max_log_step": 0.2, "consistency.roll_steps": 8},
    "consistency (two plain draws)": _PLAIN,
    "consistency (four plain draws)": _PLAIN | {"consistency.draws": 4},
    "consistency (two antithetic draws)": _CONSISTENCY | {"consistency.draws": 2},
    "consistency (no ridge)": _CONSISTENCY | {"consistency.ridge": 0.0},
    "consistency (no EMA teacher)": _CONSISTENCY | {"consistency.ema_teacher": False},
    "consistency (both gradients)": _CONSISTENCY | {"consistency.gradient": "both"},
    "consistency (not annealed)": _CONSISTENCY | {"consistency.anneal": 0.0},
    "refresh": _REFRESH | {"refresh.relaxation": 0.0},
    "refresh (ancestral)": _REFRESH | {"refresh.relaxation": 0.0, "refresh.step": "ancestral"},
    "refresh (weighted)": _REFRESH | {"refresh.relaxation": 1.8},
    "consistency and refresh": _CONSISTENCY | {"refresh.weight": 1.0, "refresh.relaxation": 0.0},
    "consistency (noise units)": _CONSISTENCY | _NO_MIXTURE | {"consistency.start": 200},
    "default": {},
    "default (1 % clean)": {"data.clean_fraction": 0.01},
    "default (10 % clean)": {"data.clean_fraction": 0.1},
    **{name: {} for name in MISTAKES if name != NOISY_AS_CLEAN},  # the default road on data of a mistaken noise
}
