import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from tweedie_diffusion.data import noisy
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.noisy import NoiseModel, estimate_sigma_data, open_dataset
from tweedie_diffusion.data.pipeline import batches
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import Images, in_memory
from tweedie_diffusion.diffusion.corruption import corrupt_example
from tweedie_diffusion.diffusion.rows import purpose_key

UNBOUNDED = Scaling(-1.0, 1.0, "float32", bounded=False)


def gaussian_images(count=60, shape=(4, 4, 1), *, std=0.5, mean=0.0, **fields):
    """Images of independent Gaussian pixels; the label of each is its own index."""
    stored = np.random.default_rng(7).normal(mean, std, (count, *shape)).astype(np.float32)
    return in_memory(stored, UNBOUNDED, labels=np.arange(count), **fields)


def opened(images, sigma_tn=0.3, *, held_out=0.25, split_seed=0, **noise):
    return open_dataset(images, NoiseModel(sigma_tn, **noise), held_out=held_out, split_seed=split_seed)


def labels_of(examples):
    return [int(examples[i]["label"]) for i in range(len(examples))]


def noise_of(dataset):
    """[count, ...] x_tn − x_0 of every example, training ones first."""
    parts = [dataset.train, dataset.held_out]
    return np.stack([p[i]["x_tn"] - dataset.images.read(int(p[i]["label"])) for p in parts for i in range(len(p))])


def hashes(examples, order):
    return {i: hashlib.sha256(examples[i]["x_tn"].tobytes()).hexdigest() for i in order}


def test_an_example_is_the_same_in_any_order_and_after_opening_again():
    examples, again = opened(gaussian_images()).train, opened(gaussian_images()).train
    first = hashes(examples, range(len(examples)))
    assert len(set(first.values())) == len(examples)
    assert hashes(examples, range(len(examples))) == first
    assert hashes(again, reversed(range(len(examples)))) == first


def test_an_example_is_the_same_without_the_memory_cache(monkeypatch):
    cached = opened(gaussian_images()).train
    monkeypatch.setattr(noisy, "CACHE_BYTES", 0)
    uncached = opened(gaussian_images()).train
    order = [3, 0, 3, 2]
    assert hashes(cached, order) == hashes(uncached, order)


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_an_example_is_corrupted_with_its_own_index(part):
    dataset = opened(gaussian_images(), seed=5)
    examples = getattr(dataset, part)
    for i, index in enumerate(labels_of(examples)[:4]):
        expected = corrupt_example(
            purpose_key(5, "noise of the data"), index, dataset.images.read(index), sigma_tn=np.float32(0.3)
        )
        np.testing.assert_array_equal(examples[i]["x_tn"], expected)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_many_examples_at_once_are_those_one_by_one(monkeypatch, cache_bytes):
    monkeypatch.setattr(noisy, "CACHE_BYTES", cache_bytes)
    train = opened(gaussian_images(500), clean_fraction=0.3).train
    order = np.random.default_rng(0).integers(len(train), size=300)  # more than a chunk, some twice
    rows = train.rows(order)
    monkeypatch.setattr(noisy, "CACHE_BYTES", 0)
    singly = opened(gaussian_images(500), clean_fraction=0.3).train
    for name, values in rows.items():
        np.testing.assert_array_equal(values, [singly[i][name] for i in order])


def test_an_image_keeps_its_noise_whatever_the_split():
    one, other = opened(gaussian_images(), split_seed=1), opened(gaussian_images(), split_seed=2, held_out=0.5)
    index = next(i for i in labels_of(one.train) if i in labels_of(other.held_out))
    np.testing.assert_array_equal(
        one.train[labels_of(one.train).index(index)]["x_tn"],
        other.held_out[labels_of(other.held_out).index(index)]["x_tn"],
    )


def test_seeds_give_independent_noise():
    a, b = (noise_of(opened(gaussian_images(400), seed=seed)).ravel() for seed in (0, 1))
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)


def test_images_have_independent_noise():
    noise = noise_of(opened(gaussian_images(400))).reshape(400, -1)
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 5 / np.sqrt(noise.size)


