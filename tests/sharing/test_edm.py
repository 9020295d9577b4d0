import re

import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.sharing.edm import import_edm, settings_to_go_on
from tweedie_diffusion.training import loop
from tweedie_diffusion.training.config import check_config, default_config
from tweedie_diffusion.training.loop import train
from tweedie_diffusion.training.trained import load_run
from tweedie_diffusion.training.workdir import write_curve

TINY = {"side": 4, "widths": (8,), "blocks": 1, "attention": (), "classes": 0}
SMALL = {"side": 8, "widths": (8, 16), "blocks": 1, "attention": (4,), "classes": 0}
LARGE = {"side": 16, "widths": (8, 8, 16), "blocks": 2, "attention": (8,), "classes": 3}
C, E = 8, 32  # channels, and units of the embedding


def state_dict(*, side, widths, blocks, attention, classes, seed=0):
    """Random tensors by the names they have in a SongUNet, written down from the architecture."""
    noise, found = np.random.default_rng(seed), {}

    def add(name, *shape, bias=True):
        scale = 1 / np.sqrt(np.prod(shape[1:]) if len(shape) > 1 else 4)
        found[f"model.{name}.weight"] = np.float32(scale * noise.standard_normal(shape) + (len(shape) == 1))
        if bias:
            found[f"model.{name}.bias"] = np.float32(0.3 * noise.standard_normal(shape[:1]))

    def block(name, inside, outside, attend=False, resampled=False):
        add(f"{name}.norm0", inside)
        add(f"{name}.conv0", outside, inside, 3, 3)
        add(f"{name}.affine", outside, E)
        add(f"{name}.norm1", outside)
        add(f"{name}.conv1", outside, outside, 3, 3)
        if inside != outside or resampled:
            add(f"{name}.skip", outside, inside, 1, 1)
        if resampled:
            for part in ("conv0", "skip"):
                found[f"model.{name}.{part}.resample_filter"] = np.full((1, 1, 2, 2), 0.25, np.float32)
        if attend:
            add(f"{name}.norm2", outside)
            add(f"{name}.qkv", 3 * outside, outside, 1, 1)
            add(f"{name}.proj", outside, outside, 1, 1)

    add("map_layer0", E, C)
    add("map_layer1", E, E)
    add("map_augment", C, 9, bias=False)
    if classes:
        add("map_label", C, classes)
    sizes = [f"{side >> level}x{side >> level}" for level in range(len(widths))]
    add(f"enc.{sizes[0]}_conv", C, 3, 3, 3)
    skips, width = [C], C
    for level, (size, outside) in enumerate(zip(sizes, widths, strict=True)):
        if level:
            block(f"enc.{size}_down", width, width, resampled=True)
            skips.append(width)
        for i in range(blocks):
            block(f"enc.{size}_block{i}", width, outside, attend=side >> level in attention)
            width = outside
            skips.append(width)
    block(f"dec.{sizes[-1]}_in0", width, width, attend=True)
    block(f"dec.{sizes[-1]}_in1", width, width)
    for level in reversed(range(len(widths))):
        if level < len(widths) - 1:
            block(f"dec.{sizes[level]}_up", width, width, resampled=True)
        for i in range(blocks + 1):
            attend = i == blocks and side >> level in attention
            block(f"dec.{sizes[level]}_block{i}", width + skips.pop(), widths[level], attend=attend)
            width = widths[level]
    add(f"dec.{sizes[0]}_aux_norm", width)
    add(f"dec.{sizes[0]}_aux_conv", 3, width, 3, 3)
    return found


