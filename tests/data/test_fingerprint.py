import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.data.fingerprint import fingerprint
from tweedie_diffusion.data.levels import StatedNoise, resolve
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.data.sources import Images, open_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path):
    for i in range(4):
        save(tmp_path / "images" / f"{i}.png", i)
    return tmp_path / "images"


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def of(source, **settings):
    return open_images(str(source), **settings).fingerprint()


def test_where_a_part_ends_counts():
    ones = np.ones(4, np.uint8)
    parts = [
        ["ab", "c"],
        ["a", "bc"],
        ["abc"],
        [ones],
        [ones[:2], ones[2:]],
        [ones.reshape(2, 2)],
        [ones.view(np.int8)],
    ]
    assert len({fingerprint(some) for some in parts}) == len(parts)


def test_arrays_in_several_pieces_or_another_order_in_memory_are_the_same_to_it(monkeypatch, rng):
    array = rng.normal(size=(7, 5, 3))
    whole = fingerprint([array])
    assert fingerprint([np.asfortranarray(array)]) == whole
    monkeypatch.setattr("tweedie_diffusion.data.fingerprint.AT_ONCE", 2 * array[0].nbytes)
    assert fingerprint([array]) == whole
    assert fingerprint([array[::-1]]) != whole


@pytest.mark.parametrize("changed", ["images", "labels", "sigma_tn"])
def test_every_array_of_an_npz_counts(tmp_path, rng, changed):
    arrays = {"images": rng.uniform(-1, 1, (5, 4, 4)), "labels": np.arange(5), "sigma_tn": np.full(5, 0.1)}
    np.savez(tmp_path / "a.npz", **arrays)
    np.savez_compressed(tmp_path / "b.npz", **arrays)
    assert of(tmp_path / "a.npz", clean=False) == of(tmp_path / "b.npz", clean=False)
    arrays[changed].flat[0] += 1
    np.savez(tmp_path / "b.npz", **arrays)
    assert of(tmp_path / "a.npz", clean=False) != of(tmp_path / "b.npz", clean=False)


@pytest.mark.parametrize("source", ["digits", "mixture_2d"])
def test_built_in_data_has_one_too(source):
    assert len(of(source)) == 32
    assert of(source) == of(source)


def test_a_folder_keeps_it_wherever_it_lies_and_whenever_it_was_written(folder, tmp_path):
    first = of(folder)
    shutil.copytree(folder, tmp_path / "copied", copy_function=shutil.copy)  # with new times
    os.utime(folder / "2.png", ns=(1, 1))
    folder.rename(tmp_path / "moved")
    assert of(tmp_path / "copied") == of(tmp_path / "moved") == first


@pytest.mark.parametrize("mend", ["change", "remove", "rename", "add"])
def test_every_file_counts(folder, mend):
    first = of(folder)
    {
        "change": lambda: save(folder / "1.png", 77),
        "remove": lambda: (folder / "1.png").unlink(),
        "rename": lambda: (folder / "1.png").rename(folder / "9.png"),
        "add": lambda: save(folder / "9.png", 9),
    }[mend]()
    assert of(folder) != first


def test_a_file_left_out_does_not_count_until_it_is_mended(folder):
    first = of(folder)
    (folder / "5.png").write_text("no image")
    assert of(folder, lenient=True) == first
    save(folder / "5.png", 5)
    assert of(folder, lenient=True) != first


def test_levels_of_a_table_count(folder, tmp_path):
    found = set()
    for low in (0.1, 0.2):
        rows = [f"{i}.png,{low if i < 2 else 0.5}" for i in range(4)]
        (tmp_path / "levels.csv").write_text("\n".join(["file,sigma", *rows]))
        stated = StatedNoise(0.0, source=str(tmp_path / "levels.csv"))
        found.add(resolve(stated, open_images(str(folder), clean=False))[1].fingerprint())
    assert len(found) == 2


def test_images_of_which_nothing_is_known_have_none():
    assert Images(lambda i: np.zeros(2), 3, (2,), Scaling(-1, 1, "float32")).fingerprint() == ""