def test_the_noise_is_normal_with_the_stated_level():
    unit = noise_of(opened(gaussian_images(400), 0.3)).ravel() / 0.3
    assert abs(unit.mean()) < 5 / np.sqrt(unit.size)
    assert abs(unit.var() - 1) < 5 * np.sqrt(2 / unit.size)
    assert stats.kstest(unit, stats.norm.cdf).pvalue > 1e-4


def test_noise_is_added_in_units_of_minus_one_to_one():
    stored = np.random.default_rng(3).integers(0, 256, (200, 4, 4, 1)).astype(np.uint8)
    dataset = opened(in_memory(stored, Scaling(0, 255, "uint8")), 0.5)
    noise = np.stack([dataset.held_out[i]["x_tn"] - dataset.held_out_clean(i) for i in range(50)])
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(noise.size)
    assert abs(noise.var() / 0.25 - 1) < 5 * np.sqrt(2 / noise.size)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.37, 1.0])
def test_the_stated_part_of_the_images_stays_clean(fraction):
    dataset = opened(gaussian_images(), clean_fraction=fraction)
    levels = np.concatenate([dataset.train.sigma_tn, dataset.held_out.sigma_tn])
    assert (levels == 0).sum() == round(60 * fraction)
    assert set(levels) <= {np.float32(0), np.float32(0.3)}


def test_clean_images_are_left_alone_and_others_are_not():
    dataset = opened(gaussian_images(), clean_fraction=0.3)
    levels = np.concatenate([dataset.train.sigma_tn, dataset.held_out.sigma_tn])
    np.testing.assert_array_equal((noise_of(dataset) == 0).all(axis=(1, 2, 3)), levels == 0)


def test_the_seed_fixes_which_images_stay_clean():
    levels = lambda seed: NoiseModel(0.3, clean_fraction=0.3, seed=seed).levels(gaussian_images())
    np.testing.assert_array_equal(levels(0), levels(0))
    assert not np.array_equal(levels(0), levels(1))


@pytest.mark.parametrize("seed", [0, 1])
def test_training_gets_its_share_of_clean_images_even_if_the_split_has_the_same_seed(seed):
    dataset = opened(gaussian_images(600), clean_fraction=0.2, held_out=0.2, seed=seed, split_seed=seed)
    law = stats.hypergeom(600, 120, 480)
    assert abs((dataset.train.sigma_tn == 0).sum() - law.mean()) < 5 * law.std()


def test_declared_noise_is_not_added_again():
    dataset = opened(gaussian_images(), present=True)
    np.testing.assert_array_equal(noise_of(dataset), np.zeros((60, 4, 4, 1)))
    assert set(dataset.train.sigma_tn) == {np.float32(0.3)}


def test_levels_stated_by_the_file_come_before_the_declared_one():
    stated = np.linspace(0, 0.3, 60).astype(np.float32)
    dataset = opened(gaussian_images(sigma_tn=stated), 9.9, present=True)
    np.testing.assert_array_equal(dataset.train.sigma_tn, stated[labels_of(dataset.train)])
    assert dataset.train[4]["sigma_tn"] == stated[int(dataset.train[4]["label"])]


def test_images_noisy_already_have_no_clean_version():
    assert opened(gaussian_images(), present=True).held_out_clean is None


def test_the_parts_of_the_split_are_disjoint_and_cover_all():
    dataset = opened(gaussian_images(), held_out=0.3)
    assert len(dataset.held_out) == 18
    assert sorted(labels_of(dataset.train) + labels_of(dataset.held_out)) == list(range(60))


def test_the_seed_fixes_the_split():
    held_out = lambda seed: labels_of(opened(gaussian_images(), split_seed=seed).held_out)
    assert held_out(3) == held_out(3) != held_out(4)


def test_held_out_images_never_enter_a_training_batch():
    dataset = opened(gaussian_images(20))
    stream = batches(dataset.train, batch_size=5, seed=0)
    seen = {int(label) for _ in range(12) for label in next(stream)["label"]}
    assert seen == set(labels_of(dataset.train))
    assert not seen & set(labels_of(dataset.held_out))


