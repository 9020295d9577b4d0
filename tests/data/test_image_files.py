import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.data.errors import BadFiles, InputError
from tweedie_diffusion.data.scaling import ScalingRule
from tweedie_diffusion.data.sources import open_images


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def reasons(caught):
    return "\n".join(caught.value.lines)


def save(array, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def grey(rng):
    return rng.integers(0, 256, (4, 6), dtype=np.uint8)


@pytest.fixture
def colour(rng):
    return rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)


def test_grey_images_have_one_channel(tmp_path, grey):
    save(grey, tmp_path / "a.png")
    images = open_images(str(tmp_path))
    assert (images.count, images.shape) == (1, (4, 6, 1))
    np.testing.assert_array_equal(images.read(0)[..., 0], grey)


def test_colour_images_have_three(tmp_path, colour):
    save(colour, tmp_path / "a.png")
    np.testing.assert_array_equal(open_images(str(tmp_path)).read(0), colour)


def test_sixteen_bit_grey_keeps_its_depth(tmp_path, rng):
    stored = rng.integers(0, 2**16, (4, 6), dtype=np.uint16)
    save(stored, tmp_path / "a.png")
    images = open_images(str(tmp_path))
    assert (images.scaling.high, images.scaling.dtype) == (65535, "uint16")
    np.testing.assert_array_equal(images.read(0)[..., 0], stored)


def test_jpegs_are_read(tmp_path):
    save(np.full((8, 8, 3), 90, np.uint8), tmp_path / "a.jpg", quality=95)
    save(np.full((8, 8, 3), 160, np.uint8), tmp_path / "b.JPEG", quality=95)
    images = open_images(str(tmp_path))
    assert [abs(int(images.read(i)[4, 4, 0]) - value) <= 2 for i, value in enumerate((90, 160))] == [True, True]


def test_palettes_become_colours(tmp_path):
    flat = np.repeat(np.uint8([[[200, 10, 30]], [[5, 90, 250]]]), 6, axis=1)
    Image.fromarray(flat).quantize(4).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
    np.testing.assert_array_equal(open_images(str(tmp_path)).read(0), flat)


def test_bilevel_images_become_black_and_white(tmp_path):
    stored = np.array([[True, False, True]])
    save(stored, tmp_path / "a.png")
    np.testing.assert_array_equal(open_images(str(tmp_path)).read(0)[..., 0], np.where(stored, 255, 0))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_refused(tmp_path, mode, grey, colour):
    save(colour, tmp_path / "a.png")
    image = Image.fromarray(colour if mode == "RGBA" else grey)
    if mode == "PA":
        image.convert("P").save(tmp_path / "b.png", transparency=0)
    else:
        image.convert(mode).save(tmp_path / "b.png")
    with pytest.raises(BadFiles) as caught:
        open_images(str(tmp_path))
    assert reasons(caught) == "b.png has transparency, which has no noise model: save it without"


def test_inks_are_refused(tmp_path, colour):
    Image.fromarray(colour).convert("CMYK").save(tmp_path / "a.jpg")
    with pytest.raises(BadFiles) as caught:
        open_images(str(tmp_path))
    assert reasons(caught) == "a.jpg is CMYK, inks and not light: convert it to RGB or grey"


def test_every_unreadable_file_is_named_once(tmp_path, grey):
    for name in ("a", "c", "d"):
        save(grey, tmp_path / f"{name}.png")
    whole = (tmp_path / "c.png").read_bytes()
    (tmp_path / "c.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.jpg").write_text("no image")
    (tmp_path / "e.png").write_bytes(b"")
    with pytest.raises(BadFiles, match=r"3 of 5 files in .* cannot be used: .* data.lenient=True") as caught:
        open_images(str(tmp_path))
    assert [line.split()[0] for line in caught.value.lines] == ["b.jpg", "c.png", "e.png"]


@pytest.mark.parametrize("settings", [{}, {"crop": 4}])
def test_sizes_that_do_not_suit_are_named_with_the_unreadable(tmp_path, grey, settings):
    for name in ("a", "c", "d"):
        save(grey, tmp_path / f"{name}.png")
    save(grey[:3], tmp_path / "b.png")
    (tmp_path / "e.png").write_bytes(b"")
    with pytest.raises(BadFiles, match=r"2 of 5 files in .* cannot be used") as caught:
        open_images(str(tmp_path), **settings)
    assert caught.value.lines[0] == "b.png is 3×6"
    assert caught.value.lines[1].startswith("e.png ")


