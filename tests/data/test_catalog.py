import errno
import json
import os
import tarfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from tweedie_diffusion.data import catalog as module
from tweedie_diffusion.data.catalog import catalog, duplicates, is_catalog
from tweedie_diffusion.data.errors import InputError


@pytest.fixture
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def looked_at(monkeypatch):
    """The names of the files that were opened."""
    names = []
    examine = module._examine

    def counted(entry, **how):
        names.append(entry.name)
        return examine(entry, **how)

    monkeypatch.setattr(module, "_examine", counted)
    return names


def save(path, value, side=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, np.uint8)).save(path)


def test_an_npz_that_states_labels_is_taken_alone_only(tmp_path, cache):
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", images=np.zeros((2, 4, 4)), labels=[0, 1])
    assert "a.npz states labels, which are read from a single .npz only" in catalog(str(tmp_path), cache=cache)[0].error
    assert not catalog(str(tmp_path / "a.npz"), cache=cache)[0].error


def test_files_are_listed_by_name_with_what_is_in_them(tmp_path, cache):
    for name in ("b/1.png", "a/2.png", "c.png"):
        save(tmp_path / name, 3)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / ".hidden.png").write_text("none")
    entries = catalog(str(tmp_path), cache=cache)
    assert [e.name for e in entries] == ["a/2.png", "b/1.png", "c.png"]
    assert {(e.frames, e.shape, e.dtype, e.error) for e in entries} == {(1, (4, 4, 1), "uint8", "")}


def test_a_second_look_reads_only_what_changed(tmp_path, cache, looked_at):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, 3)
    first = catalog(str(tmp_path), cache=cache)
    assert catalog(str(tmp_path), cache=cache) == first
    assert looked_at == ["a.png", "b.png"]
    save(tmp_path / "b.png", 4, side=6)
    save(tmp_path / "c.png", 5)
    (tmp_path / "a.png").unlink()
    entries = catalog(str(tmp_path), cache=cache)
    assert [(e.name, e.shape[0]) for e in entries] == [("b.png", 6), ("c.png", 4)]
    assert looked_at == ["a.png", "b.png", "b.png", "c.png"]


@pytest.mark.parametrize("damage", ["", "[]", '{"version": 99}', '{"version": 1, "entries": [[1]]}'])
def test_a_damaged_cache_is_made_again(tmp_path, cache, damage):
    save(tmp_path / "a.png", 3)
    expected = catalog(str(tmp_path), cache=cache)
    (kept,) = cache.iterdir()
    json.loads(kept.read_text())
    kept.write_text(damage)
    assert catalog(str(tmp_path), cache=cache) == expected


def test_a_bad_file_is_looked_at_again(tmp_path, cache):
    (tmp_path / "a.png").write_text("none")
    (before,) = catalog(str(tmp_path), cache=cache)
    assert before.error.startswith("a.png is not a readable picture")
    (again,) = catalog(str(tmp_path), cache=cache)
    assert again.error == before.error


def test_members_of_archives_are_read_where_they_lie(tmp_path, cache):
    for i in range(3):
        save(tmp_path / f"{i}.png", 10 * i)
    with tarfile.open(tmp_path / "shard-0.tar", "w") as shard:
        for i in (2, 0, 1):
            shard.add(tmp_path / f"{i}.png", f"set/{i}.png")
    entries = catalog(str(tmp_path / "shard-*.tar"), cache=cache)
    assert [e.name for e in entries] == [f"shard-0.tar/set/{i}.png" for i in range(3)]
    assert [int(e.open().read(0)[0, 0, 0]) for e in entries] == [0, 10, 20]


def test_a_compressed_archive_is_an_error_of_that_archive(tmp_path, cache):
    save(tmp_path / "a.png", 1)
    with tarfile.open(tmp_path / "a.tar", "w:gz") as shard:
        shard.add(tmp_path / "a.png", "a.png")
    good, bad = catalog(str(tmp_path), cache=cache)
    assert good.name == "a.png"
    assert not good.error
    assert bad.error.startswith("a.tar is not a readable, uncompressed tar archive")


