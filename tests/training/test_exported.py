import json
import struct

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.models.patch_mixture import PatchMixture
from tweedie_diffusion.training.exported import read_weights, sealed_by_us, write_weights

PARAMS = {"Dense_0": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.float32([1, -0.0, 2])}}
MIXTURE = PatchMixture(*(np.float32(a) for a in (np.ones(1), np.ones((1, 2)), np.eye(2)[None], [[1, 2]], [0, 0])))


@pytest.fixture
def path(tmp_path):
    write_weights(tmp_path / "model.safetensors", PARAMS)
    return tmp_path / "model.safetensors"


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def with_header(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_weights_come_back_bit_for_bit(path, tmp_path):
    params, mixture = read_weights(path, PARAMS)
    assert mixture is None
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a).view(np.int32), b.view(np.int32)), params, PARAMS
    )
    write_weights(tmp_path / "both.safetensors", PARAMS, MIXTURE)
    _, mixture = read_weights(tmp_path / "both.safetensors", PARAMS, with_mixture=True)
    assert jax.tree.all(jax.tree.map(np.array_equal, mixture, MIXTURE))


def test_a_truncated_file_is_refused(path):
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="is not a readable safetensors file"):
            read_weights(path, PARAMS)


def test_any_changed_byte_is_noticed(path):
    data = path.read_bytes()
    for i in range(len(data)):
        path.write_bytes(data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :])
        with pytest.raises(InputError, match=r"is not a readable safetensors file|SHA-256 differs"):
            read_weights(path, PARAMS)


@pytest.mark.parametrize(
    "lie",
    [
        {"shape": [2**40, 3]},
        {"shape": [-2, 3]},
        {"shape": [float("nan"), 3]},
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [12, 0]},
        {"dtype": "F64"},
        {"dtype": "object"},
    ],
)
def test_a_header_that_lies_is_refused(path, lie):
    header, data = header_of(path)
    header["params/Dense_0/kernel"] |= lie
    with_header(path, header, data)
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        read_weights(path, PARAMS)


@pytest.mark.parametrize("header", [b"", b"\xff" * 9, b"[" * 10_000, b'{"a": NaN}'])
def test_a_header_that_is_none_is_refused(path, header):
    with_header(path, header, b"")
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        read_weights(path, PARAMS)
    assert not sealed_by_us(path)


def test_a_header_longer_than_the_file_is_refused(path):
    path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
    with pytest.raises(InputError, match="is not a readable safetensors file"):
        read_weights(path, PARAMS)


def test_a_file_of_others_is_not_ours(path):
    assert sealed_by_us(path)
    save_file({"params/Dense_0/bias": PARAMS["Dense_0"]["bias"]}, path)
    assert not sealed_by_us(path)
    with pytest.raises(InputError, match="SHA-256 differs"):
        read_weights(path, PARAMS)


@pytest.mark.parametrize(
    ("like", "told"),
    [
        ({"Dense_0": {"bias": PARAMS["Dense_0"]["bias"]}}, "has params/Dense_0/kernel: it is not of the network"),
        (PARAMS | {"Dense_1": {"bias": np.zeros(2)}}, "lacks params/Dense_1/bias"),
        ({"Dense_0": PARAMS["Dense_0"] | {"bias": np.zeros(3)}}, r"bias as float32 \[3\], not float64 \[3\]"),
    ],
)
def test_another_network_is_refused(path, like, told):
    with pytest.raises(InputError, match=told):
        read_weights(path, like)


def test_a_mixture_of_other_shapes_is_refused(path):
    write_weights(
        path, PARAMS, PatchMixture(*(np.zeros(n, np.float32) for n in ((3,), (1, 2), (1, 2, 2), (1, 2), (2,))))
    )
    with pytest.raises(InputError, match="holds no mixture of patches"):
        read_weights(path, PARAMS, with_mixture=True)
