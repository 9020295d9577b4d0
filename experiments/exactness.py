"""How close each road comes to the exact denoiser below the data's noise.

    python -m experiments.exactness --study=mixture_2d            (or mixture_16d, mixture_64d)
    python -m experiments.exactness --study=digits
    python -m experiments.exactness --study=fashion --data=PATH/fashion_mnist.npz
    python -m experiments.exactness --study=cifar --data=PATH/cifar10.npz
    python -m experiments.exactness --study=robustness

Each row is one training run and one line of the study's table in experiments/README.md. The same command goes on where
it stopped; a row that fails is marked and the others go on.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from absl import flags

from experiments.noises import MISTAKES, Mistake
from experiments.report import provenance, write_report
from experiments.roads import ROADS
from experiments.samples import Classifier, frechet_distance
from experiments.studies import STUDIES, Study
from tweedie_diffusion import program
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import Dataset
from tweedie_diffusion.evaluation.curves import denoising_curve
from tweedie_diffusion.training.config import Config, default_config, flatten
from tweedie_diffusion.training.guard import Diverged
from tweedie_diffusion.training.health import data_warnings
from tweedie_diffusion.training.loop import open_data, train
from tweedie_diffusion.training.trained import TrainedModel, load_run

_STUDY = flags.DEFINE_enum("study", None, sorted(STUDIES), "Which data.", required=True)
_DATA = flags.DEFINE_string("data", "", "The .npz of the images, for fashion and cifar.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/exactness", "Where the runs live.")
_DOCS = flags.DEFINE_string("docs", "experiments", "Where README.md and results/ are.")
_ROADS = flags.DEFINE_list("roads", None, "Names of rows, as in experiments/roads.py; by default those of the study.")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "Each of the weights, the data's noise, the split and the training.")
_SIGMA_TN = flags.DEFINE_list("sigma_tn", None, "The noise of the data; by default every one of the study.")
_STEPS = flags.DEFINE_integer("steps", 0, "Training steps of each row; 0 takes those of the study.")


def study_config(study: Study, seed: int, sigma_tn: float) -> Config:
    """The settings that all rows of a seed share."""
    config = study.config(sigma_tn, _DATA.value)
    config.seed = config.data.noise_seed = config.data.split_seed = seed
    if _STEPS.value:
        config.training.steps = _STEPS.value
    return config


def row_config(study: Study, road: str, seed: int, sigma_tn: float) -> Config:
    """The settings of one row; where its noise is a mistake, before the data are made.

    Those of a term of no weight are the defaults, so that training that sees no noise is the same for every σ_tn.
    """
    config = study_config(study, seed, sigma_tn)
    with config.unlocked():
        config.update_from_flattened_dict(ROADS[road])
        for term in _unused(config):
            config[term].update({**default_config()[term], "weight": 0.0})
    return config


def digest(config: Config) -> str:
    """What tells settings apart, wherever the data lie: those of a term of no weight do not.

    Those that are off are left out, so that a new one tells no earlier row apart.
    """
    unused = _unused(config)
    settings = {
        key: value
        for key, value in flatten(config).items()
        if value and key != "data.source" and key.split(".")[0] not in unused
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def train_row(study: Study, road: str, seed: int, sigma_tn: float, folder: Path) -> dict:
    """Train one row and measure it. What is in `folder` already is not done again.

    Returns:
        road, seed, sigma_tn, status ("done", or why it failed), what made it (settings, commit, hardware, date),
        seconds, and what `measure` found.

    Raises:
        InputError: for a setting that cannot be used, or a row of other settings in `folder`.
    """
    config = row_config(study, road, seed, sigma_tn)
    written = _workdir_of(folder, road, sigma_tn, seed) / "row.json"
    workdir = _workdir_of(folder, road, config.data.sigma_tn, seed)  # clean training serves every σ_tn
    settings = digest(config)
    if written.is_file():
        row = json.loads(written.read_text())
        if row["settings"] != settings:
            raise InputError(f"{written} is of other settings: remove {written.parent}, or use another --workdir")
        return row
    row = {"road": road, "seed": seed, "sigma_tn": sigma_tn, "settings": settings, **provenance()}
    dataset = open_data(study_config(study, seed, sigma_tn).data)
    if road in MISTAKES:
        config.data.update(mistaken_data(MISTAKES[road], dataset, sigma_tn, seed, workdir))
    try:
        train(config, workdir)
    except Diverged as error:
        row |= {"status": str(error).split(":")[0]}
    else:
        row |= {"status": "done", **seconds_of(workdir), **measure(study, dataset, load_run(workdir), sigma_tn, seed)}
        row["warned"] = bool(data_warnings(open_data(config.data)))
    written.parent.mkdir(parents=True, exist_ok=True)
    written.write_text(json.dumps(row, indent=1) + "\n")
    return row


def mistaken_data(mistake: Mistake, dataset: Dataset, sigma_tn: float, seed: int, workdir: Path) -> dict:
    """The settings of data.* for images of a mistaken noise, written beside `workdir`: split as `dataset` is."""
    path = workdir.with_suffix(".npz")
    if not path.is_file():
        workdir.parent.mkdir(parents=True, exist_ok=True)
        part = workdir.with_suffix(".part.npz")  # an interrupted file is not taken for a whole one
        np.savez(part, images=mistake.images(dataset, sigma_tn, seed))
        part.replace(path)
    settings = {"source": str(path), "sigma_tn": mistake.stated * sigma_tn, "noisy_already": True}
    return settings | {"range": (-1.0, 1.0), "image_size": 0}


def earlier_rows(study: Study, path: Path) -> list[dict]:
    """The rows of results/NAME.json, of an earlier run or another machine, that today's settings would make."""
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    known = [row for row in rows if row["road"] in ROADS]
    return [
        row
        for row in known
        if row.get("settings") == digest(row_config(study, row["road"], row["seed"], row["sigma_tn"]))
    ]


