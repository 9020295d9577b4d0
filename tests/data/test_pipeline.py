import hashlib
from itertools import islice

import numpy as np
import pytest

from tweedie_diffusion.data import noisy
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import Images, in_memory

COUNT = 12  # training images


def opened():
    """Noisy images whose labels are their indices, so that a batch tells where its rows come from."""
    stored = np.random.default_rng(0).normal(size=(COUNT + 4, 4, 6, 2)).astype(np.float32)
    images = in_memory(stored, Scaling(-1, 1, "float32", bounded=False), labels=np.arange(COUNT + 4))
    return open_dataset(images, NoiseModel(0.3), held_out=4 / (COUNT + 4), split_seed=0).train


@pytest.fixture(scope="module")
def examples():
    return opened()


def take(count, *args, **kwargs):
    return list(islice(batches(*args, **kwargs), count))


def labels(batch_list):
    return np.concatenate([batch["label"] for batch in batch_list]).tolist()


def test_shapes_and_dtypes(examples):
    (batch,) = take(1, examples, batch_size=5, seed=0)
    assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
        "x_tn": ((5, 4, 6, 2), "float32"),
        "sigma_tn": ((5,), "float32"),
        "label": ((5,), "int32"),
        "index": ((5,), "int32"),
    }


def hashes(batch_list):
    """Of whole batches: names, kinds and bytes."""
    kept = [[(name, a.dtype.str, a.tobytes()) for name, a in sorted(batch.items())] for batch in batch_list]
    return [hashlib.sha256(repr(batch).encode()).hexdigest() for batch in kept]


# An epoch ends with batch 2 of 4 rows, and in the midst of batch 2 of 5.
@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 7])
@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [4, 5])
def test_a_resumed_stream_goes_on_as_if_never_stopped(examples, batch_size, threads, start):
    settings = {"batch_size": batch_size, "seed": 3, "flip": True}
    whole = hashes(take(10, examples, **settings))
    resumed = hashes(take(10 - start, opened(), **settings, start=start, threads=threads))
    assert resumed == whole[start:]
    assert len(set(whole)) == 10