@pytest.mark.parametrize(
    ("members", "error"),
    [(["../b.png"], "a.tar/../b.png lies outside of its archive"), (["b.png", "b.png"], "is in its archive twice")],
)
def test_members_that_would_be_written_elsewhere_are_errors(tmp_path, cache, members, error):
    save(tmp_path / "b.png", 1)
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        for name in members:
            shard.add(tmp_path / "b.png", name)
    assert error in [entry.error for entry in catalog(str(tmp_path / "a.tar"), cache=cache)][-1]


def test_what_only_looks_like_an_image_is_an_error_of_that_file(tmp_path, cache, rng):
    os.mkfifo(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", rng.integers(0, 99, (64, 64), dtype=np.uint8), compression="zlib")
    content = (tmp_path / "b.tif").read_bytes()
    (tmp_path / "b.tif").write_bytes(content[:300] + bytes(64) + content[364:])
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "c.gif")
    (tmp_path / "c.gif").rename(tmp_path / "c.png")
    np.save(tmp_path / "d.npy", np.zeros((2, 4, 4), complex))
    errors = [entry.error for entry in catalog(str(tmp_path), cache=cache)]
    assert errors[0] == "a.png is no file"
    assert errors[1].startswith("b.tif is not a readable TIFF")
    assert errors[2].startswith("c.png is not a readable picture")
    assert "must be numbers" in errors[3]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.png", ["0.png", "x/1.png", "x/y/2.png"]),
        ("*.png", ["0.png"]),
        ("x/*.png", ["1.png"]),
        ("?", ["x/1.png", "x/3.jpg", "x/y/2.png"]),  # all that is in a folder
        ("*/[yz]/**", ["x/y/2.png"]),
    ],
)
def test_patterns_reach_into_folders(tmp_path, cache, pattern, expected):
    for name in ("0.png", "x/1.png", "x/y/2.png", "x/3.jpg"):
        save(tmp_path / name, 3)
    (tmp_path / "x" / "y" / "loop").symlink_to(tmp_path)
    assert [e.name for e in catalog(str(tmp_path / pattern), cache=cache)] == expected


def test_links_are_followed_and_loops_end(tmp_path, cache):
    save(tmp_path / "real" / "a.png", 3)
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "other").symlink_to(tmp_path / "real")
    assert [e.name for e in catalog(str(tmp_path / "linked"), cache=cache)] == ["other/a.png"]


def test_a_link_to_nowhere_is_an_error_of_that_file(tmp_path, cache):
    (tmp_path / "a.png").symlink_to(tmp_path / "nowhere.png")
    (entry,) = catalog(str(tmp_path), cache=cache)
    assert entry.error == "a.png cannot be read: No such file or directory"


def test_a_file_that_may_not_be_read_is_an_error_of_that_file(tmp_path, cache, monkeypatch):
    def refuse(_):  # as the system does, but for root
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    save(tmp_path / "a.png", 3)
    monkeypatch.setattr(module, "opened", refuse)
    (entry,) = catalog(str(tmp_path), cache=cache)
    assert entry.error == "a.png cannot be read: Permission denied"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_errors_of_the_file(tmp_path, cache, bad):
    np.save(tmp_path / "a.npy", np.full((1, 4, 4), bad, np.float32))
    (entry,) = catalog(str(tmp_path), cache=cache)
    assert entry.error == "a.npy holds NaN or infinity"


def test_equal_files_are_found(tmp_path, cache):
    for name, value in (("a", 1), ("b", 2), ("c", 1)):
        save(tmp_path / f"{name}.png", value)
    assert duplicates(catalog(str(tmp_path), cache=cache)) == [["a.png", "c.png"]]


@pytest.mark.parametrize("name", ["nowhere", "*.png"])
def test_no_image_is_an_error(tmp_path, cache, name):
    with pytest.raises(InputError, match=r"does not exist|there is no image in"):
        catalog(str(tmp_path / name), cache=cache)


@pytest.mark.parametrize(
    ("name", "expected"), [("", True), ("*.png", True), ("a.png", True), ("b.txt", False), ("c.png", False)]
)
def test_what_can_be_listed(tmp_path, name, expected):
    save(tmp_path / "a.png", 1)
    (tmp_path / "b.txt").write_text("none")
    assert is_catalog(str(tmp_path / name)) is expected
