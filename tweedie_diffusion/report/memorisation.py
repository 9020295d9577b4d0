"""What trained runs have learned by heart: how near their samples come to training images, and two attacks."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.sources import spaced
from tweedie_diffusion.diffusion.noise_levels import karras_sigmas
from tweedie_diffusion.evaluation.attacks import (
    from_noise,
    given_the_rest,
    hidden_likeness,
    hidden_part,
    inpaint,
    likeness,
    row_keys,
)
from tweedie_diffusion.evaluation.features import FeatureSet
from tweedie_diffusion.evaluation.memorisation import (
    centred_pixels,
    copied,
    membership,
    nearest_of_ways,
    similarity_table,
)
from tweedie_diffusion.report.originals import Originals, Part, Run
from tweedie_diffusion.training.trained import BATCH, TrainedModel

MEAN, SAMPLE, MASK = "posterior mean, from noise", "posterior sample, from noise", "hidden part, from the rest"
PAIRS = 12  # closest ones that are kept


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is done with every run.

    Attributes:
        attacked: training images that are attacked, and held-out ones, at most.
        sigmas: levels of the attack from noise.
        mask_sigmas: noise of what the attack with a mask leaves of an image.
        hidden: the share of it that is hidden.
        mask_steps: levels of the reverse process of that attack.
        thresholds: of similarity.
        seed: of all noise.
    """

    attacked: int = 128
    sigmas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    mask_sigmas: tuple[float, ...] = (0.0, 0.5, 1.0)
    hidden: float = 0.5
    mask_steps: int = 18
    thresholds: tuple[float, ...] = (0.9, 0.95, 0.99)
    seed: int = 0


class Reference:
    """The training images, as samples are compared with them.

    Attributes:
        originals: what was learned, or not.
        features: what images are compared by.
    """

    def __init__(self, originals: Originals, features: FeatureSet | None = None):
        """By default images are compared by `centred_pixels`."""
        self.originals = originals
        self.features = features or centred_pixels(originals.train.x_0)

    def nearness(self, images: np.ndarray, plan: Plan) -> dict:
        """How near images [N, ...] come to training images.

        Returns:
            similarities [N] to the nearest; table, of `similarity_table`; copies, the share of `copied`; pairs, the
            closest: number and image of each, number and image of the training image, similarity.
        """
        x_0 = self.originals.train.x_0
        seen = [lambda rows, way=way: self.features(way(x_0[rows])) for way in self.originals.ways()]
        found = nearest_of_ways(self.features(images), seen, len(x_0), k={"cosine": 1, "euclidean": 2})
        numbers, similarities = (v[:, 0] for v in found["cosine"])
        closest = np.argsort(-similarities, kind="stable")[:PAIRS]
        return {
            "similarities": similarities,
            "table": similarity_table(similarities, plan.thresholds),
            "copies": float(np.mean(copied(found["euclidean"][1]))),
            "pairs": {
                "number": closest,
                "image": images[closest],
                "train_number": numbers[closest],
                "train_image": x_0[numbers[closest]],
                "similarity": similarities[closest],
            },
        }


def check_hidden(runs: Sequence[Run], plan: Plan) -> None:
    """That the mask hides something of an image of these runs, and leaves something.

    Raises:
        InputError: if it does not.
    """
    for run in runs:
        shape = run.model.facts.shape
        try:
            hidden_part(shape, plan.hidden)
        except ValueError as error:
            least = 1 / shape[0]
            raise InputError(f"{error}: take a share from {least:.3g} to {1 - least:.3g}") from error


def check_samples(run: str, samples: np.ndarray) -> None:
    """That samples [N, ...] are numbers.

    Raises:
        InputError: if some are not.
    """
    bad = int(np.sum(~np.isfinite(samples).reshape(len(samples), -1).all(axis=1)))
    if bad:
        raise InputError(
            f"{bad} of {len(samples)} samples of {run} hold NaN or infinity: the model diverged; use an earlier "
            "checkpoint"
        )


def attack(run: Run, reference: Reference, plan: Plan, progress: Callable = lambda cells: cells) -> list[dict]:
    """Both attacks on a run, at every level above the noise of the images they start from.

    Args:
        run: attacked.
        reference: its images.
        plan: of the attacks.
        progress: passes on what is iterated over.

    Returns:
        For each attack and level: attack, sigma, and all of `membership` of the likeness of what it found with the
        image it was to find, training against held-out images.

    Raises:
        InputError: if an attack gives what is no number.
    """
    parts = reference.originals.train, reference.originals.held_out
    train, held_out = (part.at(spaced(len(part.x_0), plan.attacked)) for part in parts)
    both = Part(*(np.concatenate(pair) for pair in zip(_arrays(train), _arrays(held_out), strict=True)))
    scores = _from_noise(run.model, both, reference.features, plan) | _behind_mask(run.model, both, reference, plan)
    found = []
    for (name, sigma), score in progress(list(scores.items())):
        likenesses = score()
        if not np.isfinite(likenesses).all():
            raise InputError(
                f"the attack on {run.name} ({name}, σ = {sigma:g}) gave NaN or infinity: the model diverged; use an "
                "earlier checkpoint"
            )
        count = len(train.x_0)
        found.append({"attack": name, "sigma": sigma} | membership(likenesses[:count], likenesses[count:]))
    return found


