"""Train, and resume by the same call."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.diffusion.rows import purpose_key
from tweedie_diffusion.training.checkpoints import Checkpoints, restore_saved
from tweedie_diffusion.training.config import Config, check_config
from tweedie_diffusion.training.datasets import open_data
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params, sigma_data_of
from tweedie_diffusion.training.durable import free_bytes
from tweedie_diffusion.training.facts import check_facts, facts_of
from tweedie_diffusion.training.guard import Diverged, Guard
from tweedie_diffusion.training.health import NUM_IMAGES, data_warnings, health_warnings, held_out_health
from tweedie_diffusion.training.memory import check_memory, noticing_full_memory, smaller_step
from tweedie_diffusion.training.metrics import Metrics
from tweedie_diffusion.training.objective import log_normal_law, make_objective, renews_at, terms_at
from tweedie_diffusion.training.patch_prior import check_patches, open_mixture
from tweedie_diffusion.training.processes import (
    Agreement,
    check_same,
    first_process_first,
    in_memory,
    leave_together,
    noticing_loss,
    on_first_process,
    on_one_device,
    own_rows,
    place,
    place_own,
)
from tweedie_diffusion.training.results import (
    NUM_SHOWN,
    held_out_curve,
    scored_pictures,
    show_results,
    write_results,
)
from tweedie_diffusion.training.sharding import check_devices, make_mesh, split
from tweedie_diffusion.training.step import (
    TrainState,
    first_buffer,
    init_state,
    layout_of,
    make_optimizer,
    make_refresh_step,
    make_train_step,
)
from tweedie_diffusion.training.stopping import Leave, Stopped, StopRequests
from tweedie_diffusion.training.trace import Trace
from tweedie_diffusion.training.trained import TrainedModel, load_run
from tweedie_diffusion.training.workdir import check_workdir, has_checkpoints, locked, open_workdir


@dataclasses.dataclass(frozen=True)
class _Run:
    """What a training works with, from its start to its end."""

    config: Config
    workdir: Path
    dataset: Dataset
    model: TrainedModel
    optimizer: optax.GradientTransformation
    mesh: Mesh
    first: Callable[[], TrainState]  # of step 0, on the devices
    like: TrainState  # its shapes
    layout: TrainState  # where its arrays lie
    checkpoints: Checkpoints
    stops: StopRequests


def train(
    config: Config,
    workdir: Path,
    *,
    start_over: bool = False,
    accept_data: bool = False,
    leave: Leave | None = None,
) -> bool:
    """Train the model of `config` in `workdir`, going on from its newest checkpoint, and write the results.

    Args:
        config: of `default_config`.
        workdir: created if it does not exist.
        start_over: set all checkpoints aside and begin at step 0.
        accept_data: go on although the data is not what the run began with.
        leave: ends the process if it is asked to stop while the compiler runs and nothing can be lost; None waits.

    Returns:
        False if the run was finished already.

    Raises:
        InputError: for anything the person must mend; nothing is overwritten then. Diverged if it is the loss,
            SaveFailed if a state could not be written.
        Stopped: on SIGINT or SIGTERM, with nothing lost.
    """
    check_config(config)
    check_workdir(workdir, config)
    with (
        noticing_loss(),
        noticing_full_memory(lambda: smaller_step(config)),
        StopRequests(leave) as stops,
        contextlib.ExitStack() as held,
    ):
        with stops.nothing_to_lose("stopped before the first step, with nothing to save"):
            run = _open_run(config, workdir, stops, held, start_over=start_over, accept_data=accept_data)
            if run.checkpoints.latest_step() == config.training.steps and (workdir / "denoising_curve.json").is_file():
                return False
            state = _first_state(run)
        state = _take_steps(run, state)
        again = "all steps are saved: free it of other programs, and the same command draws the results again"
        with (
            stops.nothing_to_lose("stopped while the results were drawn: all steps are saved"),
            noticing_full_memory(lambda: again),
        ):
            _show_results(run, state)
    return True


def _open_run(config, workdir, stops, held, *, start_over, accept_data) -> _Run:
    """Everything but the state; what must be closed is in `held`."""
    check_devices(config.training, jax.device_count())
    mesh = make_mesh(shards=config.training.shards)
    dataset = open_data(config.data)
    facts = facts_of(dataset)
    check_same("the data", int(facts.fingerprint[:7] or "0", 16))
    network = build_network(config.model, facts)
    check_facts(config, facts)
    if config.model.patch_components:
        check_patches(config.model, facts)
    params = lambda: init_params(purpose_key(config.seed, "weights"), network, config.model, facts)
    begun = None
    if config.init_from and (start_over or not has_checkpoints(workdir)):
        begun = _model_to_start_from(config, params)
        params = lambda: jax.tree.map(np.asarray, begun.params)
    optimizer = make_optimizer(config.training)
    begin = lambda params: init_state(params, optimizer, first_buffer(config.refresh, facts.shape))
    like = jax.eval_shape(lambda: begin(params()))
    layout = layout_of(like, mesh)
    first = lambda: jax.jit(begin, out_shardings=layout)(place(params(), layout.params))
    rows = config.training.batch_size // mesh.size // max(config.training.accumulate, 1)
    if start_over or Checkpoints(workdir, keep=None).latest_step() != config.training.steps:
        check_memory(config, network, facts, like, layout, rows=rows)
    with first_process_first():
        if on_first_process():
            held.enter_context(locked(workdir))
        checkpoints = held.enter_context(Checkpoints(workdir, keep=config.training.keep_checkpoints))
        if on_first_process():
            if start_over:
                checkpoints.set_all_aside()
            excluded = dataset.images.excluded
            open_workdir(workdir, config, facts, excluded, accept_data=accept_data, say=tqdm.write)
        given = begun and begun.mixture
        mixture = open_mixture(workdir, config, dataset.train, given) if config.model.patch_components else None
    model = TrainedModel(config, facts, denoiser_maker(network, config.model, facts, mixture), params={})
    return _Run(config, workdir, dataset, model, optimizer, mesh, first, like, layout, checkpoints, stops)


def _first_state(run: _Run) -> TrainState:
    """The newest state that is whole, or that of step 0."""
    with first_process_first():
        state = run.checkpoints.restore_newest(run.like, run.mesh, tqdm.write)
    check_same("the newest checkpoint", 0 if state is None else int(state.step))
    return run.first() if state is None else state


def _show_results(run: _Run, state: TrainState) -> None:
    """Write the results of the model that is used: of the last step, or of an earlier one that is better."""
    run.checkpoints.wait()
    step, params = int(state.step), on_one_device(state.ema_params)  # of all processes
    try:
        with first_process_first():
            if on_first_process():
                if run.checkpoints.model_step() not in (None, step) and (used := restore_saved(run.workdir, run.like)):
                    step, params = int(used.step), jax.device_put(used.ema_params, jax.local_devices()[0])
                write_results(run.workdir, run.model.with_params(params), run.dataset)
                show_results(run.workdir, step)
    except OSError as error:
        raise InputError(
            f"the results cannot be written in {run.workdir} ({error.strerror or error}{free_bytes(run.workdir)}). All "
            "steps are saved: free what it needs, and the same command draws the results again"
        ) from error


def _model_to_start_from(config, fresh) -> TrainedModel:
    """The model of config.init_from, whose weights must have the shapes of fresh ones."""
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
    return run


def _take_steps(run: _Run, state: TrainState) -> TrainState:
    """The steps that are left, and what happens between them."""
    training, first = run.config.training, int(state.step)
    if on_first_process():
        (run.workdir / "denoising_curve.json").unlink(missing_ok=True)  # that of a finished run, begun anew
    with (
        Metrics(run.workdir, start=first, total=training.steps, batch_size=training.batch_size) as metrics,
        _tracing(run) as trace,
    ):
        guard = Guard(run.workdir, metrics, trace)
        with run.stops.nothing_to_lose(_stopped_at(run, first)):
            for warning in () if first else data_warnings(run.dataset):  # a run that goes on has said them
                metrics.say(f"warning: {warning}")
        if first and _scores_at(training, first) and not run.checkpoints.is_scored(first):  # it was stopped before
            _score(run, state, metrics)
        data, programs, compiled, agreed = _batches_of(run, first), _step_programs(run), set(), Agreement(run.mesh)
        due = False
        for step in range(first, training.steps):
            terms = terms_at(run.config, step)
            renewing = "refresh" in terms and renews_at(run.config.refresh, step)
            new = {" + ".join(["ambient score matching", *terms]), *(["renewing draws"] if renewing else [])} - compiled
            compiled |= new
            with _compiling(run, state, guard, trace) if new else contextlib.nullcontext():
                with metrics.waiting():
                    rows = next(data)
                if new:
                    metrics.say(f"step {step}: compiling {', '.join(sorted(new))}")
                if "refresh" in terms and step == run.config.refresh.start:
                    metrics.say(f"step {step}: drawing {run.config.refresh.capacity} images from the posterior")
                    state = _fill_buffer(run, state)
                state, scalars = programs(state, rows, terms, renewing)
            guard.watch(step, _seen(run, rows), scalars)
            metrics.advance()
            due |= _scores_at(training, step + 1)
            if (step + 1) % training.log_every == 0 or _scores_at(training, step + 1):
                metrics.log(step + 1, {name: float(value) for name, value in scalars.items()})
            if due and (guard.settle() or step + 1 == training.steps):  # not while steps are skipped
                due = False
                _save(run, state, guard, trace)
                _score(run, state, metrics)
            if asked := agreed(run.stops.asked):
                _save(run, state, guard, trace)
                run.checkpoints.wait()
                leave_together()
                raise Stopped(asked, _stopped_at(run, step + 1))
    return state


def _stopped_at(run: _Run, step: int) -> str:
    if not step:
        return "stopped before the first step was done, with nothing to save"
    return f"stopped at step {step} of {run.config.training.steps}, which is saved"


def _scores_at(training: Config, step: int) -> bool:
    return step % training.save_every == 0 or step == training.steps


@contextmanager
def _tracing(run: _Run):
    if not (run.config.debug_trace and on_first_process()):
        yield None
        return
    with contextlib.closing(Trace(run.workdir / "trace.txt")) as trace:
        yield trace


@contextmanager
def _compiling(run: _Run, state: TrainState, guard: Guard, trace: Trace | None):
    """Around a step that must be compiled, which can take minutes: it may be left, for what came before is saved."""
    step = int(state.step)
    if not guard.settle():
        yield
        return
    if step and not run.checkpoints.holds(step):
        _save(run, state, guard, trace)
    with run.stops.nothing_to_lose(_stopped_at(run, step), run.checkpoints.wait):
        yield


def _save(run: _Run, state: TrainState, guard: Guard, trace: Trace | None) -> None:
    """Save the state in the background, once every step before it has been looked at."""
    guard.settle()
    if run.config.debug_trace:
        host = in_memory(state)  # of all processes
        if trace:
            trace.write_state(int(state.step), host)
    run.checkpoints.save(state)


def _seen(run: _Run, rows):
    """The batch as guard and trace look at it: to be hashed, rows of other processes must come from there."""
    if jax.process_count() == 1 or not run.config.debug_trace:
        return rows
    return in_memory(_placed(run, rows)) | {"index": rows["index"]}


def _placed(run: _Run, rows):
    """What the steps take of a batch, on the devices."""
    return place_own({name: array for name, array in rows.items() if name != "index"}, split(run.mesh))


def _batches_of(run: _Run, start: int):
    """The batches of config.data from number `start` on: the rows of this process's devices."""
    config = run.config
    return batches(
        run.dataset.train,
        batch_size=config.training.batch_size,
        seed=config.seed,
        start=start,
        flip=config.data.flip,
        turn=config.data.turn,
        law=log_normal_law(config.ambient) if config.ambient.sigma_first else None,
        part=own_rows(split(run.mesh), config.training.batch_size),
    )


