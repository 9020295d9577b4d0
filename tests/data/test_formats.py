import os
import pickle

import numpy as np
import pytest
import tifffile

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import Frames, is_image, open_frames, write_frames

CASES = [
    (".png", "uint8", 1, 1),
    (".png", "uint16", 1, 1),
    (".png", "uint8", 1, 3),
    (".tif", "uint8", 1, 3),
    (".tif", "uint16", 3, 1),
    (".tiff", "float32", 2, 1),
    (".tif", "float32", 1, 5),
    (".fits", "float32", 1, 1),
    (".fits", "uint16", 3, 1),
    (".fits", "int16", 2, 1),
    (".mrc", "float32", 2, 1),
    (".mrcs", "int16", 3, 1),
    (".mrc", "uint16", 1, 1),
    (".h5", "float64", 3, 3),
    (".hdf5", "uint16", 3, 1),
    (".npy", "float32", 3, 2),
    (".npz", "uint16", 3, 1),
]


@pytest.fixture
def frames(rng):
    """frames(dtype, count, channels): random ones, and what `write_frames` wants to know of them."""

    def make(dtype, count, channels):
        images = (rng.random((count, 12, 16, channels)) * 200).astype(dtype)
        return images, Frames(count, images.shape[1:], images.dtype, images.__getitem__)

    return make


def read_all(name, source):
    opened = open_frames(name, source)
    images = np.stack([opened.read(i) for i in range(opened.count)])
    assert (opened.shape, opened.dtype) == (images.shape[1:], images.dtype)
    return images


@pytest.mark.parametrize(("suffix", "dtype", "count", "channels"), CASES)
def test_what_is_written_is_read_back(tmp_path, frames, suffix, dtype, count, channels):
    images, like = frames(dtype, count, channels)
    path = tmp_path / f"a{suffix}"
    write_frames(path, images, like, "a note")
    for source in (path, path.read_bytes()):  # a file, and a member of an archive
        read = read_all(path.name, source)
        assert read.dtype == images.dtype
        np.testing.assert_array_equal(read, images)
    again = tmp_path / f"b{suffix}"
    write_frames(again, images, open_frames(path.name, path), "with the header of the first")
    np.testing.assert_array_equal(read_all(again.name, again), images)


@pytest.mark.filterwarnings("ignore::astropy.io.fits.verify.VerifyWarning")
@pytest.mark.parametrize("suffix", [".png", ".tif", ".fits", ".mrc", ".h5", ".npy", ".npz"])
@pytest.mark.parametrize("keep", [0, 200])
def test_damaged_files_are_named(tmp_path, frames, suffix, keep):
    images, like = frames("float32" if suffix != ".png" else "uint8", 1, 1)
    path = tmp_path / f"a{suffix}"
    write_frames(path, images, like, "a note")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"a{suffix} is not a readable|a{suffix} is damaged"):
        open_frames(path.name, path).read(0)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_pickled_objects_are_refused_and_never_run(tmp_path, suffix):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    planted, path = np.array([Trap()], dtype=object), tmp_path / f"a{suffix}"
    np.savez(path, images=planted) if suffix == ".npz" else np.save(path, planted)
    with pytest.raises(InputError, match="is not a readable NumPy file"):
        open_frames(path.name, path)
    assert not (tmp_path / "sprung").exists()
    pickle.loads(pickle.dumps(planted))
    assert (tmp_path / "sprung").exists(), "the trap does not work"


