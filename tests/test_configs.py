import importlib.util
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
import tifffile

from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training import loop
from tweedie_diffusion.training.config import check_config
from tweedie_diffusion.training.denoiser import build_network, init_params
from tweedie_diffusion.training.facts import DataFacts

FOLDER = Path(__file__).parents[1] / "configs"
SHAPES = {
    "digits_noisy": (8, 8, 1),
    "mixture_2d": (2,),
    "cifar10_noisy": (32, 32, 3),
    "celeba_noisy": (64, 64, 3),
    "imagenet64_noisy": (64, 64, 3),
    "folder_noisy": (12, 16, 1),
    "microscopy_noisy": (12, 16, 1),
}
NAMES = list(SHAPES)


def get_config(name, variant=""):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)


def num_weights(name):
    config = get_config(name)
    facts = DataFacts(SHAPES[name], 0.5, 0.2, 0.2, 0, Scaling(-1, 1, "float32"), 10, 10)
    network = build_network(config.model, facts)
    shapes = jax.eval_shape(lambda: init_params(jax.random.key(0), network, config.model, facts))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_every_config_is_tested():
    assert {p.stem for p in FOLDER.glob("*.py")} == set(NAMES)


@pytest.mark.parametrize(("name", "variant"), [*itertools.product(NAMES, ["", "quick"]), ("folder_noisy", "256")])
def test_a_config_is_valid(name, variant):
    assert check_config(get_config(name, variant)) is None


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_variant_is_refused(name):
    with pytest.raises(ValueError, match="unknown variant 'fast'"):
        get_config(name, "fast")


@pytest.mark.parametrize(("name", "millions"), [("cifar10_noisy", 55.7), ("celeba_noisy", 61.8)])
def test_the_full_networks_are_as_large_as_those_of_edm(name, millions):
    assert num_weights(name) == pytest.approx(millions * 1e6, rel=0.1)  # EDM, DDPM++ for 32×32 and 64×64


@pytest.mark.parametrize("name", [name for name in NAMES if name != "imagenet64_noisy"])  # made small, it is CelebA's
def test_a_config_trains_two_steps_on_small_data(name, tmp_path, rng, monkeypatch):
    """Every term from the first step; all else as the config says, on a narrow network."""
    monkeypatch.setattr(loop, "write_results", lambda *_: None)
    monkeypatch.setattr(loop, "held_out_health", lambda *_: {})
    monkeypatch.setattr(loop, "scored_pictures", lambda *_: {})
    monkeypatch.setattr(loop, "held_out_curve", lambda *_: {"sigma": [], "relative_mse": []})
    config = get_config(name)
    if config.data.source.startswith("path/to"):
        signal = rng.uniform(5, 50, (240, 1, 1))
        noise = 3 * rng.standard_normal((240, 12, 16))
        stored = signal + noise + 20 if name == "folder_noisy" else rng.poisson(signal, noise.shape)
        tifffile.imwrite(tmp_path / "images.tif", np.rint(stored).astype(np.uint16), photometric="minisblack")
        config.data.source = str(tmp_path / "images.tif")
        config.data.crop = 8
    if config.data.source.startswith("tfds:"):
        images = rng.integers(0, 256, (240, *SHAPES[name])).astype(np.uint8)
        np.save(tmp_path / "images.npy", images)
        config.data.source = str(tmp_path / "images.npy")
        config.data.image_size = 8
        config.data.held_out = 0.25
        config.model.attention_resolutions = (8,) if config.model.attention_resolutions else ()
    config.data.num_examples = 200
    config.model.channels = 8
    config.model.blocks_per_resolution = 1
    config.model.channel_multipliers = (1,)
    config.training.batch_size = 8
    config.training.steps = 2
    config.training.log_every = 1
    config.consistency.start = config.refresh.start = 0
    config.refresh.capacity = 16
    terms = [f"{road}_loss" for road in ("consistency", "refresh") if config[road].weight]
    assert terms
    assert loop.train(config, tmp_path / "run") is True
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [(set(terms) <= s.keys(), np.isfinite(s["loss"])) for s in steps] == [(True, True)] * 2
