"""Train, and resume by the same call."""

import functools
import math
import signal
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.levels import StatedNoise, resolve
from tweedie_diffusion.data.noisy import Dataset, NoiseModel, open_dataset
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.data.scaling import ScalingRule
from tweedie_diffusion.data.sources import open_images
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.config import Config, check_config
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.health import data_warnings, health_warnings, held_out_health
from tweedie_diffusion.training.metrics import Metrics
from tweedie_diffusion.training.objective import log_normal_law, make_objective
from tweedie_diffusion.training.patch_prior import check_patches, open_mixture
from tweedie_diffusion.training.results import held_out_curve, write_results
from tweedie_diffusion.training.step import (
    TrainState,
    first_buffer,
    init_state,
    make_mesh,
    make_optimizer,
    make_refresh_step,
    make_train_step,
)
from tweedie_diffusion.training.trained import TrainedModel, load_run
from tweedie_diffusion.training.workdir import check_workdir, has_checkpoints, open_workdir


class Stopped(Exception):  # noqa: N818
    """Training was asked to stop, and its state is saved."""


class Diverged(InputError):  # noqa: N818
    """The loss or its gradient is not finite."""


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


def train(config: Config, workdir: Path) -> bool:
    """Train the model of `config` in `workdir`, going on from its newest checkpoint, and write the results.

    Args:
        config: of `default_config`.
        workdir: created if it does not exist.

    Returns:
        False if the run was finished already.

    Raises:
        InputError: for anything the person must mend; nothing is overwritten then. Diverged if it is the loss.
        Stopped: on SIGINT or SIGTERM, once the state is saved.
    """
    check_config(config)
    check_workdir(workdir, config)
    mesh = make_mesh()
    if config.training.batch_size % mesh.size:
        raise InputError(
            f"training.batch_size={config.training.batch_size} cannot be split over {mesh.size} devices: "
            f"use a multiple of {mesh.size}"
        )
    dataset = open_data(config.data)
    facts = facts_of(dataset)
    network = build_network(config.model, facts)
    _check_facts(config, facts)
    fresh = lambda: init_params(purpose_key(config.seed, "weights"), network, config.model, facts)
    first_params = _params_of(config, fresh) if config.init_from and not has_checkpoints(workdir) else fresh
    open_workdir(workdir, config, facts, dataset.images.excluded)
    mixture = open_mixture(workdir, config, dataset.train) if config.model.patch_components else None
    make_denoise = denoiser_maker(network, config.model, facts, mixture)

    optimizer = make_optimizer(config.training)
    new_state = lambda params: init_state(params(), optimizer, first_buffer(config.refresh, facts.shape))
    with Checkpoints(workdir, keep=config.training.keep_checkpoints) as checkpoints:
        newest = checkpoints.latest_step()
        if newest == config.training.steps and (workdir / "denoising_curve.json").is_file():
            return False
        if newest is None:
            state = jax.device_put(new_state(first_params), NamedSharding(mesh, PartitionSpec()))
        else:
            state = checkpoints.restore(newest, jax.eval_shape(lambda: new_state(fresh)), mesh)
        model = TrainedModel(config, facts, make_denoise, state.ema_params)
        state = _run(state, config, workdir, dataset, model, checkpoints, optimizer, mesh)
        kept = checkpoints.model_step()
        if kept is not None and kept != int(state.step):
            state = checkpoints.restore(kept, jax.eval_shape(lambda: new_state(fresh)), mesh)
    write_results(workdir, model.with_params(state.ema_params), dataset)
    return True


def _check_facts(config, facts):
    """What the settings ask for, against what the data is."""
    if config.data.flip and len(facts.shape) != 3:
        raise InputError("data.flip mirrors images, and the data is vectors: set it to False")
    if config.data.turn and (len(facts.shape) != 3 or facts.shape[0] != facts.shape[1]):
        raise InputError("data.turn needs square images: set it to False, or data.crop")
    if config.model.patch_components:
        check_patches(config.model, facts)
    for road in ("consistency", "refresh"):
        if not config[road].weight:
            continue
        if facts.sigma_tn_max == 0:
            raise InputError(f"{road} works below the noise of the data, and no image is noisy: set {road}.weight=0")
        if facts.sigma_tn_max <= config[road].sigma_min:
            raise InputError(
                f"{road}.sigma_min={config[road].sigma_min:g} must lie below the noise of the data, "
                f"{facts.sigma_tn_max:g}: lower it, or set {road}.weight=0"
            )
    for key, limit in (("ambient", config.ambient.sigma_max), ("sampling", config.sampling.sigma_max)):
        if facts.sigma_tn_max >= limit:
            raise InputError(
                f"{key}.sigma_max={limit:g} must exceed the noise of the data, which reaches {facts.sigma_tn_max:g}"
            )


def _params_of(config, fresh):
    """A function that gives the weights of the run in config.init_from, which must have the shapes of fresh ones."""
    try:
        run = load_run(config.init_from)
    except FileNotFoundError as error:
        raise InputError(f"init_from: {error}") from error
    prior = lambda model: model.patch_components and (model.patch_components, model.patch_side)
    shapes = lambda params: jax.tree.map(lambda x: (x.shape, x.dtype), params)
    if shapes(run.params) != shapes(jax.eval_shape(fresh)) or prior(run.config.model) != prior(config.model):
        raise InputError(
            f"the network of {config.init_from} has another shape: use its config.model and kind of images"
        )
    return lambda: jax.tree.map(np.asarray, run.params)


