import functools

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation.dinov2 import open_dinov2

WIDTH, HIDDEN, DEPTH = 128, 88, 2  # two heads
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@functools.cache
def random_tensors(*, grid=5, gated=False, registers=0):
    """All tensors of a published file, by its names, at random."""
    rng = np.random.default_rng(0)
    normal = lambda *shape, scale=1.0: (scale * rng.standard_normal(shape)).astype(np.float32)
    dense = lambda name, i, o: {f"{name}.weight": normal(o, i, scale=i**-0.5), f"{name}.bias": normal(o, scale=0.1)}
    norm = lambda name: {f"{name}.weight": 1 + normal(WIDTH, scale=0.2), f"{name}.bias": normal(WIDTH, scale=0.2)}
    tensors = {"cls_token": normal(1, 1, WIDTH), "mask_token": normal(1, WIDTH), **norm("norm")}
    tensors["pos_embed"] = normal(1, 1 + grid**2, WIDTH)
    tensors["patch_embed.proj.weight"] = normal(WIDTH, 3, 14, 14, scale=0.04)
    tensors["patch_embed.proj.bias"] = normal(WIDTH)
    if registers:
        tensors["register_tokens"] = normal(1, registers, WIDTH)
    for i in range(DEPTH):
        block = norm("norm1") | norm("norm2") | {"ls1.gamma": normal(WIDTH), "ls2.gamma": normal(WIDTH)}
        block |= dense("attn.qkv", WIDTH, 3 * WIDTH) | dense("attn.proj", WIDTH, WIDTH)
        first, last = ("w12", "w3") if gated else ("fc1", "fc2")
        block |= dense(f"mlp.{first}", WIDTH, HIDDEN * (1 + gated)) | dense(f"mlp.{last}", HIDDEN, WIDTH)
        tensors |= {f"blocks.{i}.{name}": tensor for name, tensor in block.items()}
    return tensors


