import shutil
import sys
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from tests.sharing.conftest import small_unet, write_run
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.sharing.export import export
from tweedie_diffusion.sharing.hub import push
from tweedie_diffusion.training.hub import local
from tweedie_diffusion.training.trained import load_run


class FakeHub:
    """The few calls that are used, on a folder; what was asked is in `asked`."""

    def __init__(self, folder):
        self.folder, self.asked = folder, []

    def create_repo(self, name, **options):
        self.asked.append((name, options))
        (self.folder / name).mkdir(parents=True, exist_ok=True)

    def list_repo_files(self, name):
        return [path.name for path in (self.folder / name).iterdir()]

    def hf_hub_download(self, name, file):
        return str(self.folder / name / file)

    def upload_folder(self, *, repo_id, folder_path, allow_patterns, delete_patterns, commit_message):
        for name in delete_patterns:
            (self.folder / repo_id / name).unlink(missing_ok=True)
        for path in [path for path in Path(folder_path).iterdir() if path.name in allow_patterns]:
            shutil.copy(path, self.folder / repo_id)
        return type("Info", (), {"oid": "c0ffee"})

    def snapshot_download(self, name, *, revision, allow_patterns):
        self.asked.append((name, revision))
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def test_a_model_goes_to_the_hub_and_comes_back(run, hub, x_t, tmp_path):
    export(run, tmp_path / "digits", name="hub:me/digits")
    assert push(tmp_path / "digits", "hub:me/digits") == "hub:me/digits@c0ffee"
    assert hub.asked == [("me/digits", {"private": True, "exist_ok": True})]
    model = load_run("hub:me/digits@c0ffee")
    assert hub.asked[1:] == [("me/digits", "c0ffee")]
    assert np.array_equal(model.denoise(x_t, 0.3), load_run(run).denoise(x_t, 0.3))
    push(tmp_path / "digits", "hub:me/digits")  # a newer one takes its place


def test_what_came_with_the_weights_is_checked_and_checkpoints_are_not_read(run, hub, x_t, tmp_path):
    export(run, tmp_path / "digits", name="hub:me/digits")
    push(tmp_path / "digits", "hub:me/digits")
    there = hub.folder / "me" / "digits"
    shutil.copytree(
        write_run(tmp_path / "other", small_unet(), load_run(run).facts, seed=1) / "checkpoints", there / "checkpoints"
    )
    assert np.array_equal(load_run("hub:me/digits").denoise(x_t, 0.3), load_run(run).denoise(x_t, 0.3))
    with pytest.raises(InputError, match=r"hub:me/digits holds one set of weights"):
        load_run("hub:me/digits", best=True)
    (there / "data.json").write_text((there / "data.json").read_text().replace('"uint8"', '"object"'))
    with pytest.raises(InputError, match=r"data.json of hub:me/digits cannot be read \(its scaling"):
        load_run("hub:me/digits")
    (there / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors in hub:me/digits"):
        load_run("hub:me/digits")


def test_what_else_is_on_the_hub_is_left(hub, tmp_path):
    (hub.folder / "me" / "gpt").mkdir(parents=True)
    (hub.folder / "me" / "gpt" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"hub:me/gpt holds tokenizer.json, which is of no export"):
        push(tmp_path, "hub:me/gpt")


def test_numbers_of_an_older_model_leave_the_hub(run, hub, tmp_path):
    export(run, tmp_path / "digits")
    push(tmp_path / "digits", "hub:me/digits")
    there = hub.folder / "me" / "digits"
    assert (there / "evaluation.json").is_file()
    (tmp_path / "digits" / "evaluation.json").unlink()
    push(tmp_path / "digits", "hub:me/digits")
    assert not (there / "evaluation.json").exists()
    assert (there / "denoising_curve.json").is_file()


def test_a_card_that_was_edited_on_the_hub_is_left(run, hub, tmp_path):
    export(run, tmp_path / "digits")
    push(tmp_path / "digits", "hub:me/digits")
    card = hub.folder / "me" / "digits" / "README.md"
    card.write_text(edited := card.read_text().replace("## Use", "## How we use it"))
    with pytest.raises(InputError, match=r"README.md of hub:me/digits was edited since it was written"):
        push(tmp_path / "digits", "hub:me/digits")
    assert card.read_text() == edited


def test_a_local_path_is_not_looked_up(hub, tmp_path):
    assert local(tmp_path) == tmp_path
    assert hub.asked == []


@pytest.mark.parametrize("name", ["hub:digits", "hub:me/digits@", "hub:../../etc/passwd", "hub:me/dig its"])
def test_names_are_checked(name):
    with pytest.raises(InputError, match="names no model of the Hub: write hub:USER/NAME"):
        local(name)


def test_a_revision_cannot_be_pushed(tmp_path):
    with pytest.raises(InputError, match="leave out @main"):
        push(tmp_path, "hub:me/digits@main")


def test_without_the_extra_the_mend_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install 'tweedie-diffusion\[hub\]'"):
        load_run("hub:me/digits")


def test_without_network_or_cache_one_line_is_told(hub, monkeypatch):
    def fails(*_, **__):
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection\nmore of it")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(FileNotFoundError, match=r"neither downloaded nor found in the cache \(no connection\)"):
        load_run("hub:me/digits")


def test_the_real_library_reads_its_cache_when_offline(run, x_t, tmp_path, monkeypatch):
    export(run, tmp_path / "digits")
    cached = tmp_path / "cache" / "models--me--digits"
    shutil.copytree(tmp_path / "digits", cached / "snapshots" / ("a" * 40))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert np.array_equal(load_run("hub:me/digits").denoise(x_t, 0.3), load_run(run).denoise(x_t, 0.3))
    with pytest.raises(FileNotFoundError, match="neither downloaded nor found in the cache"):
        load_run("hub:me/other")
