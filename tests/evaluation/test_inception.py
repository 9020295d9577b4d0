import functools

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation.inception import open_inception
from tweedie_diffusion.models.inception import Inception, inception_shapes

# The convolutions of each block as the paper has them: channels in, out and kernel, by name.
A = {
    "branch1x1": (0, 64, 1),
    "branch5x5_1": (0, 48, 1),
    "branch5x5_2": (48, 64, 5),
    "branch3x3dbl_1": (0, 64, 1),
    "branch3x3dbl_2": (64, 96, 3),
    "branch3x3dbl_3": (96, 96, 3),
}
B = {"branch3x3": (0, 384, 3), **{k: v for k, v in A.items() if "dbl" in k}}
D = {
    "branch3x3_1": (0, 192, 1),
    "branch3x3_2": (192, 320, 3),
    "branch7x7x3_1": (0, 192, 1),
    "branch7x7x3_2": (192, 192, (1, 7)),
    "branch7x7x3_3": (192, 192, (7, 1)),
    "branch7x7x3_4": (192, 192, 3),
}
E = {
    "branch1x1": (0, 320, 1),
    "branch3x3_1": (0, 384, 1),
    "branch3x3_2a": (384, 384, (1, 3)),
    "branch3x3_2b": (384, 384, (3, 1)),
    "branch3x3dbl_1": (0, 448, 1),
    "branch3x3dbl_2": (448, 384, 3),
    "branch3x3dbl_3a": (384, 384, (1, 3)),
    "branch3x3dbl_3b": (384, 384, (3, 1)),
    "branch_pool": (0, 192, 1),
}


def c(c7):
    return {
        "branch1x1": (0, 192, 1),
        "branch7x7_1": (0, c7, 1),
        "branch7x7_2": (c7, c7, (1, 7)),
        "branch7x7_3": (c7, 192, (7, 1)),
        "branch7x7dbl_1": (0, c7, 1),
        "branch7x7dbl_2": (c7, c7, (7, 1)),
        "branch7x7dbl_3": (c7, c7, (1, 7)),
        "branch7x7dbl_4": (c7, c7, (7, 1)),
        "branch7x7dbl_5": (c7, 192, (1, 7)),
        "branch_pool": (0, 192, 1),
    }


BLOCKS = {  # channels in, and convolutions
    "Mixed_5b": (192, A | {"branch_pool": (0, 32, 1)}),
    "Mixed_5c": (256, A | {"branch_pool": (0, 64, 1)}),
    "Mixed_5d": (288, A | {"branch_pool": (0, 64, 1)}),
    "Mixed_6a": (288, B),
    "Mixed_6b": (768, c(128)),
    "Mixed_6c": (768, c(160)),
    "Mixed_6d": (768, c(160)),
    "Mixed_6e": (768, c(192)),
    "Mixed_7a": (768, D),
    "Mixed_7b": (1280, E),
    "Mixed_7c": (2048, E),
}
STEM = {
    "Conv2d_1a_3x3": (3, 32, 3),
    "Conv2d_2a_3x3": (32, 32, 3),
    "Conv2d_2b_3x3": (32, 64, 3),
    "Conv2d_3b_1x1": (64, 80, 1),
    "Conv2d_4a_3x3": (80, 192, 3),
}
CONVOLUTIONS = STEM | {
    f"{block}.{name}": (i or inward, o, kernel)
    for block, (inward, inside) in BLOCKS.items()
    for name, (i, o, kernel) in inside.items()
}


@functools.cache
def random_tensors():
    """All tensors of the published file, by its names, at random."""
    rng, tensors = np.random.default_rng(0), {}
    normal = lambda *shape, scale=1.0: scale * rng.standard_normal(shape, np.float32)
    for name, (inward, outward, kernel) in CONVOLUTIONS.items():
        kernel = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        scale = np.float32((2 / (inward * np.prod(kernel))) ** 0.5)
        tensors[f"{name}.conv.weight"] = normal(outward, inward, *kernel, scale=scale)
        tensors[f"{name}.bn.weight"] = rng.uniform(0.5, 1.5, outward).astype(np.float32)
        tensors[f"{name}.bn.bias"] = normal(outward, scale=np.float32(0.2))
        tensors[f"{name}.bn.running_mean"] = normal(outward, scale=np.float32(0.2))
        tensors[f"{name}.bn.running_var"] = rng.uniform(0.5, 1.5, outward).astype(np.float32)
        tensors[f"{name}.bn.num_batches_tracked"] = np.array(0)
    return tensors | {"fc.weight": normal(1008, 2048, scale=np.float32(0.02)), "fc.bias": normal(1008)}