def _arrays(part: Part) -> Sequence[np.ndarray]:
    return part.x_0, part.x_s, part.sigma_s


def _from_noise(model: TrainedModel, part: Part, features: FeatureSet, plan: Plan) -> dict:
    """{(attack, level): function that gives the likenesses} of attack 1."""
    sample = lambda x_t, sigma: model.posterior_sample(x_t, sigma, 0, seed=plan.seed)

    def score(attacked, sigma):
        found = from_noise(attacked, part.x_s, sigma_t=sigma, sigma_s=part.sigma_s, seed=plan.seed)
        return likeness(found, part.x_0, features)

    sigmas = [sigma for sigma in plan.sigmas if sigma > part.sigma_s.max()]
    ways = {MEAN: model.denoise_all, SAMPLE: sample}
    return {(name, s): (lambda way=way, s=s: score(way, s)) for name, way in ways.items() for s in sigmas}


def _behind_mask(model: TrainedModel, part: Part, reference: Reference, plan: Plan) -> dict:
    """The same of attack 2: what is hidden is looked for in pixels, whatever the features are."""
    hidden = hidden_part(part.x_0.shape[1:], plan.hidden)
    x_train = reference.originals.train.x_0
    mean, limit = x_train.mean(axis=0), float(np.abs(x_train).max())
    keys = row_keys(plan.seed, "attack from behind a mask", np.arange(len(part.x_0)))
    sampling = model.config.sampling
    sigmas = karras_sigmas(plan.mask_steps, sigma_min=sampling.sigma_min, sigma_max=sampling.sigma_max)

    @jax.jit
    def given(params, x_s, sigma_s, x_t, sigma):
        denoise, mask = model.make_denoise(params), jnp.asarray(hidden)
        return given_the_rest(denoise, x_s, mask, sigma_s=sigma_s, limit=limit)(x_t, sigma)

    def score(sigma_s):
        x_s = from_noise(lambda x_t, _: x_t, part.x_s, sigma_t=sigma_s, sigma_s=part.sigma_s, seed=plan.seed)
        found = []
        for first in range(0, len(x_s), BATCH):
            rows = np.minimum(np.arange(first, first + BATCH), len(x_s) - 1)  # the last again, to keep one shape
            of_rows = functools.partial(given, model.params, x_s[rows], jnp.float32(sigma_s))
            painted = inpaint(keys[rows], of_rows, jnp.asarray(x_s[rows]), jnp.asarray(hidden), sigmas, sigma_s=sigma_s)
            found.append(np.asarray(painted)[: len(x_s) - first])
        return hidden_likeness(np.concatenate(found), part.x_0, hidden, mean)

    levels = sorted({max(float(part.sigma_s.max()), sigma) for sigma in plan.mask_sigmas})
    return {(MASK, sigma): (lambda sigma=sigma: score(sigma)) for sigma in levels}


def measure(
    runs: Sequence[Run],
    reference: Reference,
    samples: Sequence[np.ndarray],
    plan: Plan,
    progress: Callable = lambda cells: cells,
) -> dict:
    """All of it, for runs of the same images.

    Args:
        runs: of `open_runs`.
        reference: of the originals they share.
        samples: [N, ...] of each run.
        plan: what is done.
        progress: of `attack`.

    Returns:
        about: features, denoised, squares (of larger images), how many images there are, and the plan; floor, of
        `nearness` of held-out images; and for each run trained_on, samples (of `nearness`) and attacks.

    Raises:
        InputError: if samples, or what an attack gives, are no numbers.
    """
    for run, drawn in zip(runs, samples, strict=True):
        check_samples(run.name, drawn)
    originals = reference.originals
    about = {
        "features": reference.features.name,
        "denoised": originals.denoised,
        "squares": any(run.dataset.images.cropped for run in runs),
        "num_train": len(originals.train.x_0),
        "attacked": min(plan.attacked, len(originals.train.x_0)),
        "attacked_held_out": min(plan.attacked, len(originals.held_out.x_0)),
        **{name: value for name, value in dataclasses.asdict(plan).items() if name != "attacked"},
    }
    found = {"about": about, "floor": reference.nearness(originals.held_out.x_0, plan), "runs": {}}
    for run, drawn in zip(runs, samples, strict=True):
        found["runs"][run.name] = {
            "trained_on": run.trained_on,
            "samples": reference.nearness(drawn, plan),
            "attacks": attack(run, reference, plan, progress),
        }
    return found