def _run(state: TrainState, config, workdir, dataset, model, checkpoints, optimizer, mesh) -> TrainState:
    """The steps that are left."""
    training, first = config.training, int(state.step)
    step_of = _step_programs(config, model, optimizer, mesh)
    refresh_step = make_refresh_step(config, model.make_denoise, mesh)
    open_batches = lambda start: batches(
        dataset.train,
        batch_size=training.batch_size,
        seed=config.seed,
        start=start,
        flip=config.data.flip,
        turn=config.data.turn,
        law=log_normal_law(config.ambient) if config.ambient.sigma_first else None,
    )
    data, terms = open_batches(first), None
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    with (
        _stop_requests() as stop_requested,  # first, so that a run that shows itself can be stopped
        Metrics(workdir, start=first, total=training.steps, batch_size=training.batch_size) as metrics,
    ):
        for warning in () if first else data_warnings(dataset):  # a run that goes on has said them
            metrics.say(f"warning: {warning}")
        for step in range(first, training.steps):
            if terms != (terms := terms_at(config, step)):
                metrics.say(f"step {step}: compiling {' + '.join(['ambient score matching', *terms])}")
            if "refresh" in terms and step == config.refresh.start:
                metrics.say(f"step {step}: drawing {config.refresh.capacity} images from the posterior")
                state = _fill_buffer(state, config, open_batches(step), model.make_denoise, mesh)
            with metrics.waiting():
                rows = next(data)
            batch = jax.device_put(rows, sharding)
            if "refresh" in terms and renews_at(config.refresh, step):
                state = refresh_step(state, batch)
            state, scalars = step_of("consistency" in terms, "refresh" in terms)(state, batch)
            metrics.advance()
            done = step + 1
            stopping = stop_requested()
            scoring = done % training.save_every == 0 or done == training.steps
            if scoring or stopping or done % training.log_every == 0:
                _check_finite(done, scalars)
                metrics.log(done, {name: float(value) for name, value in scalars.items()})
            if scoring:
                _save_scored(state, model.with_params(state.ema_params), dataset, checkpoints, metrics)
            if stopping:
                checkpoints.save(state)
                raise Stopped(f"stopped at step {done} of {training.steps}, which is saved")
    return state


def renews_at(refresh: Config, step: int) -> bool:
    """Whether draws of the buffer are replaced, or weighed, at a step with the term."""
    return step % refresh.every == 0 and not 0 < refresh.stop <= step


def _step_programs(config, model, optimizer, mesh):
    """(with consistency, with refresh) -> the train step, made when it is first asked for."""

    @functools.cache
    def step_of(with_consistency: bool, with_refresh: bool):
        terms = {"with_consistency": with_consistency, "with_refresh": with_refresh}
        objective = make_objective(config, model.make_denoise, model.facts.sigma_data, **terms)
        return make_train_step(objective, optimizer, ema_decay=config.training.ema_decay, seed=config.seed, mesh=mesh)

    return step_of


def _save_scored(state: TrainState, model: TrainedModel, dataset: Dataset, checkpoints: Checkpoints, metrics: Metrics):
    """Save the state with what held-out images say of its model, and say what is wrong with it."""
    step, health = int(state.step), held_out_health(model, dataset)
    if better := checkpoints.better_step(health.get("score", -math.inf)):
        metrics.say(
            f"warning: step {step}: held-out noisy images score {health['score']:.3g}, a fifth worse than "
            f"at step {better}: the model may be learning its noisy images by heart. Unless that improves, "
            f"step {better} is the model used; train for fewer steps, or on more images"
        )
    checkpoints.save(state, health)
    curve = held_out_curve(model, dataset)
    named = zip(curve["sigma"], curve["relative_mse"], strict=True)
    metrics.write(step, health | {f"held_out_mse/{sigma:g}": mse for sigma, mse in named})
    for warning in health_warnings(health) if step > model.config.training.steps // 10 else ():
        metrics.say(f"warning: step {step}: {warning}")


def terms_at(config, step: int) -> list[str]:
    """The terms below the data's noise, consistency and refresh, that are part of the objective at a step."""
    consistency, refresh = config.consistency, config.refresh
    terms = []
    if consistency.weight and consistency.start <= step < (consistency.stop or step + 1):
        terms.append("consistency")
    if refresh.weight and step >= refresh.start:
        terms.append("refresh")
    return terms


def _fill_buffer(state: TrainState, config, data, make_denoise, mesh) -> TrainState:
    """The state with as many posterior draws as its buffer holds, one for each image of `data`."""
    fill = make_refresh_step(config, make_denoise, mesh, filling=True)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    for _ in range(-(-config.refresh.capacity // config.training.batch_size)):
        state = fill(state, jax.device_put(next(data), sharding))
    return state


def _check_finite(step: int, scalars):
    """Raise Diverged if the loss or its gradient was not finite: such a state is never saved."""
    for name in ("loss", "grad_norm"):
        if not np.isfinite(float(scalars[name])):
            raise Diverged(
                f"the {name} is {float(scalars[name])} at step {step}: "
                "lower training.learning_rate or consistency.weight, in a new --workdir or from the last save"
            )


@contextmanager
def _stop_requests():
    """A function that tells whether SIGINT or SIGTERM has come; a second one interrupts at once."""
    received = []

    def on_signal(number, frame):
        if received:
            raise KeyboardInterrupt
        received.append(number)

    old = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
