import ast
import json
import shlex

import numpy as np
import pytest
import tifffile
from scipy.ndimage import gaussian_filter
from sklearn.datasets import load_digits

from configs.folder_noisy import get_config
from tweedie_diffusion.data.errors import BadFiles
from tweedie_diffusion.evaluation.inspection import in_words, inspect
from tweedie_diffusion.evaluation.inspection_page import save_page
from tweedie_diffusion.training.config import check_config
from tweedie_diffusion.training.denoiser import build_network
from tweedie_diffusion.training.facts import facts_of
from tweedie_diffusion.training.loop import open_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def digits():
    return load_digits().images[..., None] / 8 - 1


def scenes(rng, count=300, side=20):
    """Smooth waves over the whole range, which they touch."""
    grid = np.arange(side) / side
    slope, phase = rng.uniform(-4, 4, (count, 2, 1, 1)), rng.uniform(0, 2 * np.pi, (count, 1, 1))
    return np.cos(slope[:, 0] * grid[:, None] + slope[:, 1] * grid + phase)[..., None]


def correlated(rng, shape, sigma):
    noise = gaussian_filter(rng.standard_normal(shape), (0, 0.8, 0.8, 0))
    return sigma * noise / noise.std()


def stored(rng, kind, x_0):
    """Images of a kind of noise, as a file would hold them."""
    noise = lambda sigma: sigma * rng.standard_normal(x_0.shape)
    to_8_bits = lambda x: np.clip(np.rint((x + 1) * 127.5), 0, 255).astype(np.uint8)
    return {
        "clean": lambda: to_8_bits(x_0),
        "white": lambda: (x_0 + noise(0.4)).astype(np.float32),
        "white, 8 bits": lambda: to_8_bits(0.3 * x_0 + noise(0.1)),
        "poisson": lambda: rng.poisson(15 * (x_0 + 1)).astype(np.uint16),
        "poisson, 8 bits": lambda: np.minimum(2 * rng.poisson(20 * (x_0 + 1)), 255).astype(np.uint8),
        "correlated": lambda: (x_0 + correlated(rng, x_0.shape, 0.4)).astype(np.float32),
        "clipped": lambda: to_8_bits(x_0 + noise(0.4)),
    }[kind]()


@pytest.mark.parametrize("images", [digits, scenes])
@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("clean", "no_noise"),
        ("white", "holds"),
        ("white, 8 bits", "holds"),
        ("poisson", "holds_after_transform"),
        ("correlated", "correlated"),
        ("clipped", "clipped"),
    ],
)
def test_the_verdict(tmp_path, rng, images, kind, verdict):
    x_0 = images() if images is digits else images(rng)
    np.save(tmp_path / "a.npy", stored(rng, kind, x_0))
    assert inspect(str(tmp_path / "a.npy")).verdict == verdict


def test_the_findings_as_json(tmp_path, rng):
    x_0 = scenes(rng)
    np.save(tmp_path / "a.npy", np.rint(1000 * (x_0 + 2) + 200 * rng.standard_normal(x_0.shape)).astype(np.uint16))
    found = json.loads(json.dumps(inspect(str(tmp_path)).to_dict()))
    assert (found["count"], found["shape"], found["dtype"]) == (300, [20, 20, 1], "uint16")
    assert found["sigma"] == pytest.approx(200, rel=0.02)
    low, high = found["sigma_interval"]
    assert low <= 200 <= high
    assert found["gain"] is None
    assert abs(found["neighbour_correlation"]) < 0.1
    assert found["clipped_fraction"] < 0.001
    assert found["unreadable"] == []
    assert found["verdict"] == "holds"
    assert found["sigma_scaled"] == pytest.approx(2 * found["sigma"] / np.ptp(found["range"]))


def test_photon_noise_comes_with_its_gain(tmp_path, rng):
    np.save(tmp_path / "a.npy", (4.1 * rng.poisson(20 * (scenes(rng) + 1))).astype(np.float32))
    found = inspect(str(tmp_path)).to_dict()
    assert found["gain"] == pytest.approx(4.1, rel=0.05)
    assert found["settings"]["data.photons"][0] == pytest.approx(found["gain"], rel=1e-3)