def test_a_tiff_keeps_its_resolution_and_units_and_gets_the_note(tmp_path, frames):
    images, _ = frames("uint16", 2, 1)
    written = {
        "resolution": (2.5, 2.5),
        "extratags": [(315, "s", 0, "Ada", True)],
        "metadata": {"unit": "um", "spacing": 0.3},
    }
    tifffile.imwrite(tmp_path / "a.tif", images[..., 0], imagej=True, **written)
    write_frames(tmp_path / "b.tif", images, open_frames("a.tif", tmp_path / "a.tif"), "model 123")
    with tifffile.TiffFile(tmp_path / "a.tif") as before, tifffile.TiffFile(tmp_path / "b.tif") as after:
        for tag in ("XResolution", "YResolution", "ResolutionUnit", "Artist"):
            assert after.pages[0].tags[tag].value == before.pages[0].tags[tag].value
        assert (after.imagej_metadata["unit"], after.imagej_metadata["spacing"]) == ("um", 0.3)
        assert after.pages[0].software == "model 123; before it: tifffile.py"


def test_a_tiff_keeps_its_texts_private_tags_and_the_description_of_every_page(tmp_path, frames):
    images, _ = frames("uint16", 3, 1)
    tags = [(306, "s", 0, "20230101 12:00:00.123", True), (33550, "d", 3, (0.5, 0.5, 0.0), True)]  # GeoTIFF's scale
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for n, image in enumerate(images[..., 0]):
            settings = {"metadata": None, "resolution": (0, 0), "software": "camera"}
            writer.write(image, description=f"frame {n}", extratags=[] if n else tags, **settings)
    write_frames(tmp_path / "b.tif", images, open_frames("a.tif", tmp_path / "a.tif"), "model 123")
    with tifffile.TiffFile(tmp_path / "b.tif") as after:
        first = after.pages[0]
        assert [page.description for page in after.pages] == ["frame 0", "frame 1", "frame 2"]
        assert (first.tags[306].value, first.tags[33550].value) == ("20230101 12:00:00.123", (0.5, 0.5, 0.0))
        assert first.software == "model 123; before it: camera"


def test_labels_of_imagej_stay(tmp_path, frames):
    images, _ = frames("uint16", 3, 1)
    tifffile.imwrite(tmp_path / "a.tif", images[..., 0], imagej=True, metadata={"Labels": ["x", "y", "z"]})
    write_frames(tmp_path / "b.tif", images, open_frames("a.tif", tmp_path / "a.tif"), "model 123")
    with tifffile.TiffFile(tmp_path / "b.tif") as after:
        assert after.imagej_metadata["Labels"] == ["x", "y", "z"]


@pytest.mark.parametrize("channels", [4, 5])
def test_colours_with_further_channels_come_back(tmp_path, frames, channels):
    images, _ = frames("uint16", 1, channels)
    tifffile.imwrite(tmp_path / "a.tif", images[0], photometric="rgb", extrasamples=(0,) * (channels - 3))
    write_frames(tmp_path / "b.tif", images, open_frames("a.tif", tmp_path / "a.tif"), "model 123")
    np.testing.assert_array_equal(read_all("b.tif", tmp_path / "b.tif"), images)


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("apart", [False, True])
def test_a_stack_that_was_cut_off_is_named(tmp_path, rng, share, apart):
    """Its first pages alone are a good file."""
    pages = rng.integers(0, 2**16, (20, 64, 64), dtype=np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for part in pages if apart else [pages]:
            writer.write(part, photometric="minisblack", metadata=None)
    whole = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"a.tif is cut off after \d+ pages"):
        open_frames("a.tif", tmp_path / "a.tif")


def test_images_that_only_their_program_finds_are_not_left_out(tmp_path, rng):
    tifffile.imwrite(tmp_path / "a.tif", rng.integers(0, 9, (5, 8, 8), dtype=np.uint16), truncate=True)
    with pytest.raises(InputError, match=r"a\.tif states 5 images and has 1 pages"):
        open_frames("a.tif", tmp_path / "a.tif")


def test_other_arrays_of_an_npz_stay(tmp_path, frames):
    images, _ = frames("float32", 3, 1)
    np.savez(tmp_path / "a.npz", images=images[..., 0], wavelength=[1.0, 2.0, 3.0])
    write_frames(tmp_path / "b.npz", images + 1, open_frames("a.npz", tmp_path / "a.npz"), "model 123")
    after = np.load(tmp_path / "b.npz")
    np.testing.assert_array_equal(after["images"], images[..., 0] + 1)
    assert list(after["wavelength"]) == [1.0, 2.0, 3.0]


