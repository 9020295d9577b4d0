"""A trained model: denoise, sample, and draw from the posterior, in [-1, 1] units."""

import copy
import dataclasses
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.guidance import guided
from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS
from tweedie_diffusion.diffusion.rows import check_levels, is_known, normal, purpose_key, split
from tweedie_diffusion.diffusion.sampling import reverse_process
from tweedie_diffusion.diffusion.tiling import tiled
from tweedie_diffusion.models.patch_mixture import PatchMixture
from tweedie_diffusion.training.checkpoints import restore_saved
from tweedie_diffusion.training.config import Config, from_json, to_json
from tweedie_diffusion.training.denoiser import MakeDenoise, build_network, denoiser_maker, init_params
from tweedie_diffusion.training.exported import WEIGHTS, is_export, read_weights
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.foreign import check_foreign
from tweedie_diffusion.training.grids import sampling_levels
from tweedie_diffusion.training.hub import is_of_hub, local
from tweedie_diffusion.training.patch_prior import read_mixture
from tweedie_diffusion.training.spread import devices_for, in_batches, local_mesh, place_rows, place_whole
from tweedie_diffusion.training.step import first_buffer, init_state, make_optimizer

BATCH = 64  # images a call: one shape, so one compilation, whatever is asked for
ACCELERATED, SMALL = 256, 4096  # of samples on a GPU or TPU, each; if they have no more values