def seconds_of(workdir: Path) -> dict:
    """Wall time of training from its log, compilation included, and its steps.

    Fitting the patch mixture counts: it lies between the config of a workdir and the mixture.
    """
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last, seconds = 0, 0.0
    if (workdir / "patch_mixture.npz").is_file():
        seconds += (workdir / "patch_mixture.npz").stat().st_mtime - (workdir / "config.json").stat().st_mtime
    for line in lines:
        if "steps_per_second" in line and line["step"] > last:
            seconds += (line["step"] - last) / line["steps_per_second"]
            last = line["step"]
    return {"seconds": seconds, "steps": last}


def measure(study: Study, dataset: Dataset, model: TrainedModel, sigma_tn: float, split_seed: int) -> dict:
    """The denoising curve below σ_tn on held-out clean data, and the distance of samples from it."""
    x_0 = held_out_clean(dataset, study.num_images)
    sigmas = study.levels(sigma_tn)
    curve = denoising_curve(model.denoise, x_0, sigmas=sigmas, oracle=dataset.images.oracle)
    found = {"curve": {name: values.tolist() for name, values in curve.items()}}
    if study.num_samples:
        classifier = Classifier(dataset, split_seed)
        count = min(study.num_samples, len(x_0))  # as many on both sides: the distance of few is larger
        distance = lambda x: frechet_distance(classifier.features(x), classifier.reference)
        found |= {"distance": distance(model.sample(range(count))), "floor": distance(x_0[:count])}
    return found


def held_out_clean(dataset: Dataset, count: int) -> np.ndarray:
    """Held-out clean images, at most `count`."""
    assert dataset.held_out_clean is not None  # noise is added here, so the clean images are known
    return np.stack([dataset.held_out_clean(i) for i in range(min(count, len(dataset.held_out)))])


def write_predictions(path: Path, dataset: Dataset, model: TrainedModel, sigmas, count: int) -> None:
    """x_0, x, sigma and x0_hat at every level, so that anyone can compute the excess again."""
    x_0 = held_out_clean(dataset, count)
    rng = np.random.default_rng(0)
    x = np.stack([x_0 + sigma * rng.standard_normal(x_0.shape) for sigma in sigmas]).astype(np.float32)
    x0_hat = np.stack([model.denoise_all(level, np.full(len(level), s)) for level, s in zip(x, sigmas, strict=True)])
    np.savez(path, x_0=x_0, x=x, sigma=np.asarray(sigmas), x0_hat=x0_hat)


def run_study(study: Study) -> None:
    """All rows, then the report; the last line says how far the target is."""
    roads = _ROADS.value or study.roads
    for road in roads:
        if road not in ROADS:
            raise InputError(f"--roads: there is no {road!r}: use names of experiments/roads.py")
    folder = Path(_WORKDIR.value) / _STUDY.value
    for seed in map(int, _SEEDS.value):
        for sigma_tn in map(float, _SIGMA_TN.value or study.sigma_tn):
            for road in roads:
                print(f"{road}, σ_tn = {sigma_tn:g}, seed {seed}", flush=True)
                train_row(study, road, seed, sigma_tn, folder)
    if study.oracle and "default" in roads:
        sigma_tn, seed = study.sigma_tn[0], int(_SEEDS.value[0])
        dataset = open_data(study_config(study, seed, sigma_tn).data)
        model = load_run(_workdir_of(folder, "default", sigma_tn, seed))
        write_predictions(folder / "predictions.npz", dataset, model, study.levels(sigma_tn), study.num_images)
    shown = [a for a in sys.argv[1:] if not a.startswith(("--data", "--docs", "--workdir"))]  # paths are this machine's
    command = " ".join(["python -m experiments.exactness", *shown])
    about = {"command": command, **provenance()}
    docs = Path(_DOCS.value)
    earlier = earlier_rows(study, docs / "results" / f"{_STUDY.value}.json")
    here = [json.loads(path.read_text()) for path in sorted(folder.rglob("row.json"))]
    rows = {(row["sigma_tn"], row["seed"], row["road"]): row for row in [*earlier, *here]}
    print(write_report(docs, _STUDY.value, study, [rows[key] for key in sorted(rows)], about))


def _unused(config):
    """The terms of no weight."""
    return [term for term in ("consistency", "refresh") if not config[term].weight]


def _workdir_of(folder, road, sigma_tn, seed):
    slug = "".join(c if c.isalnum() else "_" for c in road)
    return folder / f"sigma_{sigma_tn:g}" / f"seed_{seed}" / slug


def main(arguments: list[str]) -> None:
    """Run the study of --study."""
    run_study(STUDIES[_STUDY.value])


if __name__ == "__main__":
    program.run(main)
