import hashlib
import json

import numpy as np
import pytest

from tweedie_diffusion.training import manifest
from tweedie_diffusion.training.manifest import NAME, Damaged, read_sealed, verify, write_manifest, write_sealed


@pytest.fixture
def folder(tmp_path, rng):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "weights").write_bytes(rng.bytes(1000))
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("σ")
    write_manifest(tmp_path)
    return tmp_path


def files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def test_what_was_written_is_whole(folder):
    assert verify(folder) is None


def test_every_flipped_bit_is_found(folder, rng):
    for _ in range(100):
        path = rng.choice([path for path in files(folder) if path.stat().st_size])
        before = path.read_bytes()
        flipped = bytearray(before)
        flipped[rng.integers(len(flipped))] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        with pytest.raises(Damaged, match=path.name):
            verify(folder)
        path.write_bytes(before)
    verify(folder)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize("harm", [cut, zero, lambda path: path.unlink(), lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", ["deep/er/weights", "text", NAME])
def test_a_file_cut_short_zeroed_emptied_or_deleted_is_found(folder, harm, name):
    harm(folder / name)
    with pytest.raises(Damaged, match=name):
        verify(folder)


def test_an_empty_file_that_grew_is_found(folder):
    (folder / "empty").write_bytes(b"0")
    with pytest.raises(Damaged, match="empty has 1 bytes, and 0 were written"):
        verify(folder)


def test_large_files_are_hashed_in_blocks(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(manifest, "BLOCK", 10)
    content = rng.bytes(25)
    (tmp_path / "weights").write_bytes(content)
    write_manifest(tmp_path)
    digests = [hashlib.sha256(content[start : start + 10]).hexdigest() for start in (0, 10, 20)]
    assert read_sealed(tmp_path / NAME) == {"weights": [25, *digests]}
    (tmp_path / "weights").write_bytes(content[:24] + bytes([content[24] ^ 1]))
    with pytest.raises(Damaged, match="weights"):
        verify(tmp_path)


def test_a_number_keeps_every_bit(tmp_path):
    write_sealed(tmp_path / "score.json", {"score": 0.1 + 0.2, "worst": np.inf})
    assert read_sealed(tmp_path / "score.json") == {"score": 0.1 + 0.2, "worst": np.inf}


def test_text_that_somebody_edited_is_found(tmp_path):
    write_sealed(tmp_path / "score.json", {"score": 1})
    path = tmp_path / "score.json"
    path.write_text(path.read_text().replace("1", "2", 1))
    with pytest.raises(Damaged, match="its own SHA-256 differs"):
        read_sealed(path)
    path.write_text(json.dumps({"score": 1}))
    with pytest.raises(Damaged, match="its own SHA-256 differs"):
        read_sealed(path)
