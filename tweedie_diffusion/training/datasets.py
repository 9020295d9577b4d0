"""From settings to the data of a run: the same call for training, and for whoever looks at a run afterwards."""

from pathlib import Path

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.levels import StatedNoise, resolve
from tweedie_diffusion.data.noisy import Dataset, NoiseModel, open_dataset
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.data.scaling import ScalingRule
from tweedie_diffusion.data.sources import open_images
from tweedie_diffusion.training.config import Config
from tweedie_diffusion.training.facts import DataFacts, facts_of


def open_data(data: Config) -> Dataset:
    """The data set of config.data.

    Raises:
        InputError: if it cannot be used.
    """
    photons = PhotonNoise(*data.photons) if data.photons else None
    channel_sigmas = tuple(data.channel_sigmas)
    images = open_images(
        data.source,
        rule=ScalingRule(tuple(data.range) or None, tuple(data.range_percentiles) or None, channel_sigmas, photons),
        image_size=data.image_size,
        crop=data.crop,
        clean=not data.noisy_already,
        lenient=data.lenient,
        seed=data.split_seed,
        num_examples=data.num_examples,
    )
    stated = StatedNoise(data.sigma_tn, data.sigma_units or "scaled", data.sigma_from, channel_sigmas)
    sigma_tn, images = resolve(stated, images)
    noise = NoiseModel(sigma_tn, data.noisy_already, data.clean_fraction, data.noise_seed)
    return open_dataset(images, noise, held_out=data.held_out, split_seed=data.split_seed)


def open_data_again(config: Config, facts: DataFacts, workdir: Path | str) -> Dataset:
    """The data of a run, split as it was.

    Raises:
        InputError: if it changed since: images that were held out might have been trained on.
    """
    dataset = open_data(config.data)
    if changed := facts.difference(facts_of(dataset)):
        raise InputError(
            f"the data is not what the run in {workdir} began with ({', '.join(changed)}): put it back as it was"
        )
    return dataset
