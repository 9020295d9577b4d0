import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tweedie_diffusion
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.sharing import export as module
from tweedie_diffusion.sharing.export import export
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.exported import WEIGHTS, is_export
from tweedie_diffusion.training.step import first_buffer, init_state, make_optimizer
from tweedie_diffusion.training.trained import digest, load_run


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "digits"
    export(run, folder, licence="cc-by-4.0")
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_exported_model_denoises_to_the_same_bits(run, exported, x_t):
    before, after = load_run(run), load_run(exported)
    assert np.array_equal(before.denoise(x_t, 0.3), after.denoise(x_t, 0.3))
    assert np.array_equal(before.denoise(x_t, 0.3), tweedie_diffusion.load(exported)(x_t, 0.3))
    assert jax.tree.structure(before.params) == jax.tree.structure(after.params)
    assert before.facts == after.facts
    assert is_export(exported)
    assert not is_export(run)


def test_the_same_model_gives_the_same_bytes(run, exported, tmp_path):
    export(run, tmp_path / "digits", licence="cc-by-4.0")
    export(exported, tmp_path / "again" / "digits", licence="cc-by-4.0")  # an export can be exported
    assert contents(tmp_path / "digits") == contents(exported) == contents(tmp_path / "again" / "digits")


def test_weights_are_plain_named_tensors(exported):
    from safetensors.numpy import load_file

    names = set(load_file(exported / WEIGHTS))
    assert {"params/conv_in/kernel", "params/down_0_0/norm_in/scale", "patch_mixture/means"} <= names


def test_where_the_data_lay_is_not_told(exported):
    assert json.loads((exported / "config.json").read_text())["data.source"] == "*.png"
    assert json.loads((exported / "evaluation.json").read_text())["about"]["workdir"] == "runs"
    assert not any(
        b"somewhere" in content or str(exported).encode() in content for content in contents(exported).values()
    )


@pytest.fixture
def scored(run, tmp_path):
    """The run with a later checkpoint of other weights, and a score that is a little worse."""
    workdir, model = shutil.copytree(run, tmp_path / "scored"), load_run(run)
    params = jax.tree.map(lambda leaf: leaf / 2, model.params)
    config = model.config
    state = init_state(params, make_optimizer(config.training), first_buffer(config.refresh, model.facts.shape))
    with Checkpoints(workdir, keep=3) as checkpoints:
        checkpoints.score(0, 1.0)
        checkpoints.save(dataclasses.replace(state, step=jnp.int32(1)))
        checkpoints.score(1, 1.05)
    numbers = json.loads((workdir / "evaluation.json").read_text())
    numbers["about"]["model"] = digest(load_run(workdir))
    (workdir / "evaluation.json").write_text(json.dumps(numbers))
    return workdir


def test_of_another_checkpoint_than_was_measured_no_numbers_are_told(scored, tmp_path):
    export(scored, tmp_path / "usual")
    assert {"evaluation.json", "denoising_curve.json"} <= contents(tmp_path / "usual").keys()
    export(scored, tmp_path / "best", best=True)
    assert not {"evaluation.json", "denoising_curve.json"} & contents(tmp_path / "best").keys()


