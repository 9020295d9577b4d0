import dataclasses
import re

import numpy as np
import pytest
import tifffile
from PIL import Image

from tweedie_diffusion.data.errors import BadFiles, InputError
from tweedie_diffusion.data.formats import Frames, open_frames, write_frames
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.data.scaling import Scaling
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.training import denoise_files as module
from tweedie_diffusion.training.config import default_config
from tweedie_diffusion.training.denoise_files import GivenNoise, denoise_files
from tweedie_diffusion.training.facts import DataFacts
from tweedie_diffusion.training.trained import TrainedModel


@pytest.fixture
def model():
    """Exact for pixels ~ N(0, 1/4), trained on uint8 images 4×4 at σ_tn = 0.5: it halves what it is given there."""
    facts = DataFacts((4, 4, 1), 0.5, 0.5, 0.5, 0, Scaling(0, 255, "uint8"), 10, 10)
    return TrainedModel(default_config(), facts, lambda params, **_: gaussian_denoiser(0.0, 0.25), {})


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def run(model, path, out, sigma=None, num_samples=0, **noise):
    return denoise_files(model, str(path), out, noise=GivenNoise(sigma, **noise), num_samples=num_samples, seed=0)


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
    spread = tifffile.imread(tmp_path / "out" / "a_std.tif")
    assert (spread.dtype, spread.shape) == (np.float32, (4, 4))
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
    with pytest.raises(InputError, match=r"the results of a.png and a_sample0.png would be written to one file"):
        run(model, tmp_path / "in", tmp_path / "out", num_samples=1)
    (tmp_path / "b_sample0.png").write_text("mine")
    with pytest.raises(InputError, match=r"b_sample0\.png exists already"):
        run(model, tmp_path / "in" / "a.png", tmp_path / "b.png", num_samples=1)


def test_images_of_another_shape_are_refused(model, tmp_path):
    np.save(tmp_path / "in.npy", np.zeros((1, 4, 4, 3), np.float32))
    with pytest.raises(InputError, match="4×4×3, and the model takes 4×4×1 or larger"):
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


def test_a_stack_comes_back_in_its_format_dtype_and_units(model, tmp_path, rng):
    """A constant and a saturated page among them."""
    model.facts = dataclasses.replace(model.facts, scaling=Scaling(0, 4095, "uint16"))
    pages = rng.integers(0, 4096, (5, 9, 14), dtype=np.uint16)
    pages[3], pages[4] = 700, 4095
    tifffile.imwrite(tmp_path / "in.tif", pages, photometric="minisblack")
    run(model, tmp_path / "in.tif", tmp_path / "out.tif", num_samples=2)
    clean = tifffile.imread(tmp_path / "out.tif")
    assert (clean.dtype, clean.shape) == (np.uint16, pages.shape)
    np.testing.assert_allclose(clean, 2047.5 + (pages - 2047.5) / 2, atol=0.51)  # larger than training's: in tiles
    with tifffile.TiffFile(tmp_path / "out.tif") as written:
        note = written.pages[0].software.split("; before it: ")[0]
    assert re.fullmatch(
        r"posterior mean by tweedie_diffusion \S+, jax \S+, model [0-9a-f]{16}, seed 0, sigma 0.5", note
    )
    spread = tifffile.imread(tmp_path / "out_std.tif")
    assert (spread.dtype, spread.shape) == (np.float32, pages.shape)
    assert tifffile.imread(tmp_path / "out_sample1.tif").dtype == np.uint16