def _step_programs(run: _Run):
    """(state, rows, terms, renewing) -> (state, scalars): one step, compiled for the terms of its objective."""
    config, facts = run.config, run.model.facts
    refresh_step = make_refresh_step(config, run.model.make_denoise, run.mesh, layout=run.layout)

    @functools.cache
    def step_of(with_consistency: bool, with_refresh: bool):
        terms = {"with_consistency": with_consistency, "with_refresh": with_refresh}
        sigma_data = sigma_data_of(config.model, facts)
        objective = make_objective(config, run.model.make_denoise, sigma_data, mesh=run.mesh, **terms)
        return make_train_step(
            objective,
            run.optimizer,
            ema_decay=config.training.ema_decay,
            seed=config.seed,
            mesh=run.mesh,
            layout=run.layout,
            micro_batches=max(config.training.accumulate, 1),
        )

    def take(state, rows, terms, renewing):
        batch = _placed(run, rows)
        if renewing:
            state = refresh_step(state, batch)
        return step_of("consistency" in terms, "refresh" in terms)(state, batch)

    return take


def _score(run: _Run, state: TrainState, metrics: Metrics) -> None:
    """What held-out images say of the model of a saved state, and what is wrong with it."""
    step = int(state.step)
    with run.stops.nothing_to_lose(_stopped_at(run, step), run.checkpoints.wait):
        model = run.model.with_params(on_one_device(state.ema_params))
        count = NUM_IMAGES if run.model.facts.sigma_tn_max > 0 else NUM_SHOWN  # what the scores, or pictures, ask for
        draw = functools.cache(lambda: model.sample(range(count)))
        health = held_out_health(model, run.dataset, draw)
        if better := run.checkpoints.better_step(health.get("score", -math.inf)):
            metrics.say(
                f"warning: step {step}: held-out noisy images score {health['score']:.3g}, a fifth worse than "
                f"at step {better}: the model may be learning its noisy images by heart. Unless that improves, "
                f"step {better} is the model used; train for fewer steps, or on more images"
            )
        curve = held_out_curve(model, run.dataset)
        named = zip(curve["sigma"], curve["relative_mse"], strict=True)
        metrics.write(step, health | {f"held_out_mse/{sigma:g}": mse for sigma, mse in named})
        for warning in health_warnings(health) if step > run.config.training.steps // 10 else ():
            metrics.say(f"warning: step {step}: {warning}")
        run.checkpoints.score(step, health.get("score"))
        if on_first_process():
            metrics.show(step, scored_pictures(model, run.dataset, curve, draw))


def _fill_buffer(run: _Run, state: TrainState) -> TrainState:
    """The state with as many posterior draws as its buffer holds, one for each image of the next batches."""
    fill = make_refresh_step(run.config, run.model.make_denoise, run.mesh, layout=run.layout, filling=True)
    data = _batches_of(run, int(state.step))
    for _ in range(-(-run.config.refresh.capacity // run.config.training.batch_size)):
        state = fill(state, _placed(run, next(data)))
    assert state.buffer is not None
    if not np.asarray(state.buffer.x_0.addressable_data(0)).any(axis=tuple(range(1, state.buffer.x_0.ndim))).all():
        raise Diverged("posterior draws are not finite: raise refresh.start, or lower training.learning_rate")
    return state