def test_a_fits_keeps_its_header_and_gets_the_note(tmp_path, frames):
    from astropy.io import fits

    images, _ = frames("float32", 1, 1)
    header = fits.Header({"OBJECT": "M31", "EXPTIME": 30.0})
    fits.PrimaryHDU(images[0, ..., 0], header=header).writeto(tmp_path / "a.fits")
    write_frames(tmp_path / "b.fits", images, open_frames("a.fits", tmp_path / "a.fits"), "model 123")
    with fits.open(tmp_path / "b.fits") as units:
        assert (units[0].header["OBJECT"], units[0].header["EXPTIME"]) == ("M31", 30.0)
        assert "model 123" in str(units[0].header["HISTORY"])


def test_other_tables_and_images_of_a_fits_stay(tmp_path, frames):
    from astropy.io import fits

    images, _ = frames("uint16", 2, 1)
    primary = fits.PrimaryHDU(header=fits.Header({"TELESCOP": "mine"}))
    table = fits.BinTableHDU.from_columns([fits.Column("time", "D", array=[1.0, 2.0])])
    scaled = fits.ImageHDU(np.arange(6.0).reshape(2, 3), name="WHT")
    scaled.scale("int16", bscale=0.5, bzero=3)
    units = fits.HDUList([primary, fits.CompImageHDU(images[..., 0], name="SCI"), table, scaled])
    units.writeto(tmp_path / "a.fits", checksum=True)
    write_frames(tmp_path / "b.fits", images + 1, open_frames("a.fits", tmp_path / "a.fits"), "model 123")
    with fits.open(tmp_path / "b.fits", uint=True) as units:
        np.testing.assert_array_equal(units["SCI"].data, images[..., 0] + 1)
        assert units[0].header["TELESCOP"] == "mine"
        np.testing.assert_array_equal(units[2].data["time"], [1.0, 2.0])
    with fits.open(tmp_path / "b.fits", checksum=True, do_not_scale_image_data=True) as units:  # warns of wrong ones
        assert (units["WHT"].header["BITPIX"], units["WHT"].header["BSCALE"]) == (16, 0.5)


