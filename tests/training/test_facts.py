import csv
import dataclasses
import json

import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import DataFacts, check_facts
from tweedie_diffusion.training.workdir import open_workdir

SCALING = Scaling((0.0, 1.0), (2.0, 3.5), "uint16", photons=PhotonNoise(1.5, 2.0))
FACTS = DataFacts((4, 4, 2), 0.1 + 0.2, 0.3, 0.3, 0, SCALING, 50, 10, "0123abcd")


def opened(workdir, facts, *, accept_data=False):
    open_workdir(workdir, default_config(), facts, (), accept_data=accept_data, say=print)


@pytest.fixture
def workdir(tmp_path):
    """That of a run with FACTS that has saved a state."""
    opened(tmp_path, FACTS)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    return tmp_path


def without_fingerprint(text):
    return json.dumps({name: value for name, value in json.loads(text).items() if name != "fingerprint"})


def test_facts_are_read_back():
    assert DataFacts.from_json(FACTS.to_json()) == FACTS


def test_facts_of_older_runs_have_no_fingerprint():
    older = DataFacts.from_json(without_fingerprint(FACTS.to_json()))
    assert older == dataclasses.replace(FACTS, fingerprint="")


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({}, []),
        ({"num_train": 40}, ["num_train: 50 -> 40"]),
        ({"fingerprint": "ffff"}, ["fingerprint: 0123abcd -> ffff"]),
        ({"fingerprint": ""}, []),
        ({"shape": (4, 5, 2), "sigma_data": 0.3}, ["shape: [4, 4, 2] -> [4, 5, 2]", f"sigma_data: {0.1 + 0.2} -> 0.3"]),
        ({"scaling": dataclasses.replace(SCALING, dtype="uint8")}, ["scaling.dtype: uint16 -> uint8"]),
    ],
)
def test_the_facts_that_changed_are_named(fields, changed):
    other = dataclasses.replace(FACTS, **fields)
    assert FACTS.difference(other) == changed
    assert bool(other.difference(FACTS)) == bool(changed)


def test_a_run_goes_on_with_the_same_data(workdir):
    before = (workdir / "data.json").read_text()
    opened(workdir, FACTS)
    assert (workdir / "data.json").read_text() == before


def test_the_files_left_out_are_listed_once_for_all(tmp_path):
    left_out = [("a,b.png", "a,b.png is 3×6"), ("c.png", "c.png is CMYK")]
    open_workdir(tmp_path, default_config(), FACTS, left_out, accept_data=False, say=print)
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    opened(tmp_path, FACTS)
    with (tmp_path / "excluded.csv").open(newline="", encoding="utf-8") as file:
        assert [tuple(row) for row in csv.reader(file)] == [("file", "why"), *left_out]


def test_a_run_does_not_go_on_with_other_data_and_is_told_which(workdir):
    other = dataclasses.replace(FACTS, num_train=40, fingerprint="ffff")
    message = (
        r"the data is not what the run in .* began with \(fingerprint: 0123abcd -> ffff, num_train: 50 -> 40\): "
        r"put it back as it was, go on all the same by --accept_data, or choose another --workdir"
    )
    with pytest.raises(InputError, match=message):
        opened(workdir, other)
    opened(workdir, other, accept_data=True)
    assert DataFacts.from_json((workdir / "data.json").read_text()) == other


def test_an_older_run_goes_on(workdir):
    (workdir / "data.json").write_text(without_fingerprint(FACTS.to_json()))
    opened(workdir, FACTS)
    with pytest.raises(InputError, match="num_held_out: 10 -> 11"):
        opened(workdir, dataclasses.replace(FACTS, num_held_out=11))


def test_training_with_classes_hides_some_of_them():
    config = default_config()
    config.model.label_dropout = 0.0
    check_facts(config, FACTS)
    config.model.class_conditional = True
    with pytest.raises(InputError, match="label_dropout=0 hides no class"):
        check_facts(config, FACTS)


@pytest.mark.parametrize("damage", ["", "[]", "{}", None])
def test_facts_that_cannot_be_read_are_one_line(workdir, damage):
    (workdir / "data.json").unlink() if damage is None else (workdir / "data.json").write_text(damage)
    with pytest.raises(InputError, match=r"data.json cannot be read \(.*\): choose another --workdir"):
        opened(workdir, FACTS)
