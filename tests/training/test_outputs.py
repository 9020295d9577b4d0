import tarfile

import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.outputs import check_kind, output_of, write_samples
from tweedie_diffusion.training.parts import folder_of, remove_parts, request_of, sample_in_parts
from tweedie_diffusion.training.trained import TrainedModel

NUM, PART = 150, 64
FORMS = ["x.png", "x.npz", "x.npy", "x/", "x.tar", "x-%05d.tar"]


@pytest.fixture(scope="module")
def model():
    """The exact denoiser of N(.3, .25) in the place of a network of three classes."""
    config = default_config()
    config.model.class_conditional, config.sampling.num_steps = True, 4
    facts = DataFacts((2, 3, 1), 0.5, 0.4, 0.4, 3, Scaling(0, 255, "uint8"), 10, 10)
    return TrainedModel(config, facts, lambda params, **_: gaussian_denoiser(0.3, 0.25), {})


@pytest.fixture
def stored(model):
    return model.facts.scaling.from_unit(model.sample(range(NUM)))


def write(model, out):
    """What the program does, in parts of 64."""
    output, request = output_of(str(out), NUM, 60 if "%" in str(out) else 0), request_of(model, NUM, part=PART)
    write_samples(output, model, sample_in_parts(model, request, folder_of(output.path)), request)
    remove_parts(folder_of(output.path))


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_what_was_stopped_goes_on_to_the_same_bytes(model, tmp_path, monkeypatch, form):
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    write(model, f"{tmp_path}/once/{form}")
    drawn, sample = [], TrainedModel.sample

    def stopping(self, indices, **settings):
        drawn.append(indices[0] // PART)
        if drawn == [0, 1, 2]:
            raise KeyboardInterrupt
        return sample(self, indices, **settings)

    monkeypatch.setattr(TrainedModel, "sample", stopping)
    with pytest.raises(KeyboardInterrupt):
        write(model, f"{tmp_path}/twice/{form}")
    assert {name.split("/")[0] for name in contents(tmp_path / "twice")} == {f"{form.rstrip('/')}.parts"}
    write(model, f"{tmp_path}/twice/{form}")
    assert drawn == [0, 1, 2, 2]
    assert contents(tmp_path / "twice") == contents(tmp_path / "once")


def test_arrays_have_their_classes(model, stored, tmp_path):
    write(model, tmp_path / "x.npz")
    found = np.load(tmp_path / "x.npz", allow_pickle=False)
    np.testing.assert_array_equal(found["images"], stored)
    np.testing.assert_array_equal(found["labels"], np.arange(NUM) % 3)
    write(model, tmp_path / "x.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), stored)


def test_a_folder_has_the_samples_in_the_values_of_the_data(model, stored, tmp_path):
    write(model, f"{tmp_path}/x/")
    found = [np.asarray(Image.open(tmp_path / "x" / f"{i:06d}.png")) for i in range(NUM)]
    np.testing.assert_array_equal(found, stored[..., 0])


def test_archives_are_cut_where_they_should_be(model, tmp_path):
    write(model, tmp_path / "x-%05d.tar")
    names = []
    for k in range(3):
        with tarfile.open(tmp_path / f"x-{k:05d}.tar") as archive:
            names.append([name for name in archive.getnames() if name.endswith(".cls")])
    assert [len(of_one) for of_one in names] == [60, 60, 30]
    assert names[2][0] == "000120.cls"


def test_a_folder_that_was_written_before_its_parts_were_removed_is_left_as_it_is(model, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(f"{__name__}.remove_parts", lambda _: None)
        write(model, f"{tmp_path}/x/")
    before = contents(tmp_path / "x")
    write(model, f"{tmp_path}/x/")
    assert contents(tmp_path) == {f"x/{name}": data for name, data in before.items()}


def test_vectors_are_no_images(model):
    flat = TrainedModel(model.config, DataFacts((3,), 0.5, 0.4, 0.4, 3, Scaling(-1, 1, "float32"), 9, 9), lambda: 0, {})
    check_kind(output_of("x.npz", 10), flat)
    for out in ("x/", "x.tar"):
        with pytest.raises(InputError, match="draws vectors, not images: write an"):
            check_kind(output_of(out, 10), flat)


@pytest.mark.parametrize(
    ("out", "settings", "message"),
    [
        ("x.jpg", {}, r"must end in .png or .npz or .npy or .tar, or be a folder, as samples/"),
        ("there", {}, "there exists already: name a new folder"),
        ("no/x.tar", {}, "the folder of .* does not exist"),
        ("no/x/", {}, "the folder of .* does not exist"),
        ("x.tar", {"shard_size": 10}, "--shard_size is of several archives"),
        ("x-%05d.npz", {"shard_size": 10}, "--shard_size is of several archives"),
        ("x-%05d.tar", {"shard_size": -1}, "--shard_size"),
        ("old-%d.tar", {"shard_size": 75}, "old-2.tar is of other samples"),
        ("x-%05d.npz", {}, "names several files, which only .tar are"),
        ("x-%05d.npy", {}, "names several files, which only .tar are"),
        ("x-%05d.png", {}, "names several files, which only .tar are"),
        ("..", {}, "names no file, and no new folder"),
        ("x.png", {"num": 5000}, "5000 images are no picture"),
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path, out, settings, message):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("mine")
    (tmp_path / "old-2.tar").write_text("of a larger sampling")
    with pytest.raises(InputError, match=message):
        output_of(f"{tmp_path}/{out}", settings.pop("num", NUM), **settings)


@pytest.mark.parametrize("out", ["", ".", "./", "/"])
def test_what_names_nothing_is_refused(out):
    with pytest.raises(InputError, match="names no file, and no new folder"):
        output_of(out, NUM)


@pytest.mark.parametrize("out", ["x.npz", "x.tar", "x/"])
def test_a_folder_that_may_not_be_written_to_is_found_before_any_work(tmp_path, monkeypatch, out):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(InputError, match="may not be written to: change its permissions"):
        output_of(f"{tmp_path}/{out}", NUM)


def test_other_samples_are_not_taken_for_these(model, tmp_path):
    write(model, f"{tmp_path}/x/")
    folder_of(tmp_path / "x").mkdir()  # as a stop may leave it
    with pytest.raises(InputError, match="x exists already: name a new folder"):
        output_of(f"{tmp_path}/x/", NUM)


def test_a_name_without_a_suffix_is_a_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    assert [output_of(f"{tmp_path}/{name}", 1).is_folder for name in ("new", "v1.0/", "empty")] == [True] * 3
