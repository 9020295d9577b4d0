"""Whether settings and data that may come from anywhere describe a model that can be built."""

import math

from tweedie_diffusion.training.config import Config, check_config, flatten
from tweedie_diffusion.training.facts import DataFacts

MOST_VALUES = 2**28  # of an example
MOST_CLASSES = 2**20
MOST = {  # far beyond any model of use, and little enough to be described before the weights are compared
    "model.channels": 2**14,
    "model.channel_multipliers": 2**7,
    "model.blocks_per_resolution": 2**7,
    "model.patch_components": 2**16,
    "model.patch_side": 2**8,
    "model.width": 2**16,
    "model.depth": 2**10,
    "model.fourier_features": 2**16,
    "sampling.num_steps": 2**20,
}
MOST_ENTRIES = 2**5  # of a list


def check_foreign(config: Config, facts: DataFacts) -> None:
    """Refuse what no export holds, before anything is built of it.

    Raises:
        ValueError: naming what is wrong; InputError for a setting.
    """
    check_config(config)
    facts.check()
    flat = flatten(config)
    for key, most in MOST.items():
        numbers = flat[key] if isinstance(flat[key], tuple | list) else (flat[key],)
        if max(numbers, default=0) > most:
            raise ValueError(f"{key} is {max(numbers)}, and no model has more than {most}")
    for key in ("model.channel_multipliers", "model.attention_resolutions"):
        if len(flat[key]) > MOST_ENTRIES:
            raise ValueError(f"{key} has {len(flat[key])} entries, and no model has more than {MOST_ENTRIES}")
    if math.prod(facts.shape) > MOST_VALUES or facts.num_classes > MOST_CLASSES:
        raise ValueError(f"its shape {list(facts.shape)} or num_classes {facts.num_classes} is beyond any model")