@dataclasses.dataclass
class TrainedModel:
    """Weights and what they need to be used.

    Attributes:
        config: of the run.
        facts: of its data.
        make_denoise: (params, labels=...) -> denoiser.
        params: the EMA weights.
        mixture: the prior that the network corrects, if any; make_denoise knows it.
    """

    config: Config
    facts: DataFacts
    make_denoise: MakeDenoise
    params: dict
    mixture: PatchMixture | None = None

    def __post_init__(self):
        # The weights are arguments of what is compiled, so that new weights need no new compilation.
        def denoiser(params, labels, shape):
            denoise = self.make_denoise(params, labels=labels)
            return denoise if tuple(shape) == self.facts.shape else tiled(denoise, self.facts.shape)

        def reverse(params, keys, x_init, sigmas, labels, guidance, step):
            denoise = denoiser(params, labels, x_init.shape[1:])
            if guidance is not None:  # of samples, which have the size of the training images
                labelled = lambda x_t, sigma, labels: self.make_denoise(params, labels=labels)(x_t, sigma)
                denoise = guided(labelled, labels, weight=guidance[0], interval=(guidance[1], guidance[2]))
            return reverse_process(keys, denoise, x_init, sigmas, step=REVERSE_STEPS[step])

        self._compiled_reverse = jax.jit(reverse, static_argnames="step")
        self._compiled_denoise = jax.jit(
            lambda params, x_t, sigma, labels: denoiser(params, labels, x_t.shape[1:])(x_t, sigma)
        )

    def with_params(self, params) -> "TrainedModel":
        """The same model with other weights, sharing what is compiled."""
        other = copy.copy(self)
        other.params = params
        return other

    def denoise(self, x_t, sigma, labels=None) -> jax.Array:
        """E[x_0 | x_t], compiled once for each shape.

        Args:
            x_t: [B, ...] in [-1, 1] units. Images larger than those of training are denoised in overlapping tiles.
            sigma: float or [B], > 0.
            labels: [B] classes of a class-conditional model, −1 for none; None for none at all. Not for larger images.

        Returns:
            [B, ...].

        Raises:
            ValueError: if the images are smaller than those of training or have other channels, or sigma <= 0.
            InputError: without classes, of a model that knows no image without one.
        """
        self._check_labels(labels)
        if not self.takes(x_t.shape[1:]):
            larger = " or larger" if len(self.facts.shape) == 3 else ""
            raise ValueError(f"the model takes images {list(self.facts.shape)}{larger} (got {list(x_t.shape[1:])})")
        check_levels(0.0, sigma, "sigma must be > 0", strict=True)
        x_t, sigma = jnp.asarray(x_t, jnp.float32), jnp.asarray(sigma, jnp.float32)
        return self._compiled_denoise(self.params, x_t, sigma, labels)

    def _check_labels(self, labels):
        """InputError where no class is asked for, and training had no image without one."""
        model = self.config.model
        if not model.class_conditional or model.label_dropout:
            return
        if labels is None or (is_known(labels) and (np.asarray(labels) < 0).any()):
            raise InputError(
                "the model knows no image without a class: give labels, or train with model.label_dropout > 0"
            )

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether examples of a shape can be denoised: that of training, or larger images with as many channels."""
        trained = self.facts.shape
        if len(trained) != 3 or len(shape) != 3:
            return tuple(shape) == trained
        return shape[2] == trained[2] and shape[0] >= trained[0] and shape[1] >= trained[1]

    def sample(
        self,
        indices,
        *,
        seed: int = 0,
        truncated: bool = False,
        num_steps: int = 0,
        step: str = "",
        label: int = -1,
        guidance: float = 1.0,
        guidance_interval: Sequence[float] = (),
        **levels,
    ) -> np.ndarray:
        """Samples number `indices` of a seed: sample i depends on (seed, i) alone. All devices of this process draw.

        Args:
            indices: [N] numbers >= 0.
            seed: of the noise.
            truncated: stop at the noise of the data and return E[x_0 | x_tn] there, instead of going down to
                sampling.sigma_min: smoother images, from the levels where training is exact.
            num_steps, step: instead of the config's.
            label: class of them all; −1 for every class in turn, i modulo their number. Only for class-conditional
                models.
            guidance: weight of the class (`diffusion.guidance.guided`); 1 is the conditional model as it is.
            guidance_interval: (low, high) levels between which it acts; () for all.
            **levels: sigmas, sigma_min, sigma_max, rho of `training.grids.sampling_levels`.

        Returns:
            [N, ...] float32.

        Raises:
            InputError: if truncated, and the training images have no noise to stop at; for levels that are no grid;
                for a class that the model has not; for guidance of one that does not know images with and without a
                class.
        """
        grid = {"truncated": truncated, "num_steps": num_steps, **levels}
        sigmas, weight = self.check_sampling(
            label=label, guidance=guidance, guidance_interval=guidance_interval, **grid
        )
        indices, step = np.asarray(indices), step or self.config.sampling.step
        labels = self.labels(indices, label)
        size = rows_a_device(self.facts.shape)
        mesh = local_mesh(devices_for(len(indices), size))
        params, key = place_whole(mesh, self.params), purpose_key(seed, "samples")

        def draw(indices, *labels):
            start_keys, step_keys = _keys(key, indices)
            x_init = sigmas[0] * normal(start_keys, (len(indices), *self.facts.shape))  # on one device: the same bits
            of_rows = place_rows(mesh, (step_keys, x_init))
            of_classes = place_rows(mesh, jnp.asarray(labels[0])) if labels else None
            return self._compiled_reverse(params, *of_rows, sigmas, of_classes, weight, step)

        rows = (indices,) if labels is None else (indices, labels)
        return in_batches(draw, *rows, size=size * mesh.size)

    def labels(self, indices: np.ndarray, label: int = -1) -> np.ndarray | None:
        """[N] classes of samples, as `sample` has them; None of a model without."""
        if not self.config.model.class_conditional:
            return None
        return indices % self.facts.num_classes if label < 0 else np.full(len(indices), label)

    def check_sampling(
        self, *, label: int = -1, guidance: float = 1.0, guidance_interval: Sequence[float] = (), **grid
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The levels [N] of `sample`, and its guidance (weight, low, high), None for a weight of 1; errors as there."""
        sigmas = sampling_levels(self.config.sampling, self.facts, **grid)
        classes = self.facts.num_classes if self.config.model.class_conditional else 0
        if label >= max(classes, 0):
            known = f"it has 0 to {classes - 1}" if classes else "it has none: leave out label"
            raise InputError(f"label={label}: the model has no such class, {known}")
        if guidance == 1 and not len(guidance_interval):
            return sigmas, None
        low, high = guidance_interval if len(guidance_interval) else (0.0, np.inf)
        model = self.config.model
        if not np.isfinite(guidance):
            raise InputError(f"guidance must be a number, as 1.5 (got {guidance})")
        if guidance == 1:
            raise InputError("guidance_interval is where guidance acts: state guidance too, as 1.5")
        if not 0 <= low < high:
            raise InputError(f"guidance_interval must be LOW,HIGH with 0 <= LOW < HIGH (got {low:g},{high:g})")
        if not model.class_conditional:
            raise InputError("guidance needs classes, and the model has none: train with model.class_conditional=True")
        if not model.label_dropout:
            raise InputError("guidance needs training with model.label_dropout > 0: no image without a class is known")
        return sigmas, np.array([guidance, low, high], np.float32)

    def denoise_all(self, x_t: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """`denoise` on any number of images [N, ...] with levels [N]; images at level 0 are returned as they are."""
        denoised, noisy = np.array(x_t, np.float32), sigma > 0
        if noisy.any():
            denoised[noisy] = in_batches(self.denoise, denoised[noisy], sigma[noisy], size=self._batch(x_t))
        return denoised

    def _batch(self, x_t):
        """Images a call: larger ones are many tiles each."""
        return BATCH if x_t.shape[1:] == self.facts.shape else 1

    def posterior_sample(
        self,
        x_t: np.ndarray,
        sigma: np.ndarray,
        draw: int,
        *,
        seed: int = 0,
        indices: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ) -> np.ndarray:
        """One sample a row of p(x_0 | x_t): the stochastic midpoint process from each row's own level down.

        Args:
            x_t: [N, ...].
            sigma: [N] levels; images at level 0 are returned as they are.
            draw: the number of the sample; row n's depends on (seed, draw, indices[n]).
            seed: of the noise.
            indices: [N] numbers of the images; 0, 1, … if None.
            labels: [N] classes, as of `denoise`.

        Returns:
            [N, ...] float32.

        Raises:
            InputError: as `denoise`.
        """
        self._check_labels(labels)
        sampling = self.config.sampling
        key = jax.random.fold_in(purpose_key(seed, "posterior"), draw)

        def descend(indices, x_t, sigma, *labels):
            _, step_keys = _keys(key, indices)
            lowest = np.minimum(sampling.sigma_min, sigma / 2)
            sigmas = karras_sigmas(sampling.num_steps, sigma_min=lowest, sigma_max=sigma, rho=sampling.rho)
            return self._compiled_reverse(self.params, step_keys, x_t, sigmas, *(labels or (None,)), None, "midpoint")

        indices = np.arange(len(x_t)) if indices is None else indices
        drawn, noisy = np.array(x_t, np.float32), sigma > 0
        if noisy.any():
            rows = [indices[noisy], drawn[noisy], sigma[noisy]]
            rows += [] if labels is None else [np.asarray(labels)[noisy]]
            drawn[noisy] = in_batches(descend, *rows, size=self._batch(x_t))
        return drawn


def rows_a_device(shape: tuple[int, ...]) -> int:
    """Samples of a shape that a device draws at a time."""
    small = jax.default_backend() != "cpu" and math.prod(shape) <= SMALL
    return ACCELERATED if small else BATCH


def digest(model: TrainedModel) -> str:
    """What tells one model from another: of all that decides what it denoises and samples, and of nothing else."""
    settings = to_json(model.config.model) + to_json(model.config.sampling) + model.facts.to_json()
    hashed = hashlib.blake2b(settings.encode(), digest_size=8)
    for leaf in jax.tree.leaves((model.params, model.mixture)):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()


def _keys(key, indices):
    """[B] keys for the start and [B] for the steps of samples number `indices`."""
    return split(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(indices)), 2)


