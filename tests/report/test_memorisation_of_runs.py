import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import in_memory
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser, mixture_denoiser
from tweedie_diffusion.report.memorisation import MASK, MEAN, SAMPLE, Plan, Reference, attack, check_hidden, measure
from tweedie_diffusion.report.memorisation_page import in_markdown, in_words, table_of, write_found
from tweedie_diffusion.report.originals import Run, open_runs, originals_of
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.trained import TrainedModel

STORED = np.random.default_rng(0).uniform(-1, 1, (60, 4, 4, 1)).astype(np.float32)
PLAN = Plan(attacked=30, sigmas=(0.2, 0.6), mask_sigmas=(0.0,), mask_steps=12)


def run_of(name, sigma_tn=0.0, *, learn=False, present=False, split_seed=0, stored=STORED):
    """A run whose model is exact: of its clean training images, or of the uniform law's two moments."""
    dataset = open_dataset(
        in_memory(stored, Scaling(-1, 1, "float32")),
        NoiseModel(sigma_tn, present),
        held_out=0.5,
        split_seed=split_seed,
    )
    config = default_config()
    config.sampling.num_steps = 6
    config.sampling.sigma_max = 10.0
    by_heart = clean_of(dataset, dataset.train)
    make = (
        (lambda params, **_: mixture_denoiser(params["ones"], params["x"], 1e-4 * params["ones"]))
        if learn
        else (lambda params, **_: gaussian_denoiser(0.0, 1 / 3))
    )
    params = {"x": jnp.asarray(by_heart), "ones": jnp.ones(len(by_heart))}
    return Run(name, TrainedModel(config, facts_of(dataset), make, params), dataset)


def clean_of(dataset, noisy):
    return STORED[noisy.rows(np.arange(len(noisy)))["index"]]


@pytest.fixture(scope="module")
def runs():
    return [run_of("by heart", learn=True), run_of("general", 0.3)]


@pytest.fixture(scope="module")
def found(runs):
    reference = Reference(originals_of(runs))
    return measure(runs, reference, [run.model.sample(range(20)) for run in runs], PLAN)


def test_originals_are_the_clean_images_of_either_part(runs):
    originals = originals_of(runs)
    dataset = runs[1].dataset
    assert np.array_equal(originals.train.x_0, clean_of(dataset, dataset.train))
    assert np.array_equal(originals.held_out.x_0, clean_of(dataset, dataset.held_out))
    assert not originals.denoised
    assert not originals.train.sigma_s.any()


def test_where_no_clean_images_are_known_posterior_means_stand_for_them():
    run = run_of("noisy already", 0.3, present=True)
    originals = originals_of([run])
    gain = (1 / 3) / (1 / 3 + 0.3**2)
    assert originals.denoised
    assert originals.train.x_0 == pytest.approx(gain * clean_of(run.dataset, run.dataset.train), abs=1e-5)
    results = attack(run, Reference(originals), PLAN)
    assert [r["attack"] for r in results] == [MEAN, SAMPLE, MASK]
    assert [r["sigma"] for r in results] == pytest.approx([0.6, 0.6, 0.3])  # never below what they are known through


def test_of_larger_images_the_central_squares_are_meant():
    larger = np.random.default_rng(1).uniform(-1, 1, (20, 7, 6, 1)).astype(np.float32)
    images = dataclasses.replace(in_memory(larger, Scaling(-1, 1, "float32")), shape=(4, 4, 1), cropped=True)
    dataset = open_dataset(images, NoiseModel(0.0), held_out=0.5, split_seed=0)
    originals = originals_of([dataclasses.replace(run_of("squares"), dataset=dataset)])
    assert np.array_equal(originals.train.x_0, dataset.train.rows(np.arange(10))["x_tn"])


@pytest.mark.parametrize("other", [{"split_seed": 1}, {"stored": STORED[::-1]}, {"present": True}])
def test_runs_of_other_images_are_not_compared(runs, other):
    with pytest.raises(InputError, match="general and by heart were trained on other images"):
        originals_of([runs[0], run_of("general", 0.3, **other)])


def test_a_run_named_twice_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="one is named twice"):
        open_runs(["one", "other", str(tmp_path / "one")])