def test_numbers_of_another_model_are_left_behind(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    numbers = json.loads((workdir / "evaluation.json").read_text())
    numbers["about"]["model"] = "0123456789abcdef"
    (workdir / "evaluation.json").write_text(json.dumps(numbers))
    export(workdir, tmp_path / "out")
    assert "evaluation.json" not in contents(tmp_path / "out")
    assert "denoising_curve.json" in contents(tmp_path / "out")


def test_places_are_cut_to_names_whatever_they_begin_with():
    about = {
        "workdir": "runs/secret/digits",
        "data": "C:\\Users\\me\\scans",
        "reference": "a/b.npz",
        "n": {"reference": 3},
    }
    found = module._names_alone({"about": about, "note": "D:/me/x", "ratio": "a/b"})
    assert found["about"] == {"workdir": "digits", "data": "scans", "reference": "b.npz", "n": {"reference": 3}}
    assert (found["note"], found["ratio"]) == ("x", "a/b")


def test_a_folder_with_a_config_alone_is_told_as_it_is(run, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"holds config.json, which is of no export"):
        export(run, tmp_path)


def test_a_licence_and_best_are_looked_at_before_weights(exported, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds one set of weights, and no checkpoints"):
        export(exported, tmp_path / "out", best=True)
    monkeypatch.setattr(module, "load_folder", lambda *_, **__: pytest.fail("weights were read"))
    with pytest.raises(InputError, match="is no identifier"):
        export(exported, tmp_path / "out", licence="My own")


def test_an_export_replaces_an_older_one_and_nothing_else(run, copy, tmp_path):
    old = (copy / "data.json").read_bytes()
    (copy / "data.json").write_text("{}")
    export(run, copy)
    assert (copy / "data.json").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds notes.txt, which is of no export: choose another folder"):
        export(run, copy)
    with pytest.raises(InputError, match=r"holds checkpoints, which is of no export"):
        export(run, run)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file: name a folder"):
        export(run, tmp_path / "file")


def test_a_card_that_was_edited_is_left(run, copy):
    card = copy / "README.md"
    card.write_text(card.read_text().replace("## Use", "## How we use it"))
    with pytest.raises(InputError, match=r"README.md was edited since it was written"):
        export(run, copy)


def full(*_):
    raise OSError(28, "No space left on device")


def test_what_fails_leaves_the_older_export_as_it_was(run, copy, tmp_path, monkeypatch):
    before, rename = contents(copy), Path.rename
    for name in (".copy.part", "copy"):
        fails = lambda path, to, name=name: full() if path.name == name else rename(path, to)
        monkeypatch.setattr(Path, "rename", fails)
        with pytest.raises(OSError, match="No space left"):
            export(run, copy)
        assert contents(copy) == before
        assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_crash_between_the_renames_loses_nothing(run, copy, tmp_path, monkeypatch):
    before = contents(copy)
    copy.rename(tmp_path / ".copy.old")
    (tmp_path / ".copy.part").mkdir()
    monkeypatch.setattr(module, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        export(run, copy)
    assert contents(copy) == before
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_damaged_export_is_told_in_a_line(copy):
    data = bytearray((copy / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (copy / WEIGHTS).write_bytes(data)
    with pytest.raises(InputError, match=r"model.safetensors is not what was written, its SHA-256 differs"):
        load_run(copy)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("model.channels", 16, r"has params/\S+ as float32 \[.+\], not float32 \[.+\]: it is not of the"),
        ("model.blocks_per_resolution", 2, r"lacks params/down_0_1/conv_in/bias"),
        ("model.patch_components", 0, r"has params/conv_in/kernel as float32"),
        ("model.blocks_per_resolution", 10**9, "is 1000000000, and no model has more than 128"),
        ("model.channel_multipliers", [1] * 100, "has 100 entries, and no model has more than 32"),
        pytest.param("model.sigma_data", 10**400, "cannot be read", id="huge"),
        ("model.network", "vit", "model.network must be one of"),
    ],
)
def test_another_network_is_told_in_a_line(copy, key, value, told):
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(settings | {key: value}))
    with pytest.raises(InputError, match=told):
        load_run(copy)


def test_nesting_without_end_is_told_in_a_line(copy):
    (copy / "data.json").write_text("[" * 10**5)
    with pytest.raises(InputError, match=r"data.json of .* cannot be read"):
        load_run(copy)


@pytest.mark.parametrize("name", ["config.json", "data.json", WEIGHTS])
def test_a_missing_file_is_told_in_a_line(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=r"config.json|data.json|nor weights that were exported"):
        load_run(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("shape", [4, 4, 0]),
        ("shape", [4, "4", 1]),
        ("shape", [4, 4]),
        ("sigma_data", -1),
        ("sigma_tn_max", float("nan")),
        pytest.param("sigma_data", 10**400, id="huge"),
        ("shape", [2**15, 2**15, 1]),
        ("scaling", {"low": 0, "high": 16, "dtype": "object"}),
        ("scaling", {"low": 0, "high": 16, "dtype": "M8[s]"}),
        ("scaling", {"low": 16, "high": 16, "dtype": "uint8"}),
        ("scaling", {"low": 0, "high": float("inf"), "dtype": "uint8"}),
        ("scaling", {"low": [0, 0], "high": 16, "dtype": "uint8"}),
    ],
)
def test_impossible_data_is_told_in_a_line(copy, key, value):
    facts = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps(facts | {key: value}))
    with pytest.raises(InputError, match=r"data.json of .* cannot be read"):
        load_run(copy)


def test_measurements_that_cannot_be_read_are_told(exported, tmp_path):
    damaged = shutil.copytree(exported, tmp_path / "damaged")
    (damaged / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation.json cannot be read .*: remove it, or make it again"):
        export(damaged, tmp_path / "out")