def in_pytorch(x):
    """The network of images [B, 3, H, W] in PyTorch's functions: what each block gives, and features and logits."""
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    tensors = {k: torch.from_numpy(v) for k, v in random_tensors().items()}

    def conv(x, name, stride=1, padding=0):
        x = F.conv2d(x, tensors[f"{name}.conv.weight"], stride=stride, padding=padding)
        parts = (tensors[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.relu(F.batch_norm(x, *parts, eps=1e-3))

    def block(name, x):
        f = lambda x, inside, *how: conv(x, f"{name}.{inside}", *how)
        pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        halved = lambda: F.max_pool2d(x, 3, 2)
        row, column = (0, 3), (3, 0)
        if name.startswith("Mixed_5") or name == "Mixed_6a":
            double = f(f(x, "branch3x3dbl_1"), "branch3x3dbl_2", 1, 1)
        if name.startswith("Mixed_5"):
            five = f(f(x, "branch5x5_1"), "branch5x5_2", 1, 2)
            return f(x, "branch1x1"), five, f(double, "branch3x3dbl_3", 1, 1), f(pooled, "branch_pool")
        if name == "Mixed_6a":
            return f(x, "branch3x3", 2), f(double, "branch3x3dbl_3", 2), halved()
        if name == "Mixed_7a":
            seven = f(f(f(x, "branch7x7x3_1"), "branch7x7x3_2", 1, row), "branch7x7x3_3", 1, column)
            return f(f(x, "branch3x3_1"), "branch3x3_2", 2), f(seven, "branch7x7x3_4", 2), halved()
        if name.startswith("Mixed_6"):
            once = f(f(f(x, "branch7x7_1"), "branch7x7_2", 1, row), "branch7x7_3", 1, column)
            twice = f(x, "branch7x7dbl_1")
            for i, padding in ((2, column), (3, row), (4, column), (5, row)):
                twice = f(twice, f"branch7x7dbl_{i}", 1, padding)
            return f(x, "branch1x1"), once, twice, f(pooled, "branch_pool")
        once, twice = f(x, "branch3x3_1"), f(f(x, "branch3x3dbl_1"), "branch3x3dbl_2", 1, 1)
        ends = lambda x, inside: (f(x, f"{inside}a", 1, (0, 1)), f(x, f"{inside}b", 1, (1, 0)))
        largest = F.max_pool2d(x, 3, 1, 1)
        last = f(pooled if name == "Mixed_7b" else largest, "branch_pool")
        return f(x, "branch1x1"), *ends(once, "branch3x3_2"), *ends(twice, "branch3x3dbl_3"), last

    with torch.inference_mode():
        x = conv(torch.from_numpy(x), "Conv2d_1a_3x3", 2)
        x = F.max_pool2d(conv(conv(x, "Conv2d_2a_3x3"), "Conv2d_2b_3x3", 1, 1), 3, 2)
        x = F.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
        found = {}
        for name in BLOCKS:
            x = found[name] = torch.cat(block(name, x), 1)
        features = x.mean((2, 3))
        logits = F.linear(features, tensors["fc.weight"], tensors["fc.bias"])
        return {k: v.permute(0, 2, 3, 1).numpy() for k, v in found.items()}, features.numpy(), logits.numpy()


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.npz"
    np.savez(path, **random_tensors())
    return path


def params_of(path):
    """The parameters that a file is turned into."""
    captured = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tweedie_diffusion.evaluation.inception.feature_set", lambda *args: captured.append(args))
        open_inception(path)
    return captured[0][2]


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def run(params, x):
    return Inception().apply({"params": params}, x, capture_intermediates=True)


@pytest.mark.parametrize("shape", [(2, 75, 107), (1, 299, 299)])
def test_every_block_gives_what_pytorch_gives(weights, shape, rng):
    x = rng.uniform(-1, 1, (*shape, 3)).astype(np.float32)
    blocks, features, logits = in_pytorch(x.transpose(0, 3, 1, 2))
    (found_features, found_logits), state = run(params_of(weights), x)
    for name in BLOCKS:
        assert_close(state["intermediates"][name]["__call__"][0], blocks[name])
    assert_close(found_features, features)
    assert_close(found_logits, logits)


class Nothing:
    """In the place of the network: it gives what it is given."""

    def apply(self, variables, x):
        return x, None


def test_images_are_resized_as_tensorflow_1_does(weights, monkeypatch, rng):
    network = open_inception(weights)
    monkeypatch.setattr("tweedie_diffusion.models.inception.Inception", Nothing)
    x = rng.uniform(-1.2, 1.2, (1, 20, 40, 1)).astype(np.float32)
    stored = np.rint((np.clip(x[0, ..., 0], -1, 1).astype(np.float64) + 1) * 127.5)
    line = lambda v: np.interp(np.arange(299) * len(v) / 299, np.arange(len(v)), v)
    resized = np.apply_along_axis(line, 0, np.apply_along_axis(line, 1, stored))
    expected = np.repeat((resized[None, ..., None] - 128) / 128, 3, axis=-1)
    np.testing.assert_allclose(network.function(x), expected, atol=1e-5)


def test_normalisation_is_folded_and_branches_are_in_order(tmp_path):
    # With kernels of zeros the features are what normalisation makes of nothing, at the end of each branch.
    tensors = random_tensors()
    tensors = tensors | {k: np.zeros_like(v) for k, v in tensors.items() if k.endswith("conv.weight")}
    save_file(tensors, tmp_path / "x.safetensors")
    (features, _), _ = run(params_of(tmp_path / "x.safetensors"), np.zeros((2, 75, 107, 3), np.float32))
    ends = ("branch1x1", "branch3x3_2a", "branch3x3_2b", "branch3x3dbl_3a", "branch3x3dbl_3b", "branch_pool")
    of = lambda part: np.concatenate([tensors[f"Mixed_7c.{end}.bn.{part}"] for end in ends]).astype(np.float64)
    expected = of("bias") - of("running_mean") * of("weight") / np.sqrt(of("running_var") + 1e-3)
    np.testing.assert_allclose(features[0], np.maximum(expected, 0), 1e-5, atol=1e-6)


def test_the_shapes_are_those_of_the_published_tensors():
    shapes = {
        f"{name}.{inner}" if inner else name: tree["kernel"].shape
        for name, block in inception_shapes().items()
        for inner, tree in ({"": block} if "kernel" in block else block).items()
        if name != "fc"
    }
    expected = {k.removesuffix(".conv.weight"): v for k, v in random_tensors().items() if k.endswith("conv.weight")}
    assert shapes == {k: tuple(np.transpose(np.empty(v.shape), (2, 3, 1, 0)).shape) for k, v in expected.items()}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"Mixed_6c.branch7x7_2.bn.running_var": None}, "no tensor `Mixed_6c.branch7x7_2.bn.running_var`"),
        ({"fc.weight": np.zeros((1000, 2048))}, r"`fc.weight` is of shape \[1000, 2048\], not \[1008, 2048\]"),
        ({"fc.bias": np.zeros((1, 1008))}, "`fc.bias` is of shape"),
        ({"AuxLogits.fc.bias": np.zeros(1000)}, "`AuxLogits.fc.bias`, which this network has no place for"),
        ({"fc.bias": np.full(1008, np.nan)}, "`fc.bias` holds NaN"),
    ],
)
def test_tensors_of_another_network_are_refused(tmp_path, changed, words):
    tensors = {k: v for k, v in (random_tensors() | changed).items() if v is not None}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=words):
        open_inception(tmp_path / "x.safetensors")


NAME = "pt_inception-2015-12-05-6726825d.pth"
FACTS = "95,628,359 bytes, SHA-256 6726825d.* from .*pytorch-fid"


def test_a_missing_file_is_named_with_where_it_is_to_be_had(tmp_path):
    with pytest.raises(InputError, match=f"{NAME} does not exist: get {NAME} .{FACTS}"):
        open_inception(tmp_path / NAME)
    with pytest.raises(InputError, match=r"mine.npz does not exist: get weights-inception-2015-12-05-6726825d\.pth"):
        open_inception(tmp_path / "mine.npz")


@pytest.mark.parametrize(("size", "words"), [(95, "has 95 bytes"), (95_628_359, "has the SHA-256 [0-9a-f]{64} and")])
def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path, size, words):
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(size)
    with pytest.raises(InputError, match=words):
        open_inception(tmp_path / NAME)