@pytest.mark.parametrize("hidden", [0.05, 0.95])
def test_a_mask_that_hides_nothing_or_all_is_refused(runs, hidden):
    with pytest.raises(InputError, match=r"hides (0|16) of the 16 .*: take a share from 0\.25 to 0\.75"):
        check_hidden(runs, dataclasses.replace(PLAN, hidden=hidden))
    for allowed in (0.25, 0.75):
        check_hidden(runs, dataclasses.replace(PLAN, hidden=allowed))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_of_a_diverged_model_are_refused(runs, value):
    samples = np.zeros((5, 4, 4, 1), np.float32)
    samples[1:3, 0] = value
    with pytest.raises(InputError, match=r"^2 of 5 samples of general hold NaN .*: the model diverged"):
        measure(runs, Reference(originals_of(runs)), [np.zeros_like(samples), samples], PLAN)


def test_an_attack_on_a_diverged_model_is_refused():
    run = run_of("diverged")
    of_nan = dataclasses.replace(run.model, make_denoise=lambda params, **_: lambda x_t, sigma: x_t * np.nan)
    with pytest.raises(InputError, match=r"the attack on diverged \(posterior mean, .* gave NaN"):
        attack(dataclasses.replace(run, model=of_nan), Reference(originals_of([run])), PLAN)


def test_numbers_are_such_as_json_has(found, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_found(tmp_path / "numbers.json", found | {"floor": {"similarities": np.array([np.nan])}})


def test_samples_of_what_was_learned_by_heart_are_copies(found):
    by_heart, general = (found["runs"][name]["samples"] for name in ("by heart", "general"))
    assert by_heart["copies"] == 1
    assert by_heart["table"]["share"][0] == 1
    assert general["copies"] == 0
    assert general["table"]["mean"] < found["floor"]["table"]["mean"] + 0.1
    pairs = by_heart["pairs"]
    assert pairs["train_image"] == pytest.approx(pairs["image"], abs=0.1)
    assert (np.diff(pairs["similarity"]) <= 0).all()


def test_attacks_tell_training_images_of_the_model_that_knows_them(found):
    auc = {name: np.array([r["auc"] for r in run["attacks"]]) for name, run in found["runs"].items()}
    assert (auc["by heart"] > 0.8).all()
    assert (auc["by heart"][[0, 2]] > 0.95).all()
    assert auc["by heart"][4] > 0.9  # half of 16 pixels tells less
    assert (np.abs(auc["general"] - 0.5) < 0.3).all()
    names = [r["attack"] for r in found["runs"]["general"]["attacks"]]
    assert names == [MEAN, MEAN, SAMPLE, SAMPLE, MASK]


def test_mirrored_and_turned_images_are_training_images_too(runs):
    plain = originals_of(runs)
    both_ways = dataclasses.replace(plain, mirrored=True, turned=True)
    seen = np.rot90(plain.train.x_0[3:4, :, ::-1], 1, axes=(1, 2))
    assert Reference(plain).nearness(seen, PLAN)["similarities"] < 0.9
    nearness = Reference(both_ways).nearness(seen, PLAN)
    assert nearness["similarities"] == pytest.approx(1)
    assert nearness["pairs"]["train_number"] == 3
    symmetric = dataclasses.replace(plain, mirrored=True)
    symmetric.train.x_0[...] = plain.train.x_0 + plain.train.x_0[:, :, ::-1]  # as near to itself mirrored
    assert Reference(symmetric).nearness(symmetric.train.x_0[:1] + 0.01, PLAN)["copies"] == 1


def test_the_table_has_the_floor_beside_every_run(found):
    rows = table_of(found)
    assert rows[0] == ["", "held-out images", "by heart", "general"]
    assert rows[1] == ["trained on", "", "clean images", "σ_tn = 0.3"]
    assert rows[2] == ["images compared", "30", "20", "20"]
    shares = dict(zip(rows[0][1:], next(row for row in rows if row[0] == "more similar than 0.95")[1:], strict=True))
    assert shares == {"held-out images": "0 of 30", "by heart": "20 of 20", "general": "0 of 20"}
    assert {len(row) for row in rows} == {4}
    assert in_markdown(rows).count("\n") == len(rows)
    assert "nearest of 30 clean training images" in in_words(found)


def test_what_is_written(found, tmp_path):
    for name in ("page.html", "picture.png", "numbers.json"):
        write_found(tmp_path / name, found)
    page = (tmp_path / "page.html").read_text()
    assert page.count("<tr>") == len(table_of(found))
    assert "data:image/png;base64," in page
    assert "Content-Security-Policy" in page
    assert "prefers-color-scheme: dark" in page
    assert "<script" not in page
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["runs"]["by heart"]["attacks"] == found["runs"]["by heart"]["attacks"]
    assert len(numbers["floor"]["similarities"]) == 30
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