def test_lenient_leaves_bad_files_out_and_says_which(tmp_path, grey):
    save(grey, tmp_path / "b.png")
    (tmp_path / "a.png").write_text("no image")
    images = open_images(str(tmp_path), lenient=True)
    assert images.count == 1
    assert [name for name, _ in images.excluded] == ["a.png"]
    np.testing.assert_array_equal(images.read(0)[..., 0], grey)


def test_mixed_sizes_are_told_the_mend(tmp_path, grey):
    save(grey, tmp_path / "a.png")
    save(grey[:3], tmp_path / "b.png")
    with pytest.raises(InputError, match=r"differ in size \(4×6, 3×6, …\): train on squares .*data.crop=2"):
        open_images(str(tmp_path))


def test_images_smaller_than_the_squares_are_named(tmp_path, grey):
    save(grey, tmp_path / "a.png")
    save(grey[:3], tmp_path / "b.png")
    with pytest.raises(BadFiles, match=r"1 files are smaller than data.crop=4: .* data.lenient=True") as caught:
        open_images(str(tmp_path), crop=4)
    assert reasons(caught) == "b.png is 3×6"
    images = open_images(str(tmp_path), crop=4, lenient=True)
    assert (images.count, images.excluded) == (1, (("b.png", "b.png is 3×6"),))
    with pytest.raises(BadFiles, match="no file can be used"):
        open_images(str(tmp_path), crop=5, lenient=True)


def test_a_few_of_another_size_than_most_are_named(tmp_path, grey):
    for name in ("a", "b", "d"):
        save(grey, tmp_path / f"{name}.png")
    save(grey[:3], tmp_path / "c.png")
    mend = r"1 files are not 4×6, as most are: remove them, set data.lenient=True .*, or train on squares .*data.crop=2"
    with pytest.raises(BadFiles, match=mend) as caught:
        open_images(str(tmp_path))
    assert reasons(caught) == "c.png is 3×6"
    images = open_images(str(tmp_path), lenient=True)
    assert (images.count, images.shape, images.excluded) == (3, (4, 6, 1), (("c.png", "c.png is 3×6"),))
    assert [images.name(i) for i in range(3)] == ["a.png", "b.png", "d.png"]


