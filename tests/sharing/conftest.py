import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.data.formats.arrays import write_arrays
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.training.checkpoints import Checkpoints
from tweedie_diffusion.training.config import default_config, to_json
from tweedie_diffusion.training.denoiser import build_network, init_params
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.step import first_buffer, init_state, make_optimizer
from tweedie_diffusion.training.trained import digest, load_run


def small_unet(patches=8):
    config = default_config()
    config.data.source, config.data.sigma_tn = "/somewhere/of/mine/scans|of/*.png", 0.4
    config.model.channels, config.model.channel_multipliers = 8, (1,)
    config.model.blocks_per_resolution, config.model.attention_resolutions = 1, ()
    config.model.patch_components, config.model.patch_side = patches, 2
    config.consistency.weight, config.sampling.num_steps = 0.0, 3
    return config


def write_run(workdir, config, facts, seed=0):
    """A run with a checkpoint of random weights, none of them zero, as some are at the start of training."""
    network = build_network(config.model, facts)
    noise = np.random.default_rng(seed)
    params = init_params(jax.random.key(0), network, config.model, facts)
    params = jax.tree.map(lambda p: jnp.float32(0.2 * noise.standard_normal(p.shape)), params)
    workdir.mkdir()
    (workdir / "config.json").write_text(to_json(config))
    (workdir / "data.json").write_text(facts.to_json())
    if count := config.model.patch_components:
        arrays = {"weights": np.full(count, 1 / count), "means": noise.standard_normal((count, 4)) / 4}
        arrays |= {"axes": np.tile(np.eye(4), (count, 1, 1)), "variances": np.full((count, 4), 0.1)}
        arrays |= {"ends": np.zeros(2)}
        write_arrays(workdir / "patch_mixture.npz", {name: np.float32(a) for name, a in arrays.items()})
    with Checkpoints(workdir, keep=1) as checkpoints:
        checkpoints.save(init_state(params, make_optimizer(config.training), first_buffer(config.refresh, facts.shape)))
    return workdir


@pytest.fixture
def x_t():
    return np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 4, 4, 1)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The workdir of a small U-Net on 4×4 images, which corrects a mixture of patches."""
    facts = DataFacts((4, 4, 1), 0.5, 0.4, 0.4, 0, Scaling(0, 16, "uint8"), 100, 20, "0123abcd")
    workdir = write_run(tmp_path_factory.mktemp("sharing") / "digits", small_unet(), facts)
    (workdir / "denoising_curve.json").write_text('{"sigma": [0.5, 0.8], "relative_mse": [0.31, 0.125]}\n')
    numbers = {"frechet": {"value": 1.25, "n": {"generated": 64}, "warning": ""}}
    (workdir / "evaluation.json").write_text(
        json.dumps(numbers | {"about": {"workdir": "/somewhere/of/mine/runs", "model": digest(load_run(workdir))}})
    )
    return workdir
