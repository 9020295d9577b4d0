"""Models of no data, for times and sizes, which do not depend on weights."""

import math

import jax
import jax.numpy as jnp

from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.models.patch_mixture import PatchMixture
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.denoiser import Params, build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.trained import TrainedModel


def described(config: Config, shape: tuple[int, ...]) -> TrainedModel:
    """The model of a config for examples of a shape, its mixture of patches included, without weights."""
    sigma_tn = config.data.sigma_tn
    facts = DataFacts(shape, 0.5, sigma_tn, sigma_tn, 0, Scaling(0, 255, "uint8"), 1000, 100)
    mixture = mixture_like(config.model, shape) if config.model.patch_components else None
    network = build_network(config.model, facts)
    return TrainedModel(config, facts, denoiser_maker(network, config.model, facts, mixture), {}, mixture)


def fresh_weights(model: TrainedModel) -> Params:
    """The weights with which training would begin."""
    network = build_network(model.config.model, model.facts)
    return init_params(jax.random.key(0), network, model.config.model, model.facts)


def mixture_like(model: Config, shape: tuple[int, ...]) -> PatchMixture:
    """A mixture of the size of config.model, of white patches."""
    features = math.prod(shape) if len(shape) == 1 else model.patch_side**2 * shape[-1]
    count = model.patch_components
    return PatchMixture(
        weights=jnp.full(count, 1 / count),
        means=jnp.zeros((count, features)),
        axes=jnp.broadcast_to(jnp.eye(features), (count, features, features)),
        variances=jnp.ones((count, features)),
        ends=jnp.zeros(2),
    )
