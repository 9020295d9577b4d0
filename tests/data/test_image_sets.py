import io
import tarfile

import numpy as np
import pytest
import tifffile
from PIL import Image

from tweedie_diffusion.data.catalog import catalog
from tweedie_diffusion.data.image_sets import encoded, shard_paths, suffix_for, write_folder, write_shards
from tweedie_diffusion.data.whole import whole_folder


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)


def in_archive(path):
    with tarfile.open(path) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


@pytest.mark.parametrize(
    ("dtype", "channels", "suffix"),
    [
        *[("uint8", 1, ".png"), ("uint8", 3, ".png"), ("uint8", 2, ".tif"), ("uint16", 1, ".png")],
        *[("uint16", 3, ".tif"), ("float32", 1, ".tif"), ("int16", 1, ".tif")],
    ],
)
def test_an_image_is_kept_in_its_own_values(rng, dtype, channels, suffix):
    top = 60_000 if dtype == "uint16" else 127
    frame = (top * rng.random((4, 5, channels))).astype(dtype)
    assert suffix_for(dtype, frame.shape) == suffix
    file = io.BytesIO(encoded(frame, suffix, "a note"))
    read = np.asarray(Image.open(file)) if suffix == ".png" else tifffile.imread(file)
    assert read.dtype == frame.dtype
    np.testing.assert_array_equal(read, frame[..., 0] if channels == 1 else frame)


def test_a_folder_holds_every_image_under_its_number(images, tmp_path):
    write_folder(tmp_path, iter(np.split(images, [4, 8])), 10, "a note")
    found = sorted(tmp_path.iterdir())
    assert [path.name for path in found] == [f"{i:06d}.png" for i in range(10)]
    np.testing.assert_array_equal([np.asarray(Image.open(path)) for path in found], images)


def test_names_grow_with_the_number_of_images(tmp_path):
    write_folder(tmp_path, iter([np.zeros((1, 2, 2, 1), np.uint8)]), 10**6 + 1, "a note")
    assert [path.name for path in tmp_path.iterdir()] == ["0000000.png"]


def test_archives_hold_images_beside_their_classes(images, tmp_path):
    paths, labels = shard_paths(tmp_path / "x-%05d.tar", 10, 4), np.arange(10) % 3
    write_shards(paths, iter(np.split(images, [3, 7])), labels, 10, 4, "a note")
    assert [path.name for path in paths] == ["x-00000.tar", "x-00001.tar", "x-00002.tar"]
    assert list(in_archive(paths[2])) == ["000008.png", "000008.cls", "000009.png", "000009.cls"]
    together = {name: data for path in paths for name, data in in_archive(path).items()}
    for i in range(10):
        assert together[f"{i:06d}.cls"] == str(i % 3).encode()
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(together[f"{i:06d}.png"]))), images[i])


def test_an_archive_depends_on_its_images_alone(images, tmp_path):
    for name, cut in (("a.tar", [5]), ("b.tar", [2, 9])):
        write_shards([tmp_path / name], iter(np.split(images, cut)), None, 10, 10, "a note")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in archive} == {(0, 0, 0, "", "", 0o644)}


def test_an_archive_can_be_read_as_data(images, tmp_path):
    write_shards([tmp_path / "x.tar"], iter([images]), np.zeros(10, int), 10, 10, "a note")
    entries = catalog(str(tmp_path / "x.tar"))
    assert len(entries) == 10
    np.testing.assert_array_equal(entries[3].open().read(0), images[3])


def test_a_folder_is_whole_or_not_there(tmp_path):
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "old").write_text("as a kill left it")

    def stopped():
        with whole_folder(tmp_path / "out") as folder:
            (folder / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []
    with whole_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("")
        assert [path.name for path in tmp_path.iterdir()] == [".out.part"]
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["out", "out/new"]
