import dataclasses

import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import in_memory
from tweedie_diffusion.evaluation.classifier_features import open_classifier, write_classifier
from tweedie_diffusion.training import feature_classifier
from tweedie_diffusion.training.config import default_config, to_json
from tweedie_diffusion.training.datasets import open_data
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.feature_classifier import open_run_data, train_classifier, turned

COUNT, STEPS = 120, 25


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr(feature_classifier, "BATCH", 16)


def stored(classes):
    """Images bright at one end: the left one, or, of class 1, the upper one."""
    ramp = np.tile(np.linspace(1, -1, 8, dtype=np.float32), (COUNT, 8, 1))
    bright = turned(ramp[..., None], -classes % 4)
    return bright + np.random.default_rng(0).normal(0, 0.1, bright.shape).astype(np.float32)


def dataset_of(x, labels=None, noise=NoiseModel(0.5)):  # noqa: B008
    images = in_memory(x, Scaling(-1, 1, "float32", bounded=False), labels=labels)
    return open_dataset(images, noise, held_out=0.25, split_seed=0)


CLASSES = np.arange(COUNT) % 2


@pytest.fixture(scope="module")
def labelled():
    return dataset_of(stored(CLASSES), CLASSES)


@pytest.fixture(scope="module")
def trained(labelled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_classifier, "BATCH", 16)
        return train_classifier(labelled, steps=STEPS)


def same(one, other):
    flat = lambda params: [params[k][n] for k in sorted(params) for n in sorted(params[k])]
    return all(np.array_equal(a, b) for a, b in zip(flat(one), flat(other), strict=True))


def test_it_learns_classes_it_is_told(trained):
    about = trained[1]
    assert about["held_out_accuracy"] > 0.9
    assert (about["task"], about["images"], about["num_train"], about["num_classes"]) == ("labels", "clean", 90, 2)


def test_without_labels_it_learns_to_tell_turns():
    _, about = train_classifier(dataset_of(stored(np.zeros(COUNT, int))), steps=60)
    assert about["held_out_accuracy"] > 0.9
    assert (about["task"], about["num_classes"]) == ("quarter turns", 4)


def test_held_out_images_and_added_noise_change_no_weight(labelled, trained):
    x = stored(CLASSES)
    x[labelled.held_out.numbers] = 0
    params, about = train_classifier(dataset_of(x, CLASSES, NoiseModel(0.3, seed=1)), steps=STEPS)
    assert same(params, trained[0])
    assert about["held_out_accuracy"] < 0.7


def test_the_seed_changes_the_weights(labelled, trained):
    assert not same(train_classifier(labelled, steps=STEPS, seed=1)[0], trained[0])


def test_noisy_images_are_taken_as_they_are(trained):
    noisy = dataset_of(stored(CLASSES), CLASSES, NoiseModel(0.1, present=True))
    params, about = train_classifier(noisy, steps=STEPS)
    assert about["images"] == "noisy"
    assert same(params, trained[0])  # the same values, here called noisy


def test_what_is_written_gives_the_features_again(trained, tmp_path):
    params, about = trained
    write_classifier(tmp_path / "f.safetensors", params, about)
    again = open_classifier(tmp_path / "f.safetensors")
    x, size = stored(CLASSES), about["size"]
    features = again(x)
    logits = features @ params["logits"]["kernel"] + params["logits"]["bias"]
    assert features.shape == (COUNT, size)
    assert np.mean(logits.argmax(axis=1) == CLASSES) > 0.9
    assert np.isfinite(again(np.tile(x[:2], (1, 2, 3, 1)))).all()  # larger images of the same channels


def test_the_digest_is_of_the_weights(trained, tmp_path):
    params, about = trained
    other = params | {"features": params["features"] | {"bias": params["features"]["bias"] + 1}}
    for name, weights in (("a", params), ("b", params), ("c", other)):
        write_classifier(tmp_path / name, weights, about)
    a, b, c = (open_classifier(tmp_path / name).digest for name in "abc")
    assert a == b != c
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def cut(path, trained):
    path.write_bytes(path.read_bytes()[:-100])
    return "is no classifier that can be read"


def other_weights(path, trained):
    write_classifier(path, trained[0] | {"logits": trained[0]["features"]}, trained[1])
    return "does not hold the weights of its network"


def another_file(path, trained):
    from safetensors.numpy import save_file

    save_file({"x": np.zeros(3, np.float32)}, path)
    return "make one with python -m tweedie_diffusion.train_features"


@pytest.mark.parametrize("spoil", [cut, other_weights, another_file])
def test_what_is_no_classifier_is_refused(trained, tmp_path, spoil):
    path = tmp_path / "f.safetensors"
    write_classifier(path, *trained)
    message = spoil(path, trained)
    with pytest.raises(InputError, match=message):
        open_classifier(path)


def test_images_it_does_not_take_are_refused(trained, tmp_path):
    write_classifier(tmp_path / "f", *trained)
    features = open_classifier(tmp_path / "f")
    with pytest.raises(InputError, match="images of 1 channels"):
        features(np.zeros((2, 8, 8, 3)))
    with pytest.raises(InputError, match="at least 8×8"):
        features(np.zeros((2, 8, 7, 1)))


def test_vectors_have_no_classifier():
    with pytest.raises(InputError, match="compare by pixels or pca"):
        train_classifier(dataset_of(stored(CLASSES).reshape(COUNT, 64)))


def test_of_a_run_whose_data_changed_nothing_is_trained(tmp_path):
    np.save(tmp_path / "x.npy", stored(CLASSES).clip(-1, 1))
    config = default_config()
    config.data.source = str(tmp_path / "x.npy")
    with pytest.raises(InputError, match="there is no run"):
        open_run_data(tmp_path)
    (tmp_path / "config.json").write_text(to_json(config))
    facts = facts_of(open_data(config.data))
    (tmp_path / "data.json").write_text(facts.to_json())
    assert len(open_run_data(tmp_path).train) == 100
    (tmp_path / "data.json").write_text(dataclasses.replace(facts, fingerprint="other").to_json())
    with pytest.raises(InputError, match="the data is not what the run"):
        open_run_data(tmp_path)
