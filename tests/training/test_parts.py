import json
from contextlib import nullcontext

import jax
import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats.arrays import write_stacked
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.whole import whole
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.denoiser import build_network, denoiser_maker, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.parts import folder_of, remove_parts, request_of, sample_in_parts
from tweedie_diffusion.training.trained import TrainedModel

NUM, PART = 200, 64  # four parts, the last not full
SETTINGS = {"seed": 3, "truncated": False, "num_steps": 4, "step": "", "label": -1}


@pytest.fixture(scope="module")
def model():
    """The exact denoiser of N(.3, .25) in the place of a network."""
    facts = DataFacts((2, 3, 1), 0.5, 0.4, 0.4, 0, Scaling(0, 255, "uint8"), 10, 10)
    make_denoise = lambda params, **_: gaussian_denoiser(params["mean"], params["variance"])
    return TrainedModel(default_config(), facts, make_denoise, {"mean": np.float32(0.3), "variance": np.float32(0.25)})


@pytest.fixture
def request_for_all(model):
    return request_of(model, NUM, part=PART, **SETTINGS)


@pytest.fixture
def in_one_go(model):
    return model.sample(range(NUM), **SETTINGS)


def count_draws(model, monkeypatch, stop_at=-1):
    """The rows that are asked of the model, in order; it fails at part `stop_at`."""
    drawn, sample = [], TrainedModel.sample

    def counted(self, indices, **settings):
        if indices[0] == stop_at * PART:
            raise KeyboardInterrupt
        drawn.append(indices[0] // PART)
        return sample(self, indices, **settings)

    monkeypatch.setattr(TrainedModel, "sample", counted)
    return drawn


def together(model, request, folder):
    return np.concatenate(list(sample_in_parts(model, request, folder)))


def test_parts_are_the_samples_of_one_go(model, request_for_all, in_one_go, tmp_path):
    parts = list(sample_in_parts(model, request_for_all, tmp_path / "parts"))
    assert [len(part) for part in parts] == [64, 64, 64, 8]
    assert np.array_equal(np.concatenate(parts), in_one_go)
    other = request_of(model, NUM, part=128, **SETTINGS)
    assert np.array_equal(together(model, other, tmp_path / "other"), in_one_go)


def test_one_part_is_not_kept(model, tmp_path):
    request = request_of(model, 5, **SETTINGS)
    assert together(model, request, tmp_path / "parts").shape == (5, 2, 3, 1)
    assert list(tmp_path.iterdir()) == []


def test_sampling_goes_on_at_the_missing_part(model, request_for_all, in_one_go, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "parts"
    with monkeypatch.context() as patch:
        count_draws(model, patch, stop_at=2)
        with pytest.raises(KeyboardInterrupt):
            together(model, request_for_all, folder)
    (folder / ".part_00002_0.part.f32").write_bytes(b"half")  # as a kill leaves it
    drawn = count_draws(model, monkeypatch)
    assert np.array_equal(together(model, request_for_all, folder), in_one_go)
    assert drawn == [2, 3]
    assert capsys.readouterr().err.count("going on: 2 of 4 parts were drawn before") == 1
    assert np.array_equal(together(model, request_for_all, folder), in_one_go)
    assert drawn == [2, 3]
    remove_parts(folder)
    assert list(tmp_path.iterdir()) == []


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-4])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [flip_a_bit, cut_off, empty, lambda path: path.unlink()])
def test_a_damaged_part_is_drawn_again(model, request_for_all, in_one_go, tmp_path, monkeypatch, damage):
    together(model, request_for_all, tmp_path)
    (path,) = tmp_path.glob("part_00001_*")
    whole_before = path.read_bytes()
    damage(path)
    drawn = count_draws(model, monkeypatch)
    assert np.array_equal(together(model, request_for_all, tmp_path), in_one_go)
    assert drawn == [1]
    assert path.read_bytes() == whole_before


