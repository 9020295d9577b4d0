"""A trained model: denoise, sample, and draw from the posterior, in [-1, 1] units."""

import copy
import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.diffusion.reverse_steps import REVERSE_STEPS
from tweedie_diffusion.diffusion.rows import check_levels, normal, purpose_key, split
from tweedie_diffusion.diffusion.sampling import reverse_process
from tweedie_diffusion.diffusion.tiling import tiled
from tweedie_diffusion.models.patch_mixture import PatchMixture
from tweedie_diffusion.training.checkpoints import restore_saved
from tweedie_diffusion.training.config import Config, check_config, from_json, to_json
from tweedie_diffusion.training.denoiser import MakeDenoise, build_network, denoiser_maker, init_params
from tweedie_diffusion.training.exported import WEIGHTS, is_export, read_weights
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.hub import local
from tweedie_diffusion.training.patch_prior import read_mixture
from tweedie_diffusion.training.step import first_buffer, init_state, make_optimizer

BATCH = 64  # images a call: one shape, so one compilation, whatever is asked for


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

        def reverse(params, keys, x_init, sigmas, labels, step):
            denoise = denoiser(params, labels, x_init.shape[1:])
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
        """
        if not self.takes(x_t.shape[1:]):
            larger = " or larger" if len(self.facts.shape) == 3 else ""
            raise ValueError(f"the model takes images {list(self.facts.shape)}{larger} (got {list(x_t.shape[1:])})")
        check_levels(0.0, sigma, "sigma must be > 0", strict=True)
        x_t, sigma = jnp.asarray(x_t, jnp.float32), jnp.asarray(sigma, jnp.float32)
        return self._compiled_denoise(self.params, x_t, sigma, labels)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether examples of a shape can be denoised: that of training, or larger images with as many channels."""
        trained = self.facts.shape
        if len(trained) != 3 or len(shape) != 3:
            return tuple(shape) == trained
        return shape[2] == trained[2] and shape[0] >= trained[0] and shape[1] >= trained[1]

    def sample(
        self, indices, *, seed: int = 0, truncated: bool = False, num_steps: int = 0, step: str = "", label: int = -1
    ) -> np.ndarray:
        """Samples number `indices` of a seed: sample i depends on (seed, i) alone.

        Args:
            indices: [N] numbers >= 0.
            seed: of the noise.
            truncated: stop at the noise of the data and return E[x_0 | x_tn] there, instead of going down to
                sampling.sigma_min: smoother images, from the levels where training is exact.
            num_steps, step: instead of the config's.
            label: class of them all; −1 for every class in turn, i modulo their number. Only for class-conditional
                models.

        Returns:
            [N, ...] float32.

        Raises:
            InputError: if truncated, and the training images have no noise to stop at.
        """
        sampling = self.config.sampling
        lowest = self.facts.sigma_tn_max if truncated else sampling.sigma_min
        if lowest <= 0:
            raise InputError("the training images have no noise to stop at: sample in full mode")
        sigmas = karras_sigmas(
            num_steps or sampling.num_steps, sigma_min=lowest, sigma_max=sampling.sigma_max, rho=sampling.rho
        )

        def draw(indices):
            labels = None
            if self.config.model.class_conditional:
                labels = jnp.asarray(indices % self.facts.num_classes if label < 0 else np.full(BATCH, label))
            start_keys, step_keys = _keys(purpose_key(seed, "samples"), indices)
            x_init = sigmas[0] * normal(start_keys, (BATCH, *self.facts.shape))
            return self._compiled_reverse(self.params, step_keys, x_init, sigmas, labels, step or sampling.step)

        return _in_batches(draw, np.asarray(indices))

    def denoise_all(self, x_t: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """`denoise` on any number of images [N, ...] with levels [N]; images at level 0 are returned as they are."""
        denoised, noisy = np.array(x_t, np.float32), sigma > 0
        if noisy.any():
            denoised[noisy] = _in_batches(self.denoise, denoised[noisy], sigma[noisy], size=self._batch(x_t))
        return denoised

    def _batch(self, x_t):
        """Images a call: larger ones are many tiles each."""
        return BATCH if x_t.shape[1:] == self.facts.shape else 1

    def posterior_sample(
        self, x_t: np.ndarray, sigma: np.ndarray, draw: int, *, seed: int = 0, indices: np.ndarray | None = None
    ) -> np.ndarray:
        """One sample a row of p(x_0 | x_t): the stochastic midpoint process from each row's own level down.

        Args:
            x_t: [N, ...].
            sigma: [N] levels; images at level 0 are returned as they are.
            draw: the number of the sample; row n's depends on (seed, draw, indices[n]).
            seed: of the noise.
            indices: [N] numbers of the images; 0, 1, … if None.

        Returns:
            [N, ...] float32.
        """
        sampling = self.config.sampling
        key = jax.random.fold_in(purpose_key(seed, "posterior"), draw)

        def descend(indices, x_t, sigma):
            _, step_keys = _keys(key, indices)
            lowest = np.minimum(sampling.sigma_min, sigma / 2)
            sigmas = karras_sigmas(sampling.num_steps, sigma_min=lowest, sigma_max=sigma, rho=sampling.rho)
            return self._compiled_reverse(self.params, step_keys, x_t, sigmas, None, "midpoint")

        indices = np.arange(len(x_t)) if indices is None else indices
        drawn, noisy = np.array(x_t, np.float32), sigma > 0
        if noisy.any():
            rows = indices[noisy], drawn[noisy], sigma[noisy]
            drawn[noisy] = _in_batches(descend, *rows, size=self._batch(x_t))
        return drawn


def digest(model: TrainedModel) -> str:
    """What tells one model from another: of its settings and weights."""
    hashed = hashlib.blake2b(to_json(model.config).encode(), digest_size=8)
    for leaf in jax.tree.leaves(model.params):
        hashed.update(np.asarray(leaf).tobytes())
    return hashed.hexdigest()


def _keys(key, indices):
    """[B] keys for the start and [B] for the steps of samples number `indices`."""
    return split(jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(indices)), 2)


def _in_batches(function, *rows: np.ndarray, size: int = 0) -> np.ndarray:
    """function(*rows) on `size` rows at a time; the last are repeated to fill the last batch, and dropped again."""
    size = size or BATCH
    count = len(rows[0])
    parts = []
    for first in range(0, count, size):
        chosen = np.minimum(np.arange(first, first + size), count - 1)
        parts.append(np.asarray(function(*(r[chosen] for r in rows)))[: count - first])
    return np.concatenate(parts)


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
    folder = local(workdir)
    if not (folder / "config.json").is_file():
        what = "run" if not is_export(folder) else "config.json beside the weights"
        raise FileNotFoundError(f"there is no {what} in {folder}: train one with python -m tweedie_diffusion.main")
    try:
        config = from_json((folder / "config.json").read_text())
        facts = DataFacts.from_json((folder / "data.json").read_text())
        if is_export(folder):  # it may come from anywhere
            check_config(config)
            facts.check()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"config.json or data.json of {folder} cannot be read ({error})") from error
    network = build_network(config.model, facts)
    fresh = lambda: init_params(jax.random.key(0), network, config.model, facts)
    if is_export(folder):
        params, mixture = read_weights(folder / WEIGHTS, jax.eval_shape(fresh), bool(config.model.patch_components))
    else:
        params, mixture = _of_run(folder, config, facts, fresh, best)
    return TrainedModel(config, facts, denoiser_maker(network, config.model, facts, mixture), params, mixture)


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
    return state.ema_params, read_mixture(workdir) if config.model.patch_components else None