def in_pytorch(x, arrays):
    """The network of images [B, 3, H, W] in PyTorch's functions: what each block gives, and the features."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    tensors = {k: torch.from_numpy(v) for k, v in arrays.items()}
    dense = lambda x, name: F.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
    norm = lambda x, name: F.layer_norm(x, (WIDTH,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6)

    def attention(x, name):
        q, k, v = dense(x, f"{name}.qkv").unflatten(2, (3, WIDTH // 64, 64)).permute(2, 0, 3, 1, 4)
        return dense(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), f"{name}.proj")

    def perceptron(x, name):
        if f"{name}.w12.weight" not in tensors:
            return dense(F.gelu(dense(x, f"{name}.fc1")), f"{name}.fc2")
        gate, value = dense(x, f"{name}.w12").chunk(2, dim=-1)
        return dense(F.silu(gate) * value, f"{name}.w3")

    def places(rows, columns):
        place = tensors["pos_embed"][:, 1:]
        side = round(place.shape[1] ** 0.5)
        if (rows, columns) == (side, side):
            return place
        place = place.transpose(1, 2).unflatten(2, (side, side))
        scales = tuple((n + 0.1) / side for n in (rows, columns))
        how = {"size": (rows, columns), "antialias": True} if registers is not None else {"scale_factor": scales}
        return F.interpolate(place, mode="bicubic", **how).flatten(2).transpose(1, 2)

    registers = tensors.get("register_tokens")
    with torch.inference_mode():
        patches = F.conv2d(
            torch.from_numpy(x), tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=14
        )
        place, batch = places(*patches.shape[2:]), len(x)
        first = tensors["cls_token"] + tensors["pos_embed"][:, :1]
        first = first if registers is None else torch.cat([first, registers], 1)
        x = torch.cat([first.expand(batch, -1, -1), patches.flatten(2).transpose(1, 2) + place], 1)
        found = {}
        for name in (f"blocks.{i}" for i in range(DEPTH)):
            x = x + tensors[f"{name}.ls1.gamma"] * attention(norm(x, f"{name}.norm1"), f"{name}.attn")
            x = x + tensors[f"{name}.ls2.gamma"] * perceptron(norm(x, f"{name}.norm2"), f"{name}.mlp")
            found[name] = x.numpy()
        return found, norm(x, "norm")[:, 0].numpy()


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def written(path, tensors):
    save_file(tensors, path)
    return path


def network_of(path):
    """The network that a file is read as, and its parameters."""
    captured = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tweedie_diffusion.evaluation.dinov2.feature_set", lambda *args: captured.append(args))
        open_dinov2(path)
    return captured[0][3].args[0], captured[0][2]


@pytest.mark.parametrize(
    ("kind", "shape"),
    [({}, (70, 70)), ({}, (84, 56)), ({"gated": True}, (42, 42)), ({"registers": 3}, (42, 98))],  # the grid is 5×5
)
def test_every_block_gives_what_pytorch_gives(tmp_path, kind, shape, rng):
    x = rng.normal(size=(2, *shape, 3)).astype(np.float32)
    blocks, features = in_pytorch(x.transpose(0, 3, 1, 2), random_tensors(**kind))
    network, params = network_of(written(tmp_path / "x.safetensors", random_tensors(**kind)))
    apply = jax.jit(lambda params, x: network.apply({"params": params}, x, capture_intermediates=True))
    found, state = apply(params, x)
    for name in blocks:
        assert_close(state["intermediates"][name]["__call__"][0], blocks[name])
    assert_close(found, features)


def test_features_are_of_images_resized_as_pillow_does(tmp_path, rng):
    # Queries of zero attend to all tokens alike, and the perceptron is scaled by zero: one block is a mean.
    tensors = {k: v for k, v in random_tensors(grid=16).items() if "blocks.1" not in k}
    tensors["blocks.0.ls2.gamma"] = np.zeros(WIDTH, np.float32)
    qkv, offset = (tensors[f"blocks.0.attn.qkv.{part}"].copy() for part in ("weight", "bias"))
    qkv[:WIDTH], offset[:WIDTH] = 0, 0
    tensors |= {"blocks.0.attn.qkv.weight": qkv, "blocks.0.attn.qkv.bias": offset}
    x = rng.uniform(-1.2, 1.2, (1, 30, 30, 1)).astype(np.float32)
    found = open_dinov2(written(tmp_path / "x.safetensors", tensors)).function(x)

    stored = np.rint((np.clip(x[0, ..., 0], -1, 1).astype(np.float64) + 1) * 127.5).astype(np.uint8)
    pixels = np.asarray(Image.fromarray(stored).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC))
    patches = ((pixels / 255 - MEAN) / STD).reshape(16, 14, 16, 14, 3)
    kernel = tensors["patch_embed.proj.weight"].astype(np.float64)
    patches = np.einsum("iajbc,ocab->ijo", patches, kernel).reshape(256, WIDTH) + tensors["patch_embed.proj.bias"]
    tokens = np.concatenate([tensors["cls_token"][0], patches]) + tensors["pos_embed"][0]
    seen = layer_norm(tokens, tensors, "blocks.0.norm1").mean(axis=0) @ qkv[2 * WIDTH :].T + offset[2 * WIDTH :]
    added = tensors["blocks.0.attn.proj.weight"] @ seen + tensors["blocks.0.attn.proj.bias"]
    expected = layer_norm(tokens[0] + tensors["blocks.0.ls1.gamma"] * added, tensors, "norm")
    np.testing.assert_allclose(found[0], expected, atol=2e-3)  # Pillow rounds a few of the pixels otherwise


def layer_norm(x, tensors, name):
    centred = x - x.mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(np.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    return normal * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]


def test_the_digest_is_of_the_tensors_whatever_holds_them(tmp_path):
    tensors = random_tensors()
    np.savez(tmp_path / "same.npz", **tensors)
    other = tensors | {"norm.bias": np.zeros(WIDTH, np.float32)}
    files = (
        written(tmp_path / "x.safetensors", tensors),
        tmp_path / "same.npz",
        written(tmp_path / "y.safetensors", other),
    )
    first, same, other = (open_dinov2(path).digest for path in files)
    assert first == same != other


@pytest.mark.parametrize("shape", [(1, 8, 8, 2), (1, 8)])
def test_images_that_are_neither_grey_nor_colour_are_refused(tmp_path, shape):
    network = open_dinov2(written(tmp_path / "x.safetensors", random_tensors()))
    with pytest.raises(InputError, match="1 or 3 channels"):
        network(np.zeros(shape, np.float32))


def test_the_published_sizes_are_told_by_their_tensors(tmp_path):
    network, _ = network_of(written(tmp_path / "x.safetensors", random_tensors(gated=True, registers=3)))
    shape = (network.width, network.depth, network.hidden, network.gated, network.grid, network.registers)
    assert shape == (WIDTH, DEPTH, HIDDEN, True, 5, 3)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pos_embed": np.zeros((1, 27, WIDTH))}, "is of another network"),
        ({"pos_embed": np.zeros(WIDTH)}, "`pos_embed` is of shape"),
        ({"patch_embed.proj.weight": np.zeros((WIDTH, 3, 16, 16))}, "is of another network"),
        ({"blocks.1.ls2.gamma": None}, "no tensor `blocks.1.ls2.gamma`"),
        ({"blocks.0.norm1.weight": None}, "which this network has no place for"),
        ({"blocks.0.mlp.fc2.weight": None}, "no tensor `blocks.0.mlp.fc2.weight`"),
        ({"blocks.1.attn.qkv.weight": np.zeros((3 * WIDTH, 64))}, "`blocks.1.attn.qkv.weight` is of shape"),
        ({"head.weight": np.zeros(3)}, "`head.weight`, which this network has no place for"),
    ],
)
def test_tensors_of_another_network_are_refused(tmp_path, changed, words):
    tensors = {k: v for k, v in (random_tensors() | changed).items() if v is not None}
    with pytest.raises(InputError, match=words):
        open_dinov2(written(tmp_path / "x.safetensors", tensors))


def test_a_missing_file_is_named_with_where_it_is_to_be_had(tmp_path):
    with pytest.raises(InputError, match=r"get dinov2_vits14_pretrain\.pth .88,283,115 bytes, SHA-256 b938bf.*dinov2,"):
        open_dinov2(tmp_path / "dinov2_vits14_pretrain.pth")


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    (tmp_path / "dinov2_vitl14_pretrain.pth").write_bytes(b"cut")
    with pytest.raises(InputError, match="has 3 bytes and is damaged or cut: get dinov2_vitl14"):
        open_dinov2(tmp_path / "dinov2_vitl14_pretrain.pth")
