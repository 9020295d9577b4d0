"""From settings to a network, and from a network and its weights to a denoiser."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.types import DenoiseFn
from tweedie_diffusion.models import noise_units
from tweedie_diffusion.models.edm_unet import EDMUNet
from tweedie_diffusion.models.mlp import MLP
from tweedie_diffusion.models.patch_mixture import PatchMixture, patch_denoiser
from tweedie_diffusion.models.preconditioning import blind_c_noise, clamped_c_noise, full_c_noise, precondition
from tweedie_diffusion.models.unet import UNet, check_image_shape
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.facts import DataFacts

Params = dict


def build_network(model: Config, facts: DataFacts) -> nn.Module:
    """The network of config.model for data of `facts`.

    Raises:
        InputError: if the data's shape does not suit the network, or classes are asked for and there are none.
    """
    if model.class_conditional and not facts.num_classes:
        raise InputError("model.class_conditional needs labels, and the data has none: set it to False")
    num_classes = facts.num_classes if model.class_conditional else 0
    dtype = jnp.dtype(model.dtype)
    if model.network == "mlp":
        if len(facts.shape) != 1:
            raise InputError(
                f"the mlp takes vectors, and the data has shape {list(facts.shape)}: set model.network=unet"
            )
        if model.dropout or model.remat or model.noise_units:
            raise InputError("model.dropout, remat and noise_units are of the unet: leave them out for the mlp")
        return MLP(
            width=model.width,
            depth=model.depth,
            num_classes=num_classes,
            dtype=dtype,
            fourier_features=model.fourier_features,
            fourier_scale=model.fourier_scale,
            out_features=facts.shape[0],
        )
    try:
        check_image_shape(facts.shape, len(model.channel_multipliers))
    except ValueError as error:
        raise InputError(str(error)) from error
    if min(facts.shape[:2]) < model.patch_side and model.patch_components:
        raise InputError(f"images of {list(facts.shape)} hold no patch of model.patch_side={model.patch_side}")
    if model.fourier_features:
        raise InputError("model.fourier_features is of the mlp: leave it at 0 for the unet")
    return {"unet": UNet, "edm": EDMUNet}[model.network](
        channels=model.channels,
        channel_multipliers=tuple(model.channel_multipliers),
        blocks_per_resolution=model.blocks_per_resolution,
        attention_resolutions=tuple(model.attention_resolutions),
        dropout=model.dropout,
        num_classes=num_classes,
        dtype=dtype,
        remat=model.remat,
        out_channels=facts.shape[-1],
    )


def init_params(key: jax.Array, network: nn.Module, model: Config, facts: DataFacts) -> Params:
    """Fresh weights."""
    *size, channels = facts.shape
    seen = 1 + model.noise_units * noise_units.CHANNELS + bool(model.patch_components)
    inputs = jnp.zeros((1, *size, channels * seen))
    return jax.jit(network.init)(key, inputs, jnp.zeros(1))["params"]


def sigma_data_of(model: Config, facts: DataFacts) -> float:
    """σ_d of the preconditioning and of the weight of the loss: the one stated, else that of the data."""
    return model.sigma_data or facts.sigma_data


# (params, labels [B] or None, dropout key or None) -> denoiser
MakeDenoise = Callable[..., DenoiseFn]


def denoiser_maker(
    network: nn.Module, model: Config, facts: DataFacts, mixture: PatchMixture | None = None
) -> MakeDenoise:
    """A function (params, *, labels=None, dropout_key=None) -> denoise.

    With embedding "clamped" the network never sees a level below the lowest noise of the data; clean images among them
    make that the full embedding. Labels outside [0, num_classes) mean "no class"; networks without classes ignore
    labels. Without a dropout key the network is deterministic. `mixture` is the prior that it corrects, if any.
    """
    lowest = facts.sigma_tn_min
    c_noise_fn = {
        "full": full_c_noise,
        "clamped": clamped_c_noise(lowest) if lowest > 0 else full_c_noise,
        "none": blind_c_noise,
    }[model.embedding]
    features = noise_units.noise_units if model.noise_units else None
    prior = patch_denoiser(mixture) if mixture else None

    def make(params: Params, *, labels: jax.Array | None = None, dropout_key: jax.Array | None = None) -> DenoiseFn:
        if not model.class_conditional:
            labels = None
        elif labels is not None:
            labels = jnp.where((labels >= 0) & (labels < facts.num_classes), labels, facts.num_classes)
        options = {} if dropout_key is None else {"train": True, "rngs": {"dropout": dropout_key}}

        def network_fn(x, c_noise) -> Any:
            return network.apply({"params": params}, x, c_noise, labels, **options)

        sigma_data = sigma_data_of(model, facts)
        return precondition(network_fn, sigma_data=sigma_data, c_noise_fn=c_noise_fn, features=features, prior=prior)

    return make