def test_whatever_else_an_hdf5_holds_stays(tmp_path, frames):
    import h5py

    images, _ = frames("float32", 3, 1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["microscope"] = "mine"
        stack = file.create_dataset("images", data=images[..., 0], compression="gzip", chunks=(1, 12, 16))
        stack.attrs["unit"] = "electrons"
        file["exposure/seconds"] = [1.0, 2.0, 3.0]
    write_frames(tmp_path / "b.h5", images + 1, open_frames("a.h5", tmp_path / "a.h5"), "model 123")
    with h5py.File(tmp_path / "b.h5") as file:
        stack = file["images"]
        np.testing.assert_array_equal(stack[()], images[..., 0] + 1)
        assert (stack.attrs["unit"], stack.attrs["tweedie_diffusion"], stack.compression) == (
            "electrons",
            "model 123",
            "gzip",
        )
        assert (file.attrs["microscope"], list(file["exposure/seconds"])) == ("mine", [1.0, 2.0, 3.0])


def test_a_virtual_data_set_leaves_the_files_it_shows_alone(tmp_path, frames):
    import h5py

    images, _ = frames("float32", 3, 1)
    with h5py.File(tmp_path / "raw.h5", "w") as raw:
        raw["frames"] = images[..., 0]
    layout = h5py.VirtualLayout((3, 12, 16), np.float32)
    layout[:] = h5py.VirtualSource("raw.h5", "frames", (3, 12, 16))  # beside the file itself
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_virtual_dataset("images", layout)
    np.testing.assert_array_equal(read_all("a.h5", tmp_path / "a.h5"), images)
    write_frames(tmp_path / "b.h5", images + 1, open_frames("a.h5", tmp_path / "a.h5"), "model 123")
    np.testing.assert_array_equal(read_all("b.h5", tmp_path / "b.h5"), images + 1)
    np.testing.assert_array_equal(read_all("raw.h5", tmp_path / "raw.h5"), images)
    (tmp_path / "raw.h5").unlink()
    with pytest.raises(InputError, match=r"a.h5 shows the pixels of raw.h5, which is not there"):
        open_frames("a.h5", tmp_path / "a.h5")


def test_an_mrc_keeps_its_pixel_size(tmp_path, frames):
    import mrcfile

    images, _ = frames("float32", 2, 1)
    with mrcfile.new(tmp_path / "a.mrc", images[..., 0]) as written:
        written.voxel_size = 1.25
        written.set_extended_header(np.arange(64, dtype=np.uint8))
        written.header.exttyp = b"MINE"
        written.header.mapc, written.header.maps = 3, 1
        written.header.cellb.gamma = 120
    write_frames(tmp_path / "b.mrc", images, open_frames("a.mrc", tmp_path / "a.mrc"), "long " * 30 + "model 123")
    with mrcfile.open(tmp_path / "b.mrc") as read:
        assert float(read.voxel_size.x) == pytest.approx(1.25)
        assert read.header.exttyp == b"MINE"
        assert (read.header.mapc, read.header.maps, read.header.cellb.gamma) == (3, 1, 120)
        assert bytes(read.extended_header) == bytes(range(64))
        assert "model 123" in " ".join(read.get_labels())


def test_an_hdf5_of_several_data_sets_needs_a_name(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["left"], file["deep/right"] = np.zeros((2, 4, 4)), np.ones((2, 4, 4))
    with pytest.raises(InputError, match=r"a.h5 holds deep/right, left: name the one to use `images`"):
        open_frames("a.h5", tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["images"] = np.full((2, 4, 4), 7.0)
    assert open_frames("a.h5", tmp_path / "a.h5").read(1).min() == 7


def test_pages_that_differ_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(np.zeros((4, 4), np.uint8))
        writer.write(np.zeros((4, 5), np.uint8))
    with pytest.raises(InputError, match="pages of different sizes or depths: save them apart"):
        open_frames("a.tif", tmp_path / "a.tif")


def test_planar_tiffs_are_read_channels_last(tmp_path, rng):
    planes = rng.integers(0, 255, (3, 5, 6), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(open_frames("a.tif", tmp_path / "a.tif").read(0), np.moveaxis(planes, 0, -1))


def test_files_of_the_other_byte_order_come_in_that_of_this_machine(tmp_path, rng):
    stored = rng.integers(0, 2**16, (4, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, byteorder=">")
    read = open_frames("a.tif", tmp_path / "a.tif").read(0)
    assert read.dtype.isnative
    np.testing.assert_array_equal(read[..., 0], stored)


@pytest.mark.parametrize(("name", "expected"), [("a.TIF", True), ("a.b.jpeg", True), ("a.txt", False), ("png", False)])
def test_formats_are_told_by_their_suffix(name, expected):
    assert is_image(name) is expected


def test_a_missing_library_names_its_extra(tmp_path, monkeypatch):
    import builtins

    real = builtins.__import__

    def without_h5py(name, *args, **kwargs):
        if name == "h5py":
            raise ModuleNotFoundError("No module named 'h5py'", name="h5py")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_h5py)
    monkeypatch.delitem(__import__("sys").modules, "tweedie_diffusion.data.formats.hdf5", raising=False)
    with pytest.raises(InputError, match=r"a.h5 needs h5py, which is not installed: pip install .*\[formats\]"):
        open_frames("a.h5", tmp_path / "a.h5")
