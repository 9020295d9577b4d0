"""A classifier of a run's own images, for its features: a tool of evaluation, which no denoiser learns from.

Of labels where there are any; else of by how many quarter turns an image was turned (RotNet: Gidaris et al. 2018).
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import Dataset, NoisyImages, central, clean_example
from tweedie_diffusion.data.sources import spaced
from tweedie_diffusion.models.classifier import Classifier, halvings_of
from tweedie_diffusion.training.config import from_json
from tweedie_diffusion.training.datasets import open_data_again
from tweedie_diffusion.training.facts import DataFacts

STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 600, 64, 3e-3, 1e-4
MOST_BYTES = 2**28  # of the images that it is trained on
TURNS = 4


@dataclasses.dataclass(frozen=True)
class _Task:
    """Images [N, H, W, C], of the training part or held out, and their classes; None for quarter turns, made here."""

    x: np.ndarray
    labels: np.ndarray | None

    def batch(self, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The images and classes of a step."""
        rng = np.random.Generator(np.random.Philox((seed, step)))
        rows = rng.integers(len(self.x), size=BATCH)
        if self.labels is not None:
            return self.x[rows], self.labels[rows]
        turns = rng.integers(TURNS, size=BATCH)
        return turned(self.x[rows], turns), turns

    def all(self) -> tuple[np.ndarray, np.ndarray]:
        """Every image, in every turn."""
        if self.labels is not None:
            return self.x, self.labels
        turns = np.arange(TURNS).repeat(len(self.x))
        return turned(np.tile(self.x, (TURNS, 1, 1, 1)), turns), turns


def open_run_data(workdir: Path) -> Dataset:
    """The data of a run, split as it was.

    Raises:
        InputError: if there is no run, or its data changed since: images that it held out might be trained on.
    """
    if not (workdir / "data.json").is_file():
        raise InputError(f"there is no run in {workdir}: train one with python -m tweedie_diffusion.main")
    try:
        config = from_json((workdir / "config.json").read_text())
        facts = DataFacts.from_json((workdir / "data.json").read_text())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(f"config.json or data.json of {workdir} cannot be read ({error})") from error
    return open_data_again(config, facts, workdir)


def train_classifier(dataset: Dataset, *, seed: int = 0, steps: int = STEPS) -> tuple[dict, dict[str, Any]]:
    """Train on the training part only: held-out images are compared later, and here only measure the accuracy.

    Clean images are used where the source holds them, as this serves evaluation; else noisy ones as they are. All is a
    function of (data, seed, steps), on one machine.

    Returns:
        Weights, and what is known of them: the attributes of the network and image_channels; task, `labels` or `quarter
        turns`; images, `clean` or `noisy`; num_train, held_out_accuracy, seed, steps.

    Raises:
        InputError: if the data is not images of at least 8×8, or there are fewer than 2 to hold out.
    """
    shape, num_classes = dataset.images.shape, dataset.images.num_classes
    try:
        halvings = halvings_of(shape)
    except ValueError as error:
        raise InputError(str(error)) from error
    labelled = num_classes > 1
    train, held_out = (_task(dataset, part, labelled) for part in (dataset.train, dataset.held_out))
    network = Classifier(num_classes if labelled else TURNS, halvings)
    params = _fit(network, train, seed, steps)
    return params, {
        "num_classes": network.num_classes,
        "halvings": network.halvings,
        "channels": network.channels,
        "size": network.size,
        "image_channels": shape[-1],
        "task": "labels" if labelled else "quarter turns",
        "images": "noisy" if dataset.held_out_clean is None else "clean",
        "num_train": len(train.x),
        "held_out_accuracy": _accuracy(network, params, *held_out.all()),
        "seed": seed,
        "steps": steps,
    }


def turned(x: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Square images [N, S, S, C], each by its own number of quarter turns."""
    x = x.copy()
    for quarter in range(1, TURNS):
        x[turns == quarter] = np.rot90(x[turns == quarter], quarter, axes=(1, 2))
    return x


def _task(dataset, part: NoisyImages, labelled: bool) -> _Task:
    """Central squares, if they are to be turned."""
    images, (height, width, _) = dataset.images, dataset.images.shape
    most = MOST_BYTES // (4 * height * width * images.shape[-1])
    chosen = spaced(len(part), max(most, BATCH))
    numbers = part.numbers[chosen]
    if dataset.held_out_clean is None:
        x = part.rows(chosen)["x_tn"]
    else:
        x = np.stack([clean_example(images, int(i)) for i in numbers])
    if labelled:
        return _Task(x, np.array([images.read_label(int(i)) for i in numbers]))
    side = min(height, width)
    return _Task(np.stack([central(image, (side, side)) for image in x]), None)


def _fit(network, task, seed, steps):
    optimizer = optax.adamw(optax.cosine_decay_schedule(LEARNING_RATE, steps), weight_decay=WEIGHT_DECAY)

    def loss(params, x, labels):
        logits, _ = network.apply({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def update(params, state, x, labels):
        changes, state = optimizer.update(jax.grad(loss)(params, x, labels), state, params)
        return optax.apply_updates(params, changes), state

    params = jax.jit(network.init)(jax.random.key(seed), jnp.asarray(task.x[:1]))["params"]
    state = optimizer.init(params)
    for step in tqdm(range(steps), desc="training the classifier", unit=" steps", leave=False):
        params, state = update(params, state, *task.batch(seed, step))
    return jax.device_get(params)


def _accuracy(network, params, x, labels):
    predict = jax.jit(lambda x: jnp.argmax(network.apply({"params": params}, x)[0], axis=-1))
    rows = np.resize(np.arange(len(x)), -(-len(x) // BATCH) * BATCH)  # whole batches: one shape is compiled
    predicted = np.concatenate([predict(x[chosen]) for chosen in rows.reshape(-1, BATCH)])[: len(x)]
    return float(np.mean(predicted == labels))