@pytest.fixture
def bad_files(tmp_path, grey, colour):
    """A folder of eight good files and one of each bad kind; the start of what is said of each of these."""
    folder = tmp_path / "images"
    for i in range(8):
        save(grey, folder / f"good{i}.png")
    whole = (folder / "good0.png").read_bytes()
    (folder / "truncated.png").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("no image")
    Image.fromarray(colour).convert("CMYK").save(folder / "inks.jpg")
    Image.fromarray(grey).convert("LA").save(folder / "alpha.png")
    save(colour, folder / "colour.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    (folder / "itself.png").symlink_to(folder / "itself.png")
    (folder / "one.png").symlink_to(folder / "other.png")
    (folder / "other.png").symlink_to(folder / "one.png")
    (folder / "parent").symlink_to(tmp_path)  # no file, and entered no second time
    (folder / "loop").symlink_to(folder / "loop")
    return folder, {
        "alpha.png": "has transparency",
        "colour.png": "is 3 channels of uint8, most are 1 channel of uint8",
        "dangling.png": "cannot be read: No such file or directory",
        "empty.png": "is not a readable picture",
        "inks.jpg": "is CMYK",
        "itself.png": "cannot be read: Too many levels of symbolic links",
        "one.png": "cannot be read: Too many levels of symbolic links",
        "other.png": "cannot be read: Too many levels of symbolic links",
        "text.jpg": "is not a readable picture",
        "truncated.png": "is not a readable picture",
    }


def test_one_scan_names_every_bad_file_in_one_line(bad_files):
    folder, expected = bad_files
    with pytest.raises(BadFiles, match=f"{len(expected)} of {len(expected) + 8} files in .* cannot be used") as caught:
        open_images(str(folder))
    assert [line.split()[0] for line in caught.value.lines] == list(expected)
    for line, (name, why) in zip(caught.value.lines, expected.items(), strict=True):
        assert line.startswith(f"{name} {why}")
        assert "\n" not in line


def test_lenient_leaves_out_the_same_files_at_every_start(bad_files, grey):
    folder, expected = bad_files
    save(grey[:3], folder / "small.png")
    first, again = (open_images(str(folder), lenient=True) for _ in range(2))
    assert first.excluded == again.excluded
    assert [name for name, _ in first.excluded] == sorted([*expected, "small.png"])
    assert [first.name(i) for i in range(first.count)] == [f"good{i}.png" for i in range(8)]
    assert first.fingerprint() == again.fingerprint()


def test_squares_are_cut_from_images_of_any_size(tmp_path, grey):
    save(grey, tmp_path / "a.png")
    save(grey[:3], tmp_path / "b.png")
    images = open_images(str(tmp_path), crop=3)
    assert (images.shape, images.cropped) == ((3, 3, 1), True)
    assert images.read(1).shape == (3, 6, 1)


def test_other_channels_than_most_are_named(tmp_path, grey, colour):
    for name in ("a", "b"):
        save(colour, tmp_path / f"{name}.png")
    save(grey, tmp_path / "c.png")
    with pytest.raises(BadFiles) as caught:
        open_images(str(tmp_path))
    assert reasons(caught) == "c.png is 1 channel of uint8, most are 3 channels of uint8"


def test_other_depths_than_most_are_named(tmp_path, grey):
    for name in ("a", "b"):
        save(grey, tmp_path / f"{name}.png")
    save(grey.astype(np.uint16), tmp_path / "c.png")
    with pytest.raises(BadFiles) as caught:
        open_images(str(tmp_path))
    assert reasons(caught) == "c.png is 1 channel of uint16, most are 1 channel of uint8"


def test_a_folder_without_images_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / ".hidden.png").write_text("none")
    with pytest.raises(InputError, match="there is no image in"):
        open_images(str(tmp_path))


def test_subfolders_are_read_in_the_order_of_names(tmp_path):
    values = {"b/1.png": 30, "a/2.png": 20, "c.png": 40, "a/1.png": 10}
    for name, value in values.items():
        save(np.full((4, 4), value, np.uint8), tmp_path / name)
    images = open_images(str(tmp_path))
    assert [images.read(i)[0, 0, 0] for i in range(4)] == [10, 20, 30, 40]


def test_clean_images_of_several_sizes_become_one(tmp_path):
    stripes = np.zeros((4, 8), np.uint8)
    stripes[:, 2:4], stripes[:, 4:6] = 100, 200  # the central square is [100, 200]
    save(stripes, tmp_path / "a.png")
    save(np.full((6, 2), 50, np.uint8), tmp_path / "b.png")
    images = open_images(str(tmp_path), image_size=2)
    np.testing.assert_array_equal(images.read(0)[..., 0], [[100, 200], [100, 200]])
    np.testing.assert_array_equal(images.read(1)[..., 0], np.full((2, 2), 50))


def test_noisy_images_are_never_resized(tmp_path, grey):
    save(grey, tmp_path / "a.png")
    with pytest.raises(InputError, match="would change their noise: set it to 0 for noisy images"):
        open_images(str(tmp_path), image_size=2, clean=False)


def test_an_image_too_small_is_named_by_its_size(tmp_path, grey):
    save(grey, tmp_path / "a.png")
    with pytest.raises(BadFiles, match=r"1 files are smaller than data.image_size=5") as caught:
        open_images(str(tmp_path), image_size=5)
    assert reasons(caught) == "a.png is 4×6"


def test_a_stated_range_is_used(tmp_path):
    save(np.full((2, 2), 100, np.uint8), tmp_path / "a.png")
    images = open_images(str(tmp_path), rule=ScalingRule((0, 100)))
    np.testing.assert_allclose(images.scaling.to_unit(images.read(0)), np.ones((2, 2, 1)), rtol=1e-6)


def test_16_bits_a_colour_are_refused_and_not_read_as_8(tmp_path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)  # 2×1, 16 bits, colour
    rows = b"\x00" + bytes(range(12))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    with pytest.raises(BadFiles) as caught:
        open_images(str(tmp_path))
    assert reasons(caught) == "deep.png has 16 bits a colour, which would be read as 8: save it as TIFF"