def test_held_out_clean_is_the_same_image_without_its_noise():
    dataset = opened(gaussian_images())
    for i, index in enumerate(labels_of(dataset.held_out)):
        np.testing.assert_array_equal(dataset.held_out_clean(i), dataset.images.read(index))


def test_some_held_out_images_are_of_all_of_them():
    dataset = opened(gaussian_images(400), clean_fraction=0.5, held_out=0.5)
    some = dataset.some_held_out(10)
    assert (some[0], some[-1], len(some)) == (0, 199, 10)
    noisy_ones = dataset.some_held_out(10, noisy=True)
    assert (dataset.held_out.sigma_tn[noisy_ones] > 0).all()
    assert noisy_ones.max() - noisy_ones.min() > 180
    assert len(opened(gaussian_images(), sigma_tn=0.0).some_held_out(5, noisy=True)) == 0


@pytest.mark.parametrize("held_out", [0.001, 0.02, 0.999])
def test_an_empty_part_is_refused(held_out):
    with pytest.raises(InputError, match=r"of 60 images leaves fewer than 2 to hold out .* set data\.held_out"):
        opened(gaussian_images(), held_out=held_out)


def test_training_sees_the_noisy_image_its_level_its_label_and_its_number_and_nothing_else():
    example = opened(gaussian_images()).train[0]
    assert set(example) == {"x_tn", "sigma_tn", "label", "index"}
    assert (example["x_tn"].shape, example["x_tn"].dtype) == ((4, 4, 1), np.float32)
    assert (example["sigma_tn"].shape, example["sigma_tn"].dtype) == ((), np.float32)
    assert (example["label"].shape, example["label"].dtype) == ((), np.int32)
    assert (example["index"].shape, example["index"].dtype) == ((), np.int32)


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
@pytest.mark.parametrize("part", ["train", "held_out"])
def test_the_number_of_an_image_is_that_in_the_whole_data_set(monkeypatch, part, cache_bytes):
    monkeypatch.setattr(noisy, "CACHE_BYTES", cache_bytes)
    examples = getattr(opened(gaussian_images()), part)  # whose labels are their numbers
    rows = examples.rows(np.arange(len(examples)))
    np.testing.assert_array_equal(rows["index"], rows["label"])


def test_images_without_classes_have_label_minus_one():
    assert opened(in_memory(np.ones((8, 2), np.float32), UNBOUNDED), 0.01).train[0]["label"] == -1


@pytest.mark.parametrize("clean_fraction", [0.0, 0.5])
@pytest.mark.parametrize("std", [0.1, 0.8])
def test_sigma_data_is_estimated_from_noisy_images(std, clean_fraction):
    images = gaussian_images(500, std=std, mean=0.3)
    dataset = opened(images, 0.4, clean_fraction=clean_fraction)
    total = std**2 + dataset.train.sigma_tn.astype(np.float64) ** 2  # variance of each image's pixels
    spread = np.sqrt((3 * np.mean(total**2) - np.mean(total) ** 2) / (total.size * 16))
    assert abs(dataset.sigma_data**2 - std**2) < 5 * spread


def test_sigma_data_looks_at_no_more_images_than_asked(monkeypatch):
    monkeypatch.setattr(noisy, "CACHE_BYTES", 0)
    train, read = opened(gaussian_images(100)).train, []
    monkeypatch.setattr(train, "_open", lambda i: (read.extend(i) or np.tile(i[:, None] % 2, 16) * 1.0, -1))
    estimate_sigma_data(train, num_images=10)
    assert len(read) == 10
    assert [min(read), max(read)] == list(train._indices[[0, -1]])


def test_noise_beyond_the_variance_of_the_images_is_refused():
    with pytest.raises(InputError, match=r"no more than the stated noise sigma_tn=0.9: check data.sigma_tn"):
        opened(gaussian_images(std=0.5), 0.9, present=True)


