"""Trained runs with the images they were trained on: clean ones, where they are known, for comparison alone."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.noisy import Dataset, NoisyImages, clean_example
from tweedie_diffusion.training.datasets import open_data_again
from tweedie_diffusion.training.trained import TrainedModel, load_run


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained run with its data.

    Attributes:
        name: that of its workdir, if no other run has it.
        model: of its newest checkpoint, or of the best, as `load_run` chooses.
        dataset: what it was trained on.
    """

    name: str
    model: TrainedModel
    dataset: Dataset

    @property
    def trained_on(self) -> str:
        """In words."""
        low, high = self.model.facts.sigma_tn_min, self.model.facts.sigma_tn_max
        if high == 0:
            return "clean images"
        return f"σ_tn = {high:g}" if low == high else f"σ_tn = {low:g} to {high:g}"


@dataclasses.dataclass(frozen=True)
class Part:
    """Training images, or held-out ones; of images larger than a model was trained on, their central squares.

    Attributes:
        x_0: [N, ...] clean, or posterior means where no clean ones are known.
        x_s, sigma_s: [N, ...] and [N], the same images as they are known, at their levels; 0 where that is x_0.
    """

    x_0: np.ndarray
    x_s: np.ndarray
    sigma_s: np.ndarray

    def at(self, rows: np.ndarray) -> "Part":
        """Some of them."""
        return Part(self.x_0[rows], self.x_s[rows], self.sigma_s[rows])


@dataclasses.dataclass(frozen=True)
class Originals:
    """What several runs may have learned by heart, and images like it that none of them has seen.

    Attributes:
        train, held_out: those images.
        denoised: whether they are posterior means of noisy images, by the first of the runs.
        mirrored, turned: whether a run has seen them in these ways too.
    """

    train: Part
    held_out: Part
    denoised: bool
    mirrored: bool = False
    turned: bool = False

    def ways(self) -> list[Callable[[np.ndarray], np.ndarray]]:
        """From images [N, ...] to what a run has seen of them: as they are, and mirrored or turned."""
        mirrors = [False, True] if self.mirrored else [False]
        quarters = range(4) if self.turned else [0]
        return [lambda x, m=m, q=q: _as_seen(x, m, q) for m in mirrors for q in quarters]


def _as_seen(x, mirrored, quarters):
    x = x[:, :, ::-1] if mirrored else x
    return np.ascontiguousarray(np.rot90(x, quarters, axes=(1, 2))) if quarters else np.ascontiguousarray(x)


def open_runs(workdirs: Sequence[str]) -> list[Run]:
    """The runs of these workdirs, with the data they were trained on.

    Raises:
        InputError: if data cannot be opened, have changed since, or a run is named twice. FileNotFoundError if there is
            no run.
    """
    paths = [Path(workdir).expanduser() for workdir in workdirs]
    same = [path.resolve() for path in paths]
    if twice := [str(path) for i, path in enumerate(paths) if same[i] in same[:i]]:
        raise InputError(f"{twice[0]} is named twice: name each run once")
    names = [path.absolute().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return [_open_run(path, name) for path, name in zip(paths, names, strict=True)]


def _open_run(workdir, name):
    model = load_run(workdir)
    return Run(name, model, open_data_again(model.config, model.facts, workdir))


def originals_of(runs: Sequence[Run]) -> Originals:
    """The training and held-out images that all runs share: clean ones if the noise was added in training.

    Raises:
        InputError: if the runs were not trained on the same images, apart from noise that was added.
    """
    first, *others = runs
    known = _parts(first.dataset)
    for run in others:
        if _identity(_parts(run.dataset)) != _identity(known):
            raise InputError(
                f"{run.name} and {first.name} were trained on other images, which cannot be compared: use runs of the "
                "same data.source, split_seed and held_out, with noise added to the same images, or in the same files"
            )
    if len(known[0][0]) < 2:
        raise InputError(f"{first.name} has a single training image: there is nothing to tell it from")
    denoised = first.dataset.held_out_clean is None
    train, held_out = (
        Part(first.model.denoise_all(x_s, sigma_s) if denoised else x_s, x_s, sigma_s) for x_s, sigma_s in known
    )
    settings = [run.model.config.data for run in runs]
    return Originals(train, held_out, denoised, any(s.flip for s in settings), any(s.turn for s in settings))


def _parts(dataset):
    """[(x_s, sigma_s)] of the training and of the held-out images: clean, if the noise was added in training."""
    return [_known(dataset, noisy) for noisy in (dataset.train, dataset.held_out)]


def _known(dataset: Dataset, noisy: NoisyImages):
    rows = noisy.rows(np.arange(len(noisy)))
    if dataset.held_out_clean is None:
        return rows["x_tn"], rows["sigma_tn"]
    images = dataset.images
    x_0 = np.stack([clean_example(images, int(i)) for i in rows["index"]])
    return x_0.astype(np.float32), np.zeros(len(x_0), np.float32)


def _identity(parts):
    return fingerprint([array for part in parts for array in part])