@pytest.mark.parametrize("threads", [0, 1, 4])
@pytest.mark.parametrize("batch_size", [4, 5, 30])
def test_every_epoch_has_every_example_once(examples, batch_size, threads):
    taken = take(60 // batch_size, examples, batch_size=batch_size, seed=0, threads=threads)
    expected = sorted(int(examples[i]["index"]) for i in range(COUNT))
    for name in ("label", "index"):
        epochs = np.reshape([batch[name] for batch in taken], (-1, COUNT))
        assert [sorted(epoch) for epoch in epochs.tolist()] == [expected] * len(epochs)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_the_noise_of_an_image_is_the_same_in_all_epochs_restarts_and_threads(monkeypatch, cache_bytes):
    monkeypatch.setattr(noisy, "CACHE_BYTES", cache_bytes)  # 0: drawn anew each time
    found = {}
    for threads in (0, 1, 4):
        for start in (0, 5):
            for batch in take(6, opened(), batch_size=7, seed=0, threads=threads, start=start):
                for index, x_tn in zip(batch["index"].tolist(), batch["x_tn"], strict=True):
                    found.setdefault(index, set()).add(hashlib.sha256(x_tn.tobytes()).hexdigest())
    assert [len(hashed) for hashed in found.values()] == [1] * COUNT
    assert len(set.union(*found.values())) == COUNT


def test_epochs_differ_in_order(examples):
    first, second = (labels([batch]) for batch in take(2, examples, batch_size=COUNT, seed=0))
    assert first != second


def test_seeds_differ_in_order(examples):
    assert labels(take(1, examples, batch_size=COUNT, seed=0)) != labels(take(1, examples, batch_size=COUNT, seed=1))


def test_rows_are_the_examples_with_their_own_labels(examples):
    by_label = {int(examples[i]["label"]): examples[i] for i in range(COUNT)}
    (batch,) = take(1, examples, batch_size=7, seed=0)
    for x_tn, sigma_tn, label in zip(batch["x_tn"], batch["sigma_tn"], batch["label"], strict=True):
        np.testing.assert_array_equal(x_tn, by_label[int(label)]["x_tn"])
        assert sigma_tn == by_label[int(label)]["sigma_tn"]


def test_flip_mirrors_about_half_left_to_right_and_changes_nothing_else(examples):
    original = {int(examples[i]["label"]): examples[i]["x_tn"] for i in range(COUNT)}
    rows = [
        (x_tn, original[int(label)])
        for batch in take(20, examples, batch_size=20, seed=0, flip=True)
        for x_tn, label in zip(batch["x_tn"], batch["label"], strict=True)
    ]
    same = sum(np.array_equal(x_tn, image) for x_tn, image in rows)
    mirrored = sum(np.array_equal(x_tn, image[:, ::-1, :]) for x_tn, image in rows)
    assert same + mirrored == len(rows) == 400
    assert abs(mirrored - 200) < 5 * np.sqrt(400 / 4)


def test_an_image_is_flipped_anew_in_every_epoch(examples):
    epochs = take(8, examples, batch_size=COUNT, seed=0, flip=True)
    versions = {label: set() for label in labels(epochs)}
    for batch in epochs:
        for x_tn, label in zip(batch["x_tn"], batch["label"], strict=True):
            versions[int(label)].add(x_tn.tobytes())
    assert max(len(v) for v in versions.values()) == 2


def test_turns_are_quarter_turns_of_the_image_and_all_come_alike():
    stored = np.random.default_rng(0).normal(size=(COUNT + 4, 5, 5, 1)).astype(np.float32)
    images = in_memory(stored, Scaling(-1, 1, "float32", bounded=False), labels=np.arange(COUNT + 4))
    square = open_dataset(images, NoiseModel(0.3), held_out=4 / (COUNT + 4), split_seed=0).train
    original = {int(square[i]["label"]): square[i]["x_tn"] for i in range(COUNT)}
    turns = np.zeros(4, int)
    for batch in take(40, square, batch_size=20, seed=0, turn=True):
        for x_tn, label in zip(batch["x_tn"], batch["label"], strict=True):
            same = [np.array_equal(x_tn, np.rot90(original[int(label)], k)) for k in range(4)]
            assert sum(same) == 1
            turns += same
    assert (abs(turns / 800 - 1 / 4) < 5 * np.sqrt(3 / 16 / 800)).all()


def test_with_a_law_the_level_is_drawn_first_and_then_any_image_with_less_noise():
    stored = np.random.default_rng(0).normal(size=(40, 2, 2, 1)).astype(np.float32)
    levels = np.repeat(np.float32([0.1, 0.5]), 20)
    images = in_memory(stored, Scaling(-1, 1, "float32", bounded=False), sigma_tn=levels)
    mixed = open_dataset(images, NoiseModel(0.5, present=True), held_out=0.1, split_seed=0).train
    uniform_law = lambda uniform, low: low + uniform * (1.1 - low)
    rows = take(200, mixed, batch_size=50, seed=0, law=uniform_law)
    sigma_t, sigma_tn = (np.concatenate([batch[name] for batch in rows]) for name in ("sigma_t", "sigma_tn"))
    assert (sigma_t > sigma_tn).all()
    below = sigma_t <= 0.5
    assert (sigma_tn[below] == np.float32(0.1)).all()
    share = (mixed.sigma_tn == np.float32(0.1)).mean()
    error = np.sqrt(share * (1 - share) / (~below).sum())
    assert abs((sigma_tn[~below] == np.float32(0.1)).mean() - share) < 5 * error
    assert abs(below.mean() - 0.4) < 5 * np.sqrt(0.24 / len(below))


def test_a_stream_with_a_law_goes_on_as_if_never_stopped(examples):
    settings = {"batch_size": 5, "seed": 3, "law": lambda uniform, low: low + uniform}
    whole, resumed = take(6, examples, **settings), take(4, examples, **settings, start=2)
    for expected, got in zip(whole[2:], resumed, strict=True):
        for key in expected:
            np.testing.assert_array_equal(got[key], expected[key])


def large_images():
    """Images of several sizes, of which examples are squares of 4."""
    shapes = [(4 + i % 3, 9 - i % 4, 1) for i in range(COUNT + 4)]
    stored = [np.random.default_rng(i).normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)]
    scaling = Scaling(-1, 1, "float32", bounded=False)
    return Images(stored.__getitem__, len(stored), (4, 4, 1), scaling, cropped=True)


@pytest.mark.parametrize("cropped", [False, True])
@pytest.mark.parametrize("law", [None, lambda uniform, low: low + uniform])
def test_parts_of_batches_have_the_rows_of_whole_ones_and_all_numbers(law, cropped):
    stored = np.random.default_rng(0).normal(size=(COUNT + 4, 4, 4, 1)).astype(np.float32)
    images = large_images() if cropped else in_memory(stored, Scaling(-1, 1, "float32", bounded=False))
    opened = lambda: open_dataset(images, NoiseModel(0.3), held_out=4 / (COUNT + 4), split_seed=0).train
    settings = {"batch_size": 6, "seed": 3, "flip": True, "turn": True, "law": law}
    whole = take(5, opened(), **settings)
    for part in (slice(0, 2), slice(2, 6), np.array([0, 1, 4])):
        for expected, got in zip(whole, take(5, opened(), **settings, part=part), strict=True):
            np.testing.assert_array_equal(got["index"], expected["index"])
            for name in expected.keys() - {"index"}:
                np.testing.assert_array_equal(got[name], expected[name][part], err_msg=name)


def test_only_the_images_of_a_part_are_read():
    read, stored = [], np.random.default_rng(0).normal(size=(COUNT + 4, 4, 4, 1)).astype(np.float32)
    scaling = Scaling(-1, 1, "float32", bounded=False)
    images = Images(lambda i: read.append(i) or stored[i], len(stored), (4, 4, 1), scaling, cropped=True)
    train = open_dataset(images, NoiseModel(0.3, present=True), held_out=4 / (COUNT + 4), split_seed=0).train
    train._larger.clear()  # of what was measured
    read.clear()
    (batch,) = take(1, train, batch_size=COUNT, seed=0, part=slice(3, 7), threads=0)
    assert read == batch["index"][3:7].tolist()