def load_run(workdir, *, best: bool = False) -> TrainedModel:
    """The model of a workdir, with the EMA weights of its newest checkpoint, or of the one of least score if `best`, or
    if the newest is a fifth worse by held-out noisy images; or the one model of an exported folder, or of the Hub.

    Args:
        workdir: of a run; or a folder that `export` or `import_edm` wrote; or hub:USER/NAME or hub:USER/NAME@REVISION,
            which is downloaded, or taken from the local cache if there is no network.
        best: of a workdir; the others hold one set of weights.

    Raises:
        FileNotFoundError: if there is no run, or no checkpoint yet, or no such model.
        InputError: if what is there cannot be used.
    """
    return load_folder(local(workdir), workdir, best=best)


def load_folder(folder: Path, workdir, *, best: bool = False) -> TrainedModel:
    """`load_run` of the folder that `workdir` was found to be; checkpoints beside weights of the Hub are nobody's."""
    shared = is_of_hub(workdir) or is_export(folder)
    if shared and best:
        raise InputError(f"{workdir} holds one set of weights, and no checkpoints to take the best of: leave out best")
    if not (folder / "config.json").is_file():
        what = "run" if not shared else "config.json beside the weights"
        raise FileNotFoundError(f"there is no {what} in {workdir}: train one with python -m tweedie_diffusion.main")
    if is_of_hub(workdir) and not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(f"there is no {WEIGHTS} in {workdir}: it is no exported model")
    config, facts = _described(folder, workdir, shared)
    network = build_network(config.model, facts)
    fresh = lambda: init_params(jax.random.key(0), network, config.model, facts)
    if shared:
        params, mixture = read_weights(folder / WEIGHTS, jax.eval_shape(fresh), bool(config.model.patch_components))
    else:
        params, mixture = _of_run(folder, config, facts, fresh, best)
    return TrainedModel(config, facts, denoiser_maker(network, config.model, facts, mixture), params, mixture)


def _described(folder, workdir, shared) -> tuple[Config, DataFacts]:
    """Settings and data of a model; what is shared may come from anywhere, and is checked."""
    try:
        config = from_json((folder / "config.json").read_text())
        facts = DataFacts.from_json((folder / "data.json").read_text())
        if shared:
            check_foreign(config, facts)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise InputError(f"config.json or data.json of {workdir} cannot be read ({error})") from error
    return config, facts


def _of_run(workdir, config, facts, fresh, best):
    """Weights and mixture of a checkpoint."""
    shapes = jax.eval_shape(
        lambda: init_state(fresh(), make_optimizer(config.training), first_buffer(config.refresh, facts.shape))
    )
    state = restore_saved(workdir, shapes, best=best)
    if state is None:
        raise FileNotFoundError(
            f"the run in {workdir} has no checkpoint yet, nor weights that were exported: run its command again"
        )
    params = jax.device_put(state.ema_params, jax.local_devices()[0])  # of the state, no more need fit there
    return params, read_mixture(workdir) if config.model.patch_components else None