def in_torch(torch, arrays, x, sigma, labels, *, widths, classes, **_):
    """The same network and EDM's preconditioning in PyTorch, of the tensors' names: denoise [B, 3, H, W]."""
    functional = torch.nn.functional
    t = {name.removeprefix("model."): torch.from_numpy(array).double() for name, array in arrays.items()}
    conv = lambda n, h: functional.conv2d(h, t[f"{n}.weight"], t[f"{n}.bias"], padding=t[f"{n}.weight"].shape[-1] // 2)
    linear = lambda n, h: functional.linear(h, t[f"{n}.weight"], t[f"{n}.bias"])
    norm = lambda n, h: functional.group_norm(h, h.shape[1] // 4, t[f"{n}.weight"], t[f"{n}.bias"], eps=1e-6)
    silu = functional.silu

    def block(n, h, embedded):
        resample = lambda v: v
        if n.endswith("_down"):
            resample = lambda v: functional.avg_pool2d(v, 2)
        elif n.endswith("_up"):
            resample = lambda v: functional.interpolate(v, scale_factor=2, mode="nearest")
        out = conv(f"{n}.conv0", resample(silu(norm(f"{n}.norm0", h))))
        out = out + linear(f"{n}.affine", embedded)[:, :, None, None]
        out = conv(f"{n}.conv1", silu(norm(f"{n}.norm1", out)))
        skip = conv(f"{n}.skip", resample(h)) if f"{n}.skip.weight" in t else h
        out = (out + skip) / 2**0.5
        if f"{n}.qkv.weight" in t:
            q, k, v = conv(f"{n}.qkv", norm(f"{n}.norm2", out)).flatten(2).unflatten(1, (-1, 3)).unbind(2)
            seen = functional.scaled_dot_product_attention(*(a.mT.unsqueeze(1) for a in (q, k, v)))
            out = (out + conv(f"{n}.proj", seen.squeeze(1).mT.reshape(out.shape))) / 2**0.5
        return out

    levels = sigma[:, None, None, None]
    angles = (sigma.log() / 4)[:, None] * torch.tensor([10_000 ** (-i / (C // 2 - 1)) for i in range(C // 2)])
    embedded = torch.cat([angles.sin(), angles.cos()], 1)
    if classes:
        one_hot = torch.eye(classes + 1, classes, dtype=torch.float64)[labels]
        embedded = embedded + linear("map_label", one_hot * classes**0.5)
    embedded = silu(linear("map_layer1", silu(linear("map_layer0", embedded))))
    total = (levels**2 + 0.25).sqrt()
    h, skips = x / total, []
    for n in dict.fromkeys(re.match(r"enc\.\w+", n)[0] for n in t if n.startswith("enc.")):
        h = conv(n, h) if n.endswith("_conv") else block(n, h, embedded)
        skips.append(h)
    for n in dict.fromkeys(re.match(r"dec\.\w+", n)[0] for n in t if n.startswith("dec.") and "aux" not in n):
        h = block(n, torch.cat([h, skips.pop()], 1) if "_block" in n else h, embedded)
    side = f"{x.shape[-1]}x{x.shape[-1]}"
    h = conv(f"dec.{side}_aux_conv", silu(norm(f"dec.{side}_aux_norm", h)))
    return 0.25 / total**2 * x + levels * 0.5 / total * h


@pytest.fixture
def imported(tmp_path):
    def write(name="edm.npz", **shape):
        arrays = state_dict(**shape)
        np.savez(tmp_path / name, **arrays)
        return arrays, import_edm(tmp_path / name, tmp_path / "out")

    return write


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large with classes"])
def test_a_network_of_edm_denoises_as_in_pytorch(imported, shape, tmp_path, rng):
    torch = pytest.importorskip("torch")
    arrays, _ = imported(**shape)
    x, sigma = rng.standard_normal((3, 3, shape["side"], shape["side"])), np.array([0.02, 0.5, 30.0])
    x *= np.hypot(sigma, 0.5)[:, None, None, None]
    labels = torch.tensor([0, 2, 3])  # the last is none
    expected = in_torch(torch, arrays, torch.from_numpy(x), torch.from_numpy(sigma), labels, **shape).numpy()
    given = [labels.numpy()] if shape["classes"] else []
    found = load_run(tmp_path / "out").denoise(np.float32(x.transpose(0, 2, 3, 1)), np.float32(sigma), *given)
    np.testing.assert_allclose(
        np.transpose(found, (0, 3, 1, 2)) / sigma[:, None, None, None], expected / sigma[:, None, None, None], atol=1e-4
    )


def test_the_facts_of_an_imported_network(imported, tmp_path):
    _, model = imported(**LARGE)
    config = load_run(tmp_path / "out").config
    assert (config.model.channels, config.model.channel_multipliers) == (8, (1, 1, 2))
    assert (config.model.blocks_per_resolution, config.model.attention_resolutions) == (2, (8,))
    assert (config.model.class_conditional, model.facts.num_classes) == (True, 3)
    assert (config.model.sigma_data, model.facts.sigma_tn_max, model.facts.shape) == (0.5, 0.0, (16, 16, 3))
    np.testing.assert_array_equal(model.facts.scaling.to_unit(np.uint8([0, 255])), [-1, 1])
    card = (tmp_path / "out" / "README.md").read_text()
    assert "imported from the tensors of `edm.npz`" in card
    check_config(config)
    assert not any("label_dropout" in flag for flag in settings_to_go_on(model))


def test_it_samples_and_the_settings_to_go_on_are_flags(imported, tmp_path):
    _, model = imported(**TINY)
    config = default_config()
    for flag in settings_to_go_on(model):
        key, value = re.fullmatch(r"--config\.(model\.\w+)='(.+)'", flag).groups()
        config.update_from_flattened_dict({key: type(config.model[key[6:]])(eval_of(value))})
    assert config.model == model.config.model
    assert np.isfinite(load_run(tmp_path / "out").sample([0], num_steps=2)).all()


def test_training_goes_on_from_it_on_noisy_images(imported, tmp_path, rng, monkeypatch):
    _, model = imported(**TINY)
    nothing = {"sigma": [], "relative_mse": []}
    monkeypatch.setattr(loop, "held_out_health", lambda *_: {})
    monkeypatch.setattr(loop, "held_out_curve", lambda *_: nothing)
    monkeypatch.setattr(loop, "write_results", lambda workdir, *_: write_curve(workdir, nothing))
    np.savez(tmp_path / "images.npz", images=rng.integers(100, 150, (60, 4, 4, 3), dtype=np.uint8))
    config = default_config()
    config.model.update(model.config.model)
    config.data.source, config.init_from = str(tmp_path / "images.npz"), str(tmp_path / "out")
    config.training.steps, config.training.batch_size, config.training.learning_rate = 1, 2, 1e-9
    config.consistency.weight = 0.0
    train(config, tmp_path / "run")
    x_t, after = rng.standard_normal((2, 4, 4, 3)).astype(np.float32), load_run(tmp_path / "run")
    assert after.facts.sigma_data < 0.3  # and yet the network is used as it was trained
    np.testing.assert_allclose(after.denoise(x_t, 0.7), model.denoise(x_t, 0.7), atol=1e-5)


def eval_of(text):
    """A tuple of whole numbers, or a number, or a word."""
    if text.startswith("("):
        return [int(n) for n in text.strip("()").split(",") if n]
    return float(text) if re.fullmatch(r"[\d.]+", text) else text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model.enc.8x8_block0.conv0.bias": None}, "lacks enc.8x8_block0.conv0.bias"),
        ({"model.enc.8x8_block0.conv0.bias": np.zeros(9)}, r"conv0.bias gives \[9\], and \[8\] belongs there"),
        ({"model.enc.8x8_block0.more.bias": np.zeros(9)}, "holds enc.8x8_block0.more.bias"),
        ({"model.map_layer0.bias": np.full(32, np.nan)}, "map_layer0.bias holds something else than finite floats"),
        ({"model.map_noise.freqs": np.zeros(4)}, "of the kind NCSN"),
        ({"model.out_norm.weight": np.zeros(4)}, "of the kind ADM"),
        ({"model.dec.8x8_up.skip.resample_filter": np.ones((1, 1, 4, 4))}, "is not the mean of 2×2 pixels"),
        ({"model.enc.8x8_conv.weight": None}, "needs one enc.RxR_conv.weight"),
        ({"model.enc.8x8_block0.conv1.weight": np.zeros((9, 8, 3, 3))}, "has blocks of"),
        ({"model.enc.8x8_block0.conv1.weight": np.float32(1)}, "needs one enc.RxR_conv.weight"),
        ({"model.enc.8x8_conv.weight": np.zeros((8, 0, 3, 3))}, "conv.weight holds something else than finite floats"),
        ({"model.map_layer0.bias": np.full(32, 1e300)}, "map_layer0.bias holds something else than finite floats"),
        ({"model.map_label.weight": np.float32(1)}, "holds map_label.weight"),
        ({"model.map_label.weight": np.zeros((8, 2**21), np.float16)}, "num_classes 2097152 is beyond any model"),
    ],
)
def test_other_tensors_are_refused(tmp_path, change, told):
    arrays = {name: array for name, array in (state_dict(**SMALL) | change).items() if array is not None}
    np.savez(tmp_path / "edm.npz", **arrays)
    with pytest.raises(InputError, match=told):
        import_edm(tmp_path / "edm.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_pickle_is_refused_with_the_way_around_it(tmp_path):
    (tmp_path / "edm.pkl").write_bytes(b"cos\nsystem\n")
    with pytest.raises(InputError, match=r"is a pickle, which can run anything .*numpy.savez\('edm.npz'"):
        import_edm(tmp_path / "edm.pkl", tmp_path / "out")
