import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.diffusion.oracles import mixture_denoiser
from tweedie_diffusion.training import patch_prior
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.loop import open_data, train
from tweedie_diffusion.training.patch_prior import mixture_of
from tweedie_diffusion.training.trained import load_run

pytestmark = pytest.mark.usefixtures("only_training")


@pytest.fixture
def config():
    """Two steps of a small U-Net on the digits, which corrects a mixture of eight patches."""
    config = default_config()
    config.model.channels = 8
    config.model.channel_multipliers = (1,)
    config.model.blocks_per_resolution = 1
    config.model.attention_resolutions = ()
    config.model.patch_components = 8
    config.model.patch_side = 2
    config.training.steps = 2
    config.training.save_every = 1
    config.consistency.weight = 0.0
    return config


def test_the_mixture_is_fitted_once_and_serves_every_later_use_of_the_run(config, tmp_path, monkeypatch):
    train(config, tmp_path / "first")
    once = (tmp_path / "first" / "patch_mixture.npz").read_bytes()
    monkeypatch.setattr(patch_prior, "fit_patch_mixture", None)  # no second fit
    (tmp_path / "first" / "denoising_curve.json").unlink()
    train(config, tmp_path / "first")
    x_t = np.zeros((1, 8, 8, 1), np.float32)
    assert np.isfinite(load_run(tmp_path / "first").denoise(x_t, 0.3)).all()
    config.init_from = str(tmp_path / "first")
    train(config, tmp_path / "second")
    assert (tmp_path / "first" / "patch_mixture.npz").read_bytes() == once
    with np.load(tmp_path / "first" / "patch_mixture.npz") as a, np.load(tmp_path / "second/patch_mixture.npz") as b:
        assert all((a[name] == b[name]).all() for name in a)


def test_a_perceptron_corrects_a_mixture_of_vectors(tmp_path):
    config = default_config()
    config.data.source, config.data.sigma_tn, config.data.num_examples = "mixture_2d", 0.3, 30_000
    config.model.network, config.model.width, config.model.patch_components = "mlp", 8, 32
    config.training.steps, config.training.save_every, config.consistency.weight = 2, 2, 0.0
    config.sampling.num_steps, config.evaluation.sigmas = 2, (0.1,)
    train(config, tmp_path / "run")
    angles = 2 * np.pi * np.arange(8) / 8
    exact = mixture_denoiser(np.ones(8), np.stack([np.cos(angles), np.sin(angles)], axis=1), np.full(8, 0.1**2))
    x_t = jnp.array([[1.15, 0.1], [-0.1, -1.1], [0.75, 0.75]])
    np.testing.assert_allclose(load_run(tmp_path / "run").denoise(x_t, 0.1), exact(x_t, 0.1), atol=0.06)


def test_vectors_too_few_for_a_mixture_are_refused(tmp_path):
    config = default_config()
    config.data.source, config.data.sigma_tn, config.data.num_examples = "mixture_2d", 0.3, 600
    config.model.network, config.model.patch_components = "mlp", 16
    with pytest.raises(InputError, match=r"500 vectors are too few .* lower it to at most 5"):
        train(config, tmp_path / "run")


def test_fine_tuning_with_another_mixture_is_refused(config, tmp_path):
    train(config, tmp_path / "first")
    config.init_from, config.model.patch_side = str(tmp_path / "first"), 3
    with pytest.raises(InputError, match="has another shape"):
        train(config, tmp_path / "second")
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("patch_side", 9, r"hold no patch of model.patch_side=9"),
        ("patch_components", 2000, r"73353 patches are too few .* lower it to at most 733"),
    ],
)
def test_a_mixture_that_the_images_cannot_fill_is_refused(config, tmp_path, key, value, message):
    config.model[key] = value
    with pytest.raises(InputError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_an_attempt_without_a_checkpoint_left_is_not_used(config, tmp_path):
    (tmp_path / "patch_mixture.npz").write_bytes(b"of other images")
    assert train(config, tmp_path) is True


def test_a_run_that_lost_its_mixture_is_not_given_another(config, tmp_path):
    train(config, tmp_path)
    (tmp_path / "patch_mixture.npz").unlink()
    (tmp_path / "denoising_curve.json").unlink()
    with pytest.raises(InputError, match=r"patch_mixture.npz cannot be read"):
        train(config, tmp_path)


def test_a_lost_mixture_is_named(config, tmp_path):
    train(config, tmp_path)
    (tmp_path / "patch_mixture.npz").write_bytes(b"")
    with pytest.raises(InputError, match=r"patch_mixture.npz cannot be read"):
        load_run(tmp_path)


@pytest.mark.parametrize(("clean_fraction", "level", "used"), [(0.0, 0.5, 1497), (0.4, 0.5, 1497), (0.8, 0.0, 1198)])
def test_images_of_less_noise_are_brought_to_the_level_of_the_others(config, monkeypatch, clean_fraction, level, used):
    seen = {}
    monkeypatch.setattr(patch_prior, "fit_patch_mixture", lambda x_tn, **options: seen.update(options, x_tn=x_tn))
    config.data.clean_fraction = clean_fraction
    dataset = open_data(config.data)
    mixture_of(dataset.train, config.model, seed=0)
    assert seen["sigma_tn"] == level
    assert abs(len(seen["x_tn"]) - used) < 40
    spread = np.sqrt(seen["x_tn"].var() - level**2)
    assert abs(spread / dataset.sigma_data - 1) < 0.03


@pytest.mark.parametrize(("kind", "shape"), [("|O", (1,)), ("<f8", (10**15,))])
def test_a_planted_pickle_or_a_huge_header_in_place_of_the_mixture_is_one_line(tmp_path, kind, shape):
    trap = b"cos\nmkdir\n(V" + str(tmp_path / "sprung").encode() + b"\ntR."
    with zipfile.ZipFile(tmp_path / "patch_mixture.npz", "w") as archive, archive.open("weights.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
        file.write(trap)
    with pytest.raises(InputError, match=r"patch_mixture.npz is not a readable NumPy file"):
        patch_prior.read_mixture(tmp_path)
    assert not (tmp_path / "sprung").exists()