def test_nan_in_an_image_is_named():
    stored = np.zeros((8, 2, 2, 1), np.float32)
    stored[5] = np.nan
    with pytest.raises(InputError, match="image 5 holds NaN or infinity"):
        opened(in_memory(stored, UNBOUNDED), split_seed=1)


def test_the_order_of_a_seed_has_not_changed_since_it_was_first_used():
    # Literal values: the same images must stay held out, and clean, in every later version.
    assert noisy.shuffled(8, 0).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
    assert noisy.shuffled(8, 0, 1).tolist() == [3, 7, 4, 2, 1, 6, 5, 0]


def test_noise_that_the_data_states_is_never_added_to():
    images = in_memory(np.zeros((6, 2), np.float32), Scaling(-1, 1, "float32"), sigma_tn=np.full(6, 0.2, np.float32))
    with pytest.raises(InputError, match=r"set data\.noisy_already=True"):
        open_dataset(images, NoiseModel(0.5), held_out=0.5, split_seed=0)


HASHES = """
import hashlib
import numpy as np
from tweedie_diffusion.data.noisy import NoiseModel, open_dataset
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import Images, in_memory
stored = np.linspace(-1, 1, 640, dtype=np.float32).reshape(40, 4, 4, 1)
train = open_dataset(in_memory(stored, Scaling(-1, 1, "float32")), NoiseModel(0.3), held_out=0.25, split_seed=0).train
print(hashlib.sha256(b"".join(train[i]["x_tn"].tobytes() for i in range(30))).hexdigest())
"""


def test_the_noise_is_the_same_on_any_number_of_devices():
    shown = set()
    for devices in (1, 8):
        flags = os.environ | {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        run = subprocess.run([sys.executable, "-c", HASHES], env=flags, capture_output=True, text=True, check=True)
        shown.add(run.stdout)
    assert len(shown) == 1
    assert len(shown.pop().strip()) == 64


@pytest.fixture
def large():
    """Images of several sizes, of which examples are squares of 4."""
    shapes = [(4, 9), (7, 4), (12, 11)] * 4
    stored = [np.random.default_rng(i).normal(size=(*shape, 1)).astype(np.float32) for i, shape in enumerate(shapes)]
    return Images(stored.__getitem__, len(stored), (4, 4, 1), UNBOUNDED, cropped=True)


def test_squares_carry_the_number_of_their_image(large):
    held_out = opened(large, present=True).held_out
    np.testing.assert_array_equal(held_out.rows(np.arange(3))["index"], held_out._indices)


def test_clean_squares_are_the_central_ones(large):
    dataset = opened(large, sigma_tn=0.3)
    clean = dataset.held_out_clean(0)
    assert clean.shape == tuple(large.shape)
    noise = dataset.held_out[0]["x_tn"] - clean
    assert 0.2 < noise.std() < 0.4


def test_held_out_squares_are_the_central_ones(large):
    dataset = opened(large, present=True)
    for i in range(len(dataset.held_out)):
        image = large.read(int(dataset.held_out._indices[i]))
        top, left = (image.shape[0] - 4) // 2, (image.shape[1] - 4) // 2
        np.testing.assert_array_equal(dataset.held_out[i]["x_tn"], image[top : top + 4, left : left + 4])


def test_training_squares_lie_anywhere_and_share_the_noise_of_their_image(large):
    dataset = opened(large, 0.3)
    images = {}
    for seed in range(800):
        for i in range(len(dataset.train)):
            square = dataset.train.rows(np.array([i]), np.random.default_rng(seed).random((1, 2)))["x_tn"][0]
            images.setdefault(i, set()).add(square.tobytes())
    for i, squares in images.items():
        height, width = large.read(int(dataset.train._indices[i])).shape[:2]
        assert len(squares) == (height - 3) * (width - 3)  # one noise, so one square a place


def test_squares_are_the_same_without_the_memory_cache(large, monkeypatch):
    rows = lambda: opened(large, 0.3).train.rows(np.arange(6), np.random.default_rng(1).random((6, 2)))["x_tn"]
    cached = rows()
    monkeypatch.setattr(noisy, "CACHE_BYTES", 0)
    np.testing.assert_array_equal(rows(), cached)