def test_channels_of_unequal_noise_are_told(tmp_path, rng):
    x_0 = np.repeat(scenes(rng), 2, axis=-1)
    np.save(tmp_path / "a.npy", (x_0 + rng.standard_normal(x_0.shape) * [0.1, 0.3]).astype(np.float32))
    found = inspect(str(tmp_path))
    np.testing.assert_allclose(found.law.channel_sigmas, [0.1, 0.3], rtol=0.03)
    np.testing.assert_allclose(found.settings()["data.channel_sigmas"], found.law.channel_sigmas, rtol=1e-3)


def test_files_that_cannot_be_used_are_listed(tmp_path, rng):
    for i, image in enumerate(stored(rng, "white", scenes(rng, 60))):
        np.save(tmp_path / f"{i:02}.npy", image[None])
    (tmp_path / "bad.npy").write_text("none")
    np.save(tmp_path / "odd.npy", np.zeros((1, 20, 20, 1), np.uint8))
    found = inspect(str(tmp_path))
    assert [name for name, _ in found.unreadable] == ["bad.npy"]
    assert [name for name, _ in found.odd] == ["odd.npy"]
    words = in_words(found)
    assert words.count("bad.npy") == words.count("odd.npy") == 1
    assert "60 images, 20×20, 1 channel of float32" in words


def test_nothing_that_can_be_used_is_an_error(tmp_path):
    (tmp_path / "bad.npy").write_text("none")
    with pytest.raises(BadFiles, match=r"no file in .* can be used"):
        inspect(str(tmp_path))


def test_one_large_image_is_many_squares(tmp_path, rng):
    image = scenes(rng, 1, 300)[0, ..., 0] * 100 + 5 * rng.standard_normal((300, 300))
    tifffile.imwrite(tmp_path / "a.tif", image)
    found = inspect(str(tmp_path))
    assert found.law.noise.sigma == pytest.approx(5, rel=0.05)
    assert found.squares.shape == (16, 64, 64, 1)
    assert len(np.unique(found.squares)) == 16 * 64 * 64  # no pixel twice


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (100, 4, 9, 1)])
def test_too_little_is_said_to_be_too_little(tmp_path, rng, shape):
    np.save(tmp_path / "a.npy", rng.standard_normal(shape))
    found = inspect(str(tmp_path))
    assert found.verdict == "too_few"
    assert "Too few or too small images to tell their noise" in in_words(found)
    save_page(tmp_path / "a.html", found)


def test_levels_that_differ_from_image_to_image_are_hinted_at(tmp_path, rng):
    x_0, hint = scenes(rng, side=32), "state a level each"
    for name, sigma in (("one", 0.2), ("mixed", rng.choice([0.1, 0.4], (len(x_0), 1, 1, 1)))):
        np.save(tmp_path / f"{name}.npy", (x_0 + sigma * rng.standard_normal(x_0.shape)).astype(np.float32))
    assert hint not in in_words(inspect(str(tmp_path / "one.npy")))
    assert hint in in_words(inspect(str(tmp_path / "mixed.npy")))


def test_an_archive_of_images_and_labels_can_be_looked_at(tmp_path, rng):
    x_0 = scenes(rng)
    noisy = (x_0 + 0.2 * rng.standard_normal(x_0.shape)).astype(np.float32)
    np.savez(tmp_path / "a.npz", train_images=noisy, train_labels=np.zeros(300, int))
    assert inspect(str(tmp_path / "a.npz")).verdict == "holds"


def test_saturation_is_seen_beside_a_hot_pixel(tmp_path, rng):
    x_0 = scenes(rng)
    counts = np.minimum(np.rint(2400 + 1500 * x_0 + 200 * rng.standard_normal(x_0.shape)), 4095).astype(np.uint16)
    counts[0, 0, 0] = 65535
    np.save(tmp_path / "a.npy", counts)
    found = inspect(str(tmp_path))
    assert found.clipped[1] == pytest.approx(np.mean(counts == 4095))
    assert found.verdict == "clipped"


