import json
import pickle
import struct
import sys
import tarfile
import types
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.tensor_files import read_tensors

TENSORS = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "norm.running_var": np.array([1.5, -2.0], np.float16),
    "steps": np.array(7, np.int64),
}


def assert_same(found, expected):
    assert {k: (v.dtype, v.tolist()) for k, v in found.items()} == {
        k: (v.dtype, v.tolist()) for k, v in expected.items()
    }


def safetensors_of(dtype, shape, content):
    header = json.dumps({"x": {"dtype": dtype, "shape": shape, "data_offsets": [0, len(content)]}}).encode()
    return struct.pack("<Q", len(header)) + header + content


def write_pytorch(path, found, **how):
    torch = pytest.importorskip("torch")
    torch.save(found(torch), path, **how)


def test_safetensors_are_read_as_stored(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    assert_same(read_tensors(tmp_path / "x.safetensors"), TENSORS)


def test_npz_are_read_as_stored(tmp_path):
    np.savez(tmp_path / "x.npz", **TENSORS)
    assert_same(read_tensors(tmp_path / "x.npz"), TENSORS)


def test_bfloat16_becomes_float32(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(safetensors_of("BF16", [2], struct.pack("<HH", 0x3F80, 0xC000)))
    assert_same(read_tensors(tmp_path / "x.safetensors"), {"x": np.array([1, -2], np.float32)})


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_pytorch_are_read_as_stored(tmp_path, zipped):
    tensors = lambda torch: {
        k: torch.nn.Parameter(torch.from_numpy(v), v.dtype.kind == "f") for k, v in TENSORS.items()
    }
    write_pytorch(tmp_path / "x.pth", tensors, _use_new_zipfile_serialization=zipped)
    assert_same(read_tensors(tmp_path / "x.pth"), TENSORS)


def test_bfloat16_of_pytorch_becomes_float32(tmp_path):
    write_pytorch(tmp_path / "x.pt", lambda torch: {"x": torch.tensor([1, -2], dtype=torch.bfloat16)})
    assert_same(read_tensors(tmp_path / "x.pt"), {"x": np.array([1, -2], np.float32)})


def test_without_pytorch_the_line_that_converts_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pth").write_bytes(b"")
    with pytest.raises(
        InputError, match=r"pip install torch.*savez\('x\.npz'.*torch\.load\('x\.pth', weights_only=True"
    ):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.pkl", pickle.dumps({}), "is a pickle"),
        ("x.bin", b"", "must end in .safetensors, .npz, .pth or .pt"),
        ("x.safetensors", b"", "not a readable .safetensors"),
        ("x.safetensors", safetensors_of("F32", [10**6, 10**6], bytes(8)), "not a readable .safetensors"),
        ("x.safetensors", safetensors_of("F8_E4M3", [2], bytes(2)), "not a readable .safetensors"),
        ("x.safetensors", struct.pack("<Q", 2**60) + b"{}", "not a readable .safetensors"),
        ("x.npz", b"PK\3\4", "not a readable NumPy file"),
        ("x.npz", pickle.dumps({}), "not a readable NumPy file"),
    ],
)
def test_what_is_no_file_of_tensors_is_refused_in_one_line(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as raised:
        read_tensors(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(InputError, match="does not exist"):
        read_tensors(tmp_path / "missing.npz")
    with pytest.raises(InputError, match="is no file"):
        read_tensors(tmp_path / "folder.npz")


class Harm:
    """What a pickle would run."""

    def __reduce__(self):
        return open, ("harm", "w")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (lambda torch: {"x": Harm()}, "not a readable PyTorch file"),
        (lambda torch: [torch.zeros(2)], "holds a list, not tensors by name"),
        (lambda torch: {"model": {"x": torch.zeros(2)}}, "`model` is a dict"),
        (lambda torch: {3: torch.zeros(2)}, "not tensors by name"),
        (lambda torch: {"x": torch.zeros(1).expand(10**14)}, "does not hold"),
        (lambda torch: {"x": torch.zeros(2, 2).to_sparse()}, "cannot be read|not a readable"),
        (lambda torch: {"x": torch.zeros(2, device="meta")}, "cannot be read|not a readable"),
    ],
)
def test_pytorch_files_of_other_things_are_refused_in_one_line(tmp_path, monkeypatch, found, words):
    monkeypatch.chdir(tmp_path)
    write_pytorch(tmp_path / "x.pth", found)
    with pytest.raises(InputError, match=words) as raised:
        read_tensors(tmp_path / "x.pth")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "harm").exists()


def test_cut_pytorch_files_are_refused(tmp_path):
    write_pytorch(tmp_path / "x.pth", lambda torch: {"x": torch.zeros(1000)})
    content = (tmp_path / "x.pth").read_bytes()
    for size in (0, 10, 2000, len(content) - 10):
        (tmp_path / "x.pth").write_bytes(content[:size])
        with pytest.raises(InputError, match="not a readable PyTorch file"):
            read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize(("version", "refused"), [("2.5.1", True), ("2.9.1+cu126", True), ("2.10.0", False)])
def test_pytorch_that_could_be_made_to_run_code_is_refused(tmp_path, monkeypatch, version, refused):
    asked = []
    torch = types.SimpleNamespace(__version__=version, load=lambda *_, **__: asked.append(1) or {})
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / "x.pth").write_bytes(b"")
    if refused:
        with pytest.raises(InputError, match=r"not safe to read with PyTorch .*pip install -U 'torch>=2.10'"):
            read_tensors(tmp_path / "x.pth")
    else:
        assert read_tensors(tmp_path / "x.pth") == {}
    assert bool(asked) != refused


def test_a_tar_of_pytorch_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(__version__="2.10.0", load=lambda *_, **__: {}))
    with tarfile.open(tmp_path / "x.pth", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(InputError, match="it is a tar, of a PyTorch before"):
        read_tensors(tmp_path / "x.pth")


def test_a_compressed_archive_is_refused(tmp_path):
    write_pytorch(tmp_path / "stored.pth", lambda torch: {"x": torch.zeros(10**6)})
    with zipfile.ZipFile(tmp_path / "stored.pth") as stored, zipfile.ZipFile(tmp_path / "x.pth", "w", 8) as packed:
        for member in stored.namelist():
            packed.writestr(member, stored.read(member))
    with pytest.raises(InputError, match="its archive is compressed"):
        read_tensors(tmp_path / "x.pth")
