"""Files made to harm: nothing in them is run, nothing is written, and no memory is taken for what is not there."""

import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from tweedie_diffusion.data.catalog import catalog
from tweedie_diffusion.data.errors import BadFiles, InputError
from tweedie_diffusion.data.formats import open_frames
from tweedie_diffusion.data.image_files import open_frame_files
from tweedie_diffusion.data.sources import open_images

SIDE = 10**6  # pixels, by the headers: a terabyte an image


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def npy(shape, *, content=b"few"):
    """An .npy whose header states a shape that its content does not have."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def write_npy(path):
    path.write_bytes(npy((10**15,)))


def write_npy_of_images(path):
    path.write_bytes(npy((1000, SIDE, SIDE)))


def write_npz(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy((10**5, 10**5, 10**5)))


def write_npz_that_states_its_size_wrongly(path):
    """The size of the member, in the directory and before the member, is four gigabytes too."""
    write_npz(path)
    content, size = path.read_bytes(), struct.pack("<I", len(npy((10**5, 10**5, 10**5))))
    path.write_bytes(content.replace(size, struct.pack("<I", 2**32 - 2)))


def write_png(path):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def write_tiff(path, compression=None):
    """Of 16×16 pixels, with another size in its header."""
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression=compression, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        for name in ("ImageWidth", "ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(SIDE)


def write_compressed_tiff(path):
    write_tiff(path, "zlib")


def write_hdf5(path):
    """Chunks that were never written take no place."""
    with h5py.File(path, "w") as file:
        file.create_dataset("images", (2, SIDE, SIDE), np.float32, chunks=(1, 1000, 1000))


def write_fits(path):
    cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", f"NAXIS1  = {SIDE}", f"NAXIS2  = {SIDE}", "END"]
    header = "".join(f"{card[:10]}{card[10:]:>20}".ljust(80) for card in cards)
    path.write_bytes(header.ljust(2880).encode() + bytes(2880))


def write_mrc(path):
    import mrcfile

    with mrcfile.new(path, np.zeros((4, 4), np.float32)):
        pass
    content = path.read_bytes()
    path.write_bytes(struct.pack("<3i", SIDE, SIDE, 1) + content[12:])


CLAIMS = {
    "vector.npy": write_npy,
    "images.npy": write_npy_of_images,
    "a.npz": write_npz,
    "b.npz": write_npz_that_states_its_size_wrongly,
    "a.png": write_png,
    "a.tif": write_tiff,
    "b.tif": write_compressed_tiff,
    "a.h5": write_hdf5,
    "a.fits": write_fits,
    "a.mrc": write_mrc,
}
# Opens each file as itself, and as a member of an archive, with three gigabytes that could be taken.
OPEN = """
import importlib, resource, sys, warnings
from pathlib import Path
from tweedie_diffusion.data.catalog import catalog
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.formats import module_of, open_frames
from tweedie_diffusion.data.formats.arrays import load_arrays
warnings.simplefilter("ignore")
paths = [Path(name) for name in sys.argv[1:]]
for path in paths:
    module_of(path.name)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (virtual + 3 * 2**30,) * 2)