@pytest.mark.parametrize(
    "other", [{"seed": 4}, {"truncated": True}, {"num_steps": 5}, {"step": "heun"}, {"sigma_min": 0.1}]
)
def test_parts_of_other_samples_are_refused_and_kept(model, request_for_all, tmp_path, other):
    together(model, request_for_all, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    message = rf"{tmp_path} is of another request \({next(iter(other))} differ\): remove it, or choose another --out"
    with pytest.raises(InputError, match=message):
        sample_in_parts(model, request_of(model, NUM, part=PART, **SETTINGS | other), tmp_path)
    with pytest.raises(InputError, match="num"):  # of one part, too
        sample_in_parts(model, request_of(model, 5, part=PART, **SETTINGS | other), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_parts_of_another_model_are_refused(model, request_for_all, tmp_path):
    together(model, request_for_all, tmp_path)
    other = model.with_params({"mean": np.float32(0.3), "variance": np.float32(0.26)})
    with pytest.raises(InputError, match=r"another request \(model differ\)"):
        sample_in_parts(other, request_of(other, NUM, part=PART, **SETTINGS), tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x80"])
def test_a_request_that_cannot_be_read_is_refused(model, request_for_all, tmp_path, text):
    (tmp_path / "request.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="remove it, or choose another --out"):
        sample_in_parts(model, request_for_all, tmp_path)


def test_a_folder_of_something_else_is_refused_but_not_one_left_by_a_kill(model, request_for_all, tmp_path):
    (tmp_path / ".request.part.json").write_text("{")
    assert len(together(model, request_for_all, tmp_path)) == NUM
    (tmp_path / "request.json").unlink()
    with pytest.raises(InputError, match="holds no parts of samples"):
        sample_in_parts(model, request_for_all, tmp_path)


def test_what_is_kept_is_told_before_each_part(model, request_for_all, tmp_path):
    told = []
    list(sample_in_parts(model, request_for_all, tmp_path / "p", lambda text: nullcontext(told.append(text))))
    assert told[0] == "stopped while sampling: 0 of 4 parts are drawn yet"
    assert told[3] == f"stopped while sampling: 3 of 4 parts are kept in {tmp_path}/p"


def test_a_part_has_whole_batches(model):
    with pytest.raises(ValueError, match="multiple of 64"):
        request_of(model, NUM, part=100, **SETTINGS)


def test_the_request_is_plain_json(model, request_for_all, tmp_path):
    together(model, request_for_all, tmp_path)
    kept = json.loads((tmp_path / "request.json").read_text())
    assert kept == {"model": request_for_all.model, "shape": [2, 3, 1], "num": NUM, "part": PART, **SETTINGS}


def test_the_folder_lies_beside_the_output(tmp_path):
    assert folder_of(tmp_path / "a.npz") == tmp_path / "a.npz.parts"


def with_network(shape, config):
    """A network of random weights, none of them zero, as some are at the start of training."""
    facts = DataFacts(shape, 0.5, 0.3, 0.3, 0, Scaling(-1, 1, "float32"), 10, 10)
    network = build_network(config.model, facts)
    params = init_params(jax.random.key(0), network, config.model, facts)
    noise = np.random.default_rng(0)
    params = jax.tree.map(lambda p: np.float32(0.2 * noise.standard_normal(p.shape)), params)
    return TrainedModel(config, facts, denoiser_maker(network, config.model, facts, None), params)


@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_samples_asked_for_alone_are_those_of_the_full_range_bit_for_bit(config, kind, tmp_path):
    if kind == "unet":
        config.model.network = "unet"
        config.model.channels, config.model.channel_multipliers = 8, (1,)
    model = with_network((2,) if kind == "mlp" else (4, 4, 1), config)
    full = model.sample(range(1031), seed=3)
    assert len(np.unique(full)) > 1000
    assert np.array_equal(model.sample([5, 70, 1030], seed=3), full[[5, 70, 1030]])
    request = request_of(model, 1031, part=512, seed=3)
    assert np.array_equal(together(model, request, tmp_path), full)


def test_an_npz_written_in_parts_is_that_written_at_once(tmp_path, rng):
    images = rng.integers(0, 256, (10, 4, 4, 1), dtype=np.uint8)
    write_stacked(tmp_path / "parts.npz", "images", np.split(images, [4, 8]), 10)
    np.savez(tmp_path / "once.npz", images=images)
    assert (tmp_path / "parts.npz").read_bytes() == (tmp_path / "once.npz").read_bytes()


def test_files_are_whole_or_as_they_were(tmp_path):
    paths = tmp_path / "a.txt", tmp_path / "b.txt"
    paths[0].write_text("old")

    def stopped():
        with whole(*paths) as unfinished:
            for path in unfinished:
                path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert paths[0].read_text() == "old"
    with whole(*paths) as unfinished:
        for path in unfinished:
            path.write_text("new")
    assert sorted(path.read_text() for path in tmp_path.iterdir()) == ["new", "new"]
