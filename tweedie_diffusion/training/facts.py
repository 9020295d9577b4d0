"""What a run knows of its data: enough to build its model and to hand images back in their own range."""

import dataclasses
import json

import numpy as np

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training.config import Config

MOST = 1e30  # of a level, in [-1, 1]: no more is left of it in float32


@dataclasses.dataclass(frozen=True)
class DataFacts:
    """Saved beside the weights.

    Attributes:
        shape: of one example.
        sigma_data: standard deviation of the clean data in [-1, 1] units, estimated from noisy data.
        sigma_tn_min, sigma_tn_max: lowest and highest noise of the training examples.
        num_classes: 0 without labels.
        scaling: from the data's own range to [-1, 1].
        num_train, num_held_out: examples.
        fingerprint: of all images; empty if it is not known, as of runs that are older than it.
    """

    shape: tuple[int, ...]
    sigma_data: float
    sigma_tn_min: float
    sigma_tn_max: float
    num_classes: int
    scaling: Scaling
    num_train: int
    num_held_out: int
    fingerprint: str = ""

    def to_json(self) -> str:
        """As JSON, one field a line."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"

    @staticmethod
    def from_json(text: str) -> "DataFacts":
        """What `to_json` wrote."""
        fields = json.loads(text)
        return DataFacts(**fields | {"shape": tuple(fields["shape"]), "scaling": Scaling.from_dict(fields["scaling"])})

    def check(self) -> None:
        """Raise ValueError for what no data has, as in a file of others."""
        whole = (*self.shape, self.num_classes)
        if not all(isinstance(n, int) and 0 <= n < 2**31 for n in whole) or len(self.shape) not in (1, 3):
            raise ValueError(f"its shape {list(self.shape)} or num_classes {self.num_classes!r} is none")
        low, high = self.sigma_tn_min, self.sigma_tn_max
        numbers = all(isinstance(level, int | float) for level in (low, high, self.sigma_data))
        if not (numbers and 0 < self.sigma_data < MOST and 0 <= low <= high < MOST and all(self.shape)):
            raise ValueError(f"its sigma_data {self.sigma_data!r}, noise {low!r} to {high!r}, or shape is none")
        _check_scaling(self.scaling, self.shape)

    def difference(self, other: "DataFacts") -> list[str]:
        """What other facts state otherwise, as `name: this -> that`; a fingerprint only where both have one."""
        before, after = (_flat(json.loads(facts.to_json())) for facts in (self, other))
        if not (self.fingerprint and other.fingerprint):
            before["fingerprint"] = after["fingerprint"]
        names = before.keys() | after.keys()
        changed = sorted(name for name in names if before.get(name) != after.get(name))
        return [f"{name}: {before.get(name)} -> {after.get(name)}" for name in changed]


def _check_scaling(scaling: Scaling, shape: tuple[int, ...]) -> None:
    """Raise ValueError if the ends are no increasing numbers, of all channels or each, or the dtype holds no images."""
    low, high = (np.asarray(end, np.float64) for end in (scaling.low, scaling.high))
    if any(end.shape not in ((), shape[-1:]) for end in (low, high)):
        raise ValueError(f"its scaling is of {np.size(low)} and {np.size(high)} channels")
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise ValueError(f"its scaling from {scaling.low!r} to {scaling.high!r} is none")
    if not isinstance(scaling.dtype, str) or np.dtype(scaling.dtype).kind not in "uif":
        raise ValueError(f"its scaling has the dtype {scaling.dtype!r}")


def _flat(fields: dict) -> dict:
    """With the fields of the scaling beside the others."""
    scaling = {f"scaling.{name}": value for name, value in fields["scaling"].items()}
    return {name: value for name, value in fields.items() if name != "scaling"} | scaling


def facts_of(dataset: Dataset) -> DataFacts:
    """The facts of an opened data set."""
    levels = dataset.train.sigma_tn
    return DataFacts(
        shape=tuple(dataset.images.shape),
        sigma_data=dataset.sigma_data,
        sigma_tn_min=float(levels.min()),
        sigma_tn_max=float(levels.max()),
        num_classes=dataset.images.num_classes,
        scaling=dataset.images.scaling,
        num_train=len(dataset.train),
        num_held_out=len(dataset.held_out),
        fingerprint=dataset.images.fingerprint(),
    )


def check_facts(config: Config, facts: DataFacts) -> None:
    """Raise InputError if settings ask for what the data is not."""
    if config.data.flip and len(facts.shape) != 3:
        raise InputError("data.flip mirrors images, and the data is vectors: set it to False")
    if config.data.turn and (len(facts.shape) != 3 or facts.shape[0] != facts.shape[1]):
        raise InputError("data.turn needs square images: set it to False, or data.crop")
    if config.model.class_conditional and not config.model.label_dropout:
        raise InputError(
            "model.label_dropout=0 hides no class, and much asks for images without one: set it to 0.1, "
            "or model.class_conditional=False"
        )
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