for path in paths:
    read = [lambda source: open_frames(path.name, source).read(0)]
    if path.suffix in (".npy", ".npz"):
        read += [lambda source: load_arrays(source, path.name)]
    for source in (path, path.read_bytes()):
        for how in read:
            try:
                how(source)
                print(path.name, "was read")
            except InputError as error:
                taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
                print(path.name, "took much" if taken > 100 else "is refused:", error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_no_memory_is_taken_for_what_a_header_only_states(tmp_path):
    for name, write in CLAIMS.items():
        write(tmp_path / name)
    paths = [str(tmp_path / name) for name in CLAIMS]
    run = subprocess.run([sys.executable, "-c", OPEN, *paths], capture_output=True, text=True, check=True)
    lines = run.stdout.splitlines()
    assert [line for line in lines if " is refused: " not in line] == []
    assert len(lines) == 2 * len(paths) + 2 * sum(name.endswith(("npy", "npz")) for name in CLAIMS)


@pytest.mark.filterwarnings("ignore::astropy.utils.exceptions.AstropyUserWarning")
def test_they_are_one_line_each_in_a_folder(tmp_path):
    for name, write in CLAIMS.items():
        write(tmp_path / name)
    with pytest.raises(BadFiles) as caught:
        open_frame_files(str(tmp_path))
    assert [line.split()[0] for line in caught.value.lines] == sorted(CLAIMS)
    assert not any("\n" in line for line in caught.value.lines)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_a_single_array_that_only_states_its_size_is_refused(tmp_path, name):
    CLAIMS["vector.npy" if name == "a.npy" else "a.npz"](tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} is not a readable NumPy file \(its header states"):
        open_images(str(tmp_path / name))


@pytest.mark.parametrize("member", ["../images.npy", "/images.npy", "a/../../images.npy"])
def test_arrays_of_an_npz_that_would_be_written_elsewhere_are_refused(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        file = io.BytesIO()
        np.save(file, np.zeros((4, 4, 4)))
        archive.writestr(member, file.getvalue())
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(InputError, match=r"a.npz is not a readable NumPy file \(its array .* lies outside of it\)"):
        open_images(str(tmp_path / "a.npz"))
    assert sorted(tmp_path.parent.rglob("*")) == before


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_numpy_does_not_write_into_an_npz_is_refused(tmp_path, compression):
    name = "images.pkl" if compression == zipfile.ZIP_STORED else "images.npy"
    with zipfile.ZipFile(tmp_path / "a.npz", "w", compression) as archive:
        archive.writestr(name, pickle.dumps(0))
    with pytest.raises(InputError, match=rf"its {name} is no array of NumPy"):
        open_images(str(tmp_path / "a.npz"))


def member(name, kind=tarfile.REGTYPE, linkname=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, linkname
    return info


def picture():
    file = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("info", "why"),
    [
        (member("../x.png"), "lies outside of its archive"),
        (member("/elsewhere/x.png"), "lies outside of its archive"),
        (
            member("x.png", tarfile.SYMTYPE, "/elsewhere/secret"),
            "is a link or a device and no file: pack what it leads to",
        ),
        (member("x.png", tarfile.LNKTYPE, "good.png"), "is a link or a device and no file: pack what it leads to"),
        (member("x.png", tarfile.CHRTYPE), "is a link or a device and no file: pack what it leads to"),
        (member("x.png", tarfile.FIFOTYPE), "is a link or a device and no file: pack what it leads to"),
    ],
)
def test_members_of_an_archive_that_are_no_files_in_it_are_named(tmp_path, info, why):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as archive:
        for each in (member("good.png"), info):
            each.size = len(picture()) if each.isreg() else 0
            archive.addfile(each, io.BytesIO(picture()))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadFiles) as caught:
        open_frame_files(str(tmp_path / "in"))
    assert caught.value.lines == (f"a.tar/{info.name} {why}",)
    assert open_frame_files(str(tmp_path / "in"), lenient=True).name(0) == "a.tar/good.png"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_member_with_holes_is_not_read_where_it_lies(tmp_path):
    """Its bytes are not together: what follows in the archive would be taken for pixels."""
    whole, kept = 4096, 512
    info = member("x.npy")
    info.pax_headers = {"GNU.sparse.map": f"0,{kept}", "GNU.sparse.size": str(whole), "GNU.sparse.name": "x.npy"}
    info.size = kept
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(npy((1, 62, 8), content=bytes(whole))))
    (entry,) = catalog(str(tmp_path / "a.tar"))
    assert entry.error == "a.tar/x.npy is stored without its empty parts: pack it without --sparse"


def test_a_member_longer_than_its_archive_is_cut_off(tmp_path):
    info = member("x.png")
    info.size = 2**50
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + picture())
    errors = [entry.error for entry in catalog(str(tmp_path / "a.tar"))]
    assert "a.tar/x.png is cut off" in errors
    assert all(errors)


class TestHdf5:
    @pytest.fixture
    def secret(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "in").mkdir()
        with h5py.File(tmp_path / "elsewhere" / "b.h5", "w") as file:
            file["images"] = np.ones((2, 4, 4), np.float32)
        return tmp_path / "elsewhere" / "b.h5"

    def assert_refused(self, path, message):
        with pytest.raises(InputError, match=message) as caught:
            open_frames(path.name, path)
        assert "\n" not in str(caught.value)

    def test_links_to_other_files_are_not_followed(self, secret, tmp_path):
        path = tmp_path / "in" / "a.h5"
        with h5py.File(path, "w") as file:
            file["images"] = h5py.ExternalLink(str(secret), "images")
        self.assert_refused(path, r"a.h5 only links to .*b.h5, and links are not followed: name those files")

    @pytest.mark.parametrize("up", [True, False])
    def test_pixels_of_files_elsewhere_are_not_shown(self, secret, tmp_path, up):
        layout, path = h5py.VirtualLayout((2, 4, 4), np.float32), tmp_path / "in" / "a.h5"
        layout[:] = h5py.VirtualSource("../elsewhere/b.h5" if up else str(secret), "images", (2, 4, 4))
        with h5py.File(path, "w") as file:
            file.create_virtual_dataset("images", layout)
        self.assert_refused(path, r"a.h5 shows the pixels of .*b.h5, outside of its folder: put both into one")

    @pytest.mark.parametrize("name", ["../elsewhere/b.h5", "/elsewhere/secret"])
    def test_bytes_of_files_elsewhere_are_no_pixels(self, secret, tmp_path, name):
        path = tmp_path / "in" / "a.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("images", (1, 4, 4), np.uint8, external=[(name, 0, 16)])
        self.assert_refused(path, rf"a.h5 shows the pixels of {name}, outside of its folder: put both into one")


def test_a_planted_pickle_in_an_archive_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    file = io.BytesIO()
    np.save(file, np.array([Trap()], dtype=object))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("a.npy", file.getvalue()), ("b.npy", pickle.dumps(Trap()))):
            info = member(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    errors = [entry.error for entry in catalog(str(tmp_path / "a.tar"))]
    assert [error.split(" (")[0] for error in errors] == [
        f"a.tar/{name} is not a readable NumPy file" for name in ("a.npy", "b.npy")
    ]
    assert not (tmp_path / "sprung").exists()
