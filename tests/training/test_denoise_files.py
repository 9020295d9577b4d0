import numpy as np
import pytest
from PIL import Image

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.denoise_files import denoise_files
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.trained import TrainedModel


@pytest.fixture
def model():
    """Exact for pixels ~ N(0, 1/4), trained on uint8 images 4×4 at σ_tn = 0.5: it halves what it is given there."""
    facts = DataFacts((4, 4, 1), 0.5, 0.5, 0.5, 0, Scaling(0, 255, "uint8"), 10, 10)
    return TrainedModel(default_config(), facts, lambda params, **_: gaussian_denoiser(0.0, 0.25), {})


def run(model, source, out, sigma=None, num_samples=0):
    return denoise_files(model, source, out, sigma=sigma, num_samples=num_samples, seed=0)


def test_arrays_come_back_in_their_own_range_and_dtype(model, tmp_path, rng):
    images = rng.integers(0, 256, (70, 4, 4, 1)).astype(np.uint8)
    np.savez(tmp_path / "in.npz", images=images)
    run(model, tmp_path / "in.npz", tmp_path / "out.npz")
    result = np.load(tmp_path / "out.npz")["images"]
    assert result.dtype == np.uint8
    np.testing.assert_allclose(result, 127.5 + (images - 127.5) / 2, atol=0.5001)


def test_each_image_is_denoised_at_its_own_level(model, tmp_path):
    images, sigma_tn = np.full((2, 4, 4, 1), 200.0, np.float32), np.array([0.5, 0.0])
    np.savez(tmp_path / "in.npz", images=images, sigma_tn=sigma_tn)
    assert np.array_equal(run(model, tmp_path / "in.npz", tmp_path / "out.npz"), np.float32([0.5, 0.0]))
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")["images"][:, 0, 0, 0], [163.75, 200.0], atol=1e-3)


def test_a_stated_level_counts(model, tmp_path):
    np.save(tmp_path / "in.npy", np.full((1, 4, 4, 1), 255.0, np.float32))
    run(model, tmp_path / "in.npy", tmp_path / "out.npy", sigma=0.75**0.5)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), 127.5 + 0.25 * 127.5, atol=1e-3)


def test_posterior_samples_come_with_their_spread(model, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((1, 4, 4, 1), np.float32))
    run(model, tmp_path / "in.npy", tmp_path / "out.npz", num_samples=40)
    out = np.load(tmp_path / "out.npz")
    assert out["samples"].shape == (1, 40, 4, 4, 1)
    assert out["std"].mean() == pytest.approx(127.5 * (0.25 * 0.25 / 0.5) ** 0.5, rel=0.15)


def test_a_folder_gives_a_folder_of_the_same_names(model, tmp_path, rng):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    pixels = rng.integers(0, 256, (2, 4, 4)).astype(np.uint8)
    for name, image in zip(["a.png", "deep/b.png"], pixels, strict=True):
        Image.fromarray(image).save(tmp_path / "in" / name)
    run(model, tmp_path / "in", tmp_path / "out", num_samples=1)
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    assert names == {"a.png", "deep/b.png", "a_sample0.png", "deep/b_sample0.png"}
    clean = np.asarray(Image.open(tmp_path / "out" / "deep" / "b.png"))
    np.testing.assert_allclose(clean, 127.5 + (pixels[1] - 127.5) / 2, atol=0.5001)


@pytest.mark.parametrize(
    ("out", "message"),
    [("out.png", "must end in .npz or .npy"), ("nowhere/out.npz", "does not exist"), ("in.npz", "exists already")],
)
def test_an_output_that_cannot_be_is_refused(model, tmp_path, out, message):
    np.savez(tmp_path / "in.npz", images=np.zeros((1, 4, 4, 1), np.float32))
    with pytest.raises(InputError, match=message):
        run(model, tmp_path / "in.npz", tmp_path / out)


def test_a_folder_of_results_is_never_overwritten(model, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "in" / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        run(model, tmp_path / "in", tmp_path / "out")


def test_draws_never_replace_another_file(model, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "a_sample0"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    with pytest.raises(InputError, match="a draw of a would replace another image's result"):
        run(model, tmp_path / "in", tmp_path / "out", num_samples=1)
    (tmp_path / "b_sample0.png").write_text("mine")
    with pytest.raises(InputError, match=r"b_sample0\.png exists already"):
        run(model, tmp_path / "in" / "a.png", tmp_path / "b.png", num_samples=1)


def test_images_of_another_shape_are_refused(model, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(InputError, match="4×4×3, and the model takes 4×4×1"):
        run(model, tmp_path / "in.npy", tmp_path / "out.npy")


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan")])
def test_a_level_that_cannot_be_is_refused(model, tmp_path, sigma):
    np.save(tmp_path / "in.npy", np.zeros((1, 4, 4, 1), np.float32))
    with pytest.raises(InputError, match="--sigma must be > 0"):
        run(model, tmp_path / "in.npy", tmp_path / "out.npy", sigma=sigma)


def test_the_level_must_be_stated_where_the_training_images_had_several(model, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((1, 4, 4, 1), np.float32))
    model.facts = DataFacts((4, 4, 1), 0.5, 0.0, 0.5, 0, Scaling(0, 255, "uint8"), 10, 10)
    with pytest.raises(InputError, match="state the noise of the images: --sigma"):
        run(model, tmp_path / "in.npy", tmp_path / "out.npy")