@pytest.mark.parametrize("suffix", [".fits", ".mrc", ".h5", ".tif"])
def test_floats_come_back_in_every_format(model, tmp_path, rng, suffix):
    images = (200 * rng.random((2, 4, 4, 1))).astype(np.float32)
    write_frames(tmp_path / f"in{suffix}", images, Frames(2, (4, 4, 1), images.dtype, images.__getitem__), "a note")
    run(model, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    read = open_frames(f"out{suffix}", tmp_path / f"out{suffix}")
    np.testing.assert_allclose([read.read(i) for i in range(2)], 127.5 + (images - 127.5) / 2, atol=1e-3)


def test_each_file_has_its_own_level_in_a_table(model, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        Image.fromarray(np.full((4, 4), 255, np.uint8)).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "levels.csv").write_text(f"file,sigma\na.png,0\nb.png,{0.5 * 127.5}\n")
    levels = run(model, tmp_path / "in", tmp_path / "out", units="data", source=str(tmp_path / "levels.csv"))
    np.testing.assert_allclose(levels, [0, 0.5])
    assert np.asarray(Image.open(tmp_path / "out" / "a.png"))[0, 0] == 255
    assert np.asarray(Image.open(tmp_path / "out" / "b.png"))[0, 0] == round(127.5 + 127.5 / 2)


def test_the_level_of_each_file_can_be_estimated(model, tmp_path, rng):
    (tmp_path / "in").mkdir()
    for name, sigma in (("a", 10.0), ("b", 30.0)):
        tifffile.imwrite(
            tmp_path / "in" / f"{name}.tif", (100 + sigma * rng.standard_normal((128, 128))).astype(np.float32)
        )
    levels = run(model, tmp_path / "in", tmp_path / "out", source="auto")
    np.testing.assert_allclose(levels, [10 / 127.5, 30 / 127.5], rtol=0.05)


def test_frames_of_a_file_may_have_levels_of_their_own(model, tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.full((2, 4, 4), 255, np.uint8), photometric="minisblack")
    (tmp_path / "levels.csv").write_text("file,sigma\nin.tif,0\nin.tif:1,0.5\n")
    levels = run(model, tmp_path / "in.tif", tmp_path / "out.tif", source=str(tmp_path / "levels.csv"))
    np.testing.assert_allclose(levels, [0, 0.5])
    assert list(tifffile.imread(tmp_path / "out.tif")[:, 0, 0]) == [255, round(127.5 + 127.5 / 2)]


def test_files_of_channels_of_unequal_noise_come_back(model, tmp_path, rng):
    facts = DataFacts((4, 4, 2), 0.5, 0.5, 0.5, 0, Scaling((0.0, 100.0), (200.0, 300.0), "float32"), 10, 10)
    model = TrainedModel(default_config(), facts, lambda params, **_: lambda x, sigma: x, {})
    images = (100 + 50 * rng.random((1, 4, 4, 2))).astype(np.float32)
    write_frames(tmp_path / "in.h5", images, Frames(1, (4, 4, 2), images.dtype, images.__getitem__), "a note")
    run(model, tmp_path / "in.h5", tmp_path / "out.h5")
    np.testing.assert_allclose(open_frames("out.h5", tmp_path / "out.h5").read(0), images[0], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["int32", "float64"])
def test_values_that_float32_would_round_come_back(tmp_path, rng, dtype):
    facts = DataFacts((4, 4, 1), 0.5, 0.5, 0.5, 0, Scaling(1e9, 1e9 + 4000, dtype), 10, 10)
    model = TrainedModel(default_config(), facts, lambda params, **_: lambda x, sigma: x, {})
    images = (1e9 + 4000 * rng.random((3, 4, 4, 1))).astype(dtype)
    np.save(tmp_path / "in.npy", images)
    run(model, tmp_path / "in.npy", tmp_path / "out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), images, rtol=0, atol=0.6)  # float32 has steps of 64 there


def test_an_npz_keeps_its_axes_and_its_other_arrays(model, tmp_path):
    np.savez(tmp_path / "in.npz", stack=np.full((3, 4, 4), 200, np.uint8))
    run(model, tmp_path / "in.npz", tmp_path / "out.npz", num_samples=2)
    out = np.load(tmp_path / "out.npz")
    assert (out["stack"].shape, out["samples"].shape, out["std"].shape) == ((3, 4, 4), (3, 2, 4, 4), (3, 4, 4))
    np.savez(tmp_path / "b.npz", images=np.full((3, 4, 4), 200, np.uint8), labels=[3, 1, 2])
    run(model, tmp_path / "b.npz", tmp_path / "c.npz")
    assert list(np.load(tmp_path / "c.npz")["labels"]) == [3, 1, 2]


def test_levels_of_an_npz_may_be_in_stored_values(model, tmp_path):
    images = np.full((2, 4, 4, 1), 200.0, np.float32)
    np.savez(tmp_path / "in.npz", images=images, sigma_tn=[0.5 * 127.5, 0.0])
    levels = run(model, tmp_path / "in.npz", tmp_path / "out.npz", units="data")
    np.testing.assert_allclose(levels, [0.5, 0.0])


@pytest.mark.parametrize(("sigma", "warned"), [(0.2, False), (25.0, True), (0.002, True)])
def test_a_level_that_is_not_that_of_the_images_is_told(model, tmp_path, rng, capsys, sigma, warned):
    """In the wrong units, say: both numbers are named."""
    noisy = 127.5 + 0.2 * 127.5 * rng.standard_normal((40, 32, 32))
    tifffile.imwrite(tmp_path / "in.tif", noisy.astype(np.float32), photometric="minisblack")
    run(model, tmp_path / "in.tif", tmp_path / "out.tif", sigma=sigma)
    shown = capsys.readouterr().err
    assert (f"warning: the noise level σ={sigma:g} is" in shown) is warned
    assert ("0.2" in shown) is warned


def test_results_are_not_put_among_what_they_are_of(model, tmp_path):
    (tmp_path / "in").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match=r"lies in .*: name a folder elsewhere"):
        run(model, tmp_path / "in", tmp_path / "in" / "out")


def test_a_file_that_cannot_be_written_is_named_and_leaves_nothing(model, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError("an odd tag")

    tifffile.imwrite(tmp_path / "in.tif", np.zeros((4, 4), np.uint8))
    monkeypatch.setattr(tifffile, "TiffWriter", fail)
    with pytest.raises(InputError, match=r"out.tif cannot be written \(an odd tag\)"):
        run(model, tmp_path / "in.tif", tmp_path / "out.tif")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []


def folder_stopped_after(model, tmp_path, monkeypatch, rng, count):
    """Denoise a folder of eight files of 20 frames until `count` of them are there; gives the arguments."""
    (tmp_path / "in").mkdir()
    for name in "abcdefgh":
        pages = rng.integers(0, 256, (20, 4, 4), dtype=np.uint8)
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", pages, photometric="minisblack")
    written = []

    def write(path, *rest):
        if len(written) == 3 * count + 1:  # a sample, the spread and the mean of each, and a sample more
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        written.append(path)
        write_frames(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_frames", write)
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path / "in", tmp_path / "out", num_samples=1)
    return model, tmp_path / "in", tmp_path / "out"


def test_a_folder_goes_on_at_the_missing_files(model, tmp_path, monkeypatch, rng, capsys):
    arguments = folder_stopped_after(model, tmp_path, monkeypatch, rng, 5)
    there = sorted(path.name for path in (tmp_path / "out").iterdir())
    names = [f"{name}{kind}.tif" for name in "abcde" for kind in ("", "_sample0", "_std")]
    assert there == [".denoising.json", *names]
    times = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in names}
    levels = run(*arguments, num_samples=1)
    assert len(levels) == 160
    assert "going on: 5 of 8 files were denoised before" in capsys.readouterr().err
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in names} == times
    run(model, tmp_path / "in", tmp_path / "once", num_samples=1)
    read = lambda folder: {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
    assert read("out") == read("once")
    assert len(read("out")) == 24


def test_a_folder_of_another_request_is_refused(model, tmp_path, monkeypatch, rng):
    arguments = folder_stopped_after(model, tmp_path, monkeypatch, rng, 5)
    with pytest.raises(InputError, match=r"out is of another request \(levels differ\): remove it, or name another"):
        run(*arguments, sigma=0.4, num_samples=1)
    with pytest.raises(InputError, match=r"another request \(num_samples differ\)"):
        run(*arguments)


def test_every_file_that_cannot_be_denoised_is_named(model, tmp_path):
    (tmp_path / "in").mkdir()
    for name, side in (("a", 4), ("b", 3)):
        Image.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / "in" / f"{name}.png")
    (tmp_path / "in" / "c.png").write_text("none")
    with pytest.raises(BadFiles, match=r"2 of 3 files in .* cannot be denoised") as caught:
        run(model, tmp_path / "in", tmp_path / "out")
    assert sorted(line.split()[0] for line in caught.value.lines) == ["b.png", "c.png"]
    assert not (tmp_path / "out").exists()


def test_counts_come_back_as_counts(model, tmp_path):
    photons = PhotonNoise(2.0, 10.0)
    low, high = (float(photons.stabilise(v)) for v in (10.0, 410.0))
    facts = dataclasses.replace(model.facts, scaling=Scaling(low, high, "uint16", photons=photons))
    leave = lambda params, **_: lambda x, sigma: x
    model = TrainedModel(default_config(), facts, leave, {})
    stored = np.full((1, 4, 4, 1), 210, np.uint16)
    np.save(tmp_path / "in.npy", stored)
    run(model, tmp_path / "in.npy", tmp_path / "out.npy")
    # E[f(z)] is less than f(E z), so the way back of f(z) itself is a little more than z.
    assert 0 < np.load(tmp_path / "out.npy")[0, 0, 0, 0] - 210.0 <= 1
    with pytest.raises(InputError, match=r"the model knows the noise of its images from data.photons"):
        run(model, tmp_path / "in.npy", tmp_path / "b.npy", sigma=0.1)