def test_frames_averaged_with_those_before_are_no_repeats(tmp_path, rng):
    x_0 = np.repeat(scenes(rng, 30, 24), 20, axis=0).reshape(30, 20, 24, 24)
    noise = rng.standard_normal((30, 21, 24, 24))
    (tmp_path / "plain").mkdir()
    (tmp_path / "averaged").mkdir()
    for n in range(30):
        np.save(tmp_path / "plain" / f"{n}.npy", (x_0[n] + 0.3 * noise[n, 1:]).astype(np.float32))
        averaged = 0.3 * (noise[n, 1:] + noise[n, :-1]) / 2**0.5
        np.save(tmp_path / "averaged" / f"{n}.npy", (x_0[n] + averaged).astype(np.float32))
    for kind in ("plain", "averaged"):
        assert inspect(str(tmp_path / kind)).law.noise.sigma == pytest.approx(0.3, rel=0.03)


def test_files_of_other_kinds_are_counted(tmp_path, rng):
    np.save(tmp_path / "a.npy", rng.standard_normal((60, 12, 12)).astype(np.float32))
    for name in ("b.bmp", "c.bmp", "notes.txt"):
        (tmp_path / name).write_text("")
    assert "2 .bmp, 1 .txt" in in_words(inspect(str(tmp_path)))


def test_masked_areas_are_told(tmp_path, rng):
    x_0 = scenes(rng, side=24)
    noisy = x_0 + 0.3 * rng.standard_normal(x_0.shape)
    noisy[:, :12] = 0
    np.save(tmp_path / "a.npy", noisy.astype(np.float32))
    found = inspect(str(tmp_path))
    assert found.constant == pytest.approx(7 / 19, abs=0.01)  # windows of 6 rows: 7 of 19 places lie in the mask
    assert "37% of the area is constant" in in_words(found)


SETTINGS = {
    "white": "data.sigma_tn",
    "white, 8 bits": "data.sigma_tn",
    "poisson": "data.photons",
    "poisson, 8 bits": "data.photons",
    "clean": "data.sigma_tn",
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_command_it_prints_can_be_run(tmp_path, rng, kind):
    """Its flags give a config that opens the same images, with the noise that was found."""
    np.save(tmp_path / "a b.npy", stored(rng, kind, scenes(rng, side=22)))  # 22 cannot be halved twice
    found = inspect(str(tmp_path))
    command = in_words(found).split("with configs/folder_noisy.py:quick):\n")[1].replace("\\\n", " ")
    config, flags = get_config(), shlex.split(command)
    for flag in flags[flags.index("--workdir=runs/mine") + 1 :]:
        name, value = flag.removeprefix("--config.").split("=", 1)
        term, key = name.split(".")
        is_text = isinstance(config[term][key], str)
        with config.ignore_type():
            config[term][key] = value if is_text else ast.literal_eval(value)
    check_config(config)
    assert SETTINGS[kind] in found.settings()
    build_network(config.model, facts_of(open_data(config.data)))
    dataset = open_data(config.data)
    expected = 0.2 if kind == "clean" else found.sigma_scaled
    assert dataset.train.sigma_tn.max() == pytest.approx(expected, rel=0.05)  # percentiles of other pixels


@pytest.mark.parametrize("value", [0, 255])
def test_images_of_one_value_are_survived(tmp_path, value):
    np.save(tmp_path / "a.npy", np.full((60, 12, 12, 1), value, np.uint8))
    found = inspect(str(tmp_path))
    assert found.verdict == "no_noise"
    save_page(tmp_path / "a.html", found)


@pytest.mark.parametrize("kind", ["white", "poisson"])
def test_the_page_stands_alone(tmp_path, rng, kind):
    np.save(tmp_path / "a<b>.npy", stored(rng, kind, scenes(rng)))
    found = inspect(str(tmp_path / "a<b>.npy"))
    save_page(tmp_path / "a.html", found)
    page = (tmp_path / "a.html").read_text()
    assert page.count("data:image/png;base64,") == 5
    assert "a&lt;b&gt;.npy" in page
    assert "http" not in page.replace("http-equiv", "")


def test_repeats_of_a_scene_show_the_gain_however_detailed_it_is(tmp_path, rng):
    scene = rng.uniform(5, 100, (1, 40, 40))
    tifffile.imwrite(
        tmp_path / "a.tif", (4.1 * rng.poisson(scene, (200, 40, 40))).astype(np.float32), photometric="minisblack"
    )
    found = inspect(str(tmp_path)).to_dict()
    assert found["gain"] == pytest.approx(4.1, rel=0.05)
    assert found["verdict"] == "holds_after_transform"
