import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tweedie_diffusion.data.errors import BadFiles, InputError
from tweedie_diffusion.data.levels import StatedNoise, estimate_level_of, read_table, resolve
from tweedie_diffusion.data.photon_noise import PhotonNoise
from tweedie_diffusion.data.scaling import Scaling, ScalingRule
from tweedie_diffusion.data.sources import Images, in_memory

NAMES = ["a.tif:0", "a.tif:1", "b.png"]


@pytest.fixture
def images():
    stored = np.zeros((3, 4, 4, 1), np.uint8)
    return Images(stored.__getitem__, 3, (4, 4, 1), Scaling(0, 255, "uint8"), name=NAMES.__getitem__)


@pytest.fixture
def table(tmp_path):
    """Write lines to a table; returns its path."""

    def write(*lines):
        (tmp_path / "levels.csv").write_text("\n".join(lines))
        return tmp_path / "levels.csv"

    return write


def test_a_number_is_the_level_of_all(images):
    assert resolve(StatedNoise(0.3), images) == (0.3, images)


def test_a_number_in_stored_values_is_scaled(images):
    assert resolve(StatedNoise(25, units="data"), images)[0] == pytest.approx(2 * 25 / 255)


def test_a_table_states_the_level_of_every_frame_and_0_is_clean(images, table):
    path = table("sigma,file", "51,a.tif", "0,b.png")
    level, own = resolve(StatedNoise(0.5, units="data", source=str(path)), images)
    np.testing.assert_allclose(own.sigma_tn, [0.4, 0.4, 0.0], rtol=1e-6)
    assert level == pytest.approx(0.4)


def test_a_frame_may_have_a_level_of_its_own(table):
    path = table("file,sigma", "a.tif,0.1", "a.tif:1,0.2", "b.png,0.3")
    np.testing.assert_array_equal(read_table(path, NAMES), [0.1, 0.2, 0.3])


def test_files_missing_or_repeated_are_named(table):
    path = table("file,sigma", "a.tif:0,0.1", "b.png,0.1", "b.png,0.2")
    with pytest.raises(BadFiles, match="1 are missing, 1 repeated") as caught:
        read_table(path, NAMES)
    assert caught.value.lines == ("a.tif:1 is missing", "b.png is repeated in line 4")


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "much", ""])
def test_levels_must_be_numbers(table, value):
    with pytest.raises(InputError, match=r"levels.csv, line 2: sigma must be a number >= 0"):
        read_table(table("file,sigma", f"a.tif,{value}"), NAMES)


@pytest.mark.parametrize("lines", [(), ("a.tif,0.1",), ("file,level", "a.tif,0.1")])
def test_a_table_needs_its_columns(table, lines):
    with pytest.raises(InputError, match="must begin with a line of column names, file,sigma"):
        read_table(table(*lines), NAMES)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.csv cannot be read"):
        read_table(tmp_path / "nowhere.csv", NAMES)


def test_a_table_needs_files(table):
    images = in_memory(np.zeros((3, 4, 4, 1)), Scaling(-1, 1, "float64"))
    with pytest.raises(InputError, match=r"the images are none: put an array sigma_tn \[count\] into the .npz"):
        resolve(StatedNoise(0.5, source=str(table("file,sigma"))), images)


def test_auto_estimates_the_level_in_the_unit_range(rng):
    stored = 100 + 20 * rng.standard_normal((50, 16, 16, 1))
    images = in_memory(stored, Scaling(0, 200, "float64"))
    assert resolve(StatedNoise(0.0, source="auto"), images)[0] == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda rng: rng.poisson(rng.uniform(5, 80, (200, 1, 1, 1)), (200, 16, 16, 1)), "variance-stabilising"),
        (lambda rng: gaussian_filter(rng.standard_normal((200, 16, 16, 1)), (0, 0.8, 0.8, 0)), "Correlated noise"),
        (lambda rng: np.clip(rng.standard_normal((200, 16, 16, 1)), -1, None), "Clipped"),
        (lambda rng: np.cos(np.linspace(0, 3, 16))[:, None, None] * rng.uniform(-1, 1, (200, 1, 16, 1)), "no noise"),
    ],
)
def test_auto_refuses_noise_that_the_method_is_not_for(rng, make, message):
    stored = make(rng).astype(np.float64)
    images = in_memory(stored, Scaling(float(stored.min()), float(stored.max()), "float64"))
    with pytest.raises(InputError, match=f"data.sigma_from=auto: .*{message}.* state data.sigma_tn"):
        resolve(StatedNoise(0.0, source="auto"), images)


def test_auto_says_when_it_cannot(rng):
    images = in_memory(rng.standard_normal((3, 4, 4, 1)), Scaling(-1, 1, "float64"))
    with pytest.raises(InputError, match=r"too few or too small to estimate their noise: state data.sigma_tn"):
        resolve(StatedNoise(0.0, source="auto"), images)


def test_channels_of_unequal_noise_are_scaled_to_equal_noise(rng):
    sigmas = (5.0, 10.0, 20.0)
    stored = 100 + rng.standard_normal((200, 8, 8, 3)) * sigmas
    scaling = ScalingRule((0, 200), channel_sigmas=sigmas).scaling("float64", lambda: stored, bounded=True)
    level, _ = resolve(StatedNoise(0.0, channel_sigmas=sigmas), in_memory(stored, scaling))
    spread = scaling.to_unit(stored).std(axis=(0, 1, 2))
    np.testing.assert_allclose(spread, level, rtol=4 / np.sqrt(2 * 200 * 64))
    assert level == pytest.approx(2 * 5 / 200)
    np.testing.assert_allclose(scaling.values(scaling.to_unit(stored)), stored, rtol=1e-4)


def test_stabilised_counts_have_the_level_of_their_scaling(rng):
    photons = PhotonNoise(2.0, 10.0, 1.0)
    stored = 2.0 * rng.poisson(50, (100, 8, 8, 1)) + 10 + rng.standard_normal((100, 8, 8, 1))
    scaling = ScalingRule((10, 300), photons=photons).scaling("float32", lambda: stored, bounded=True)
    level, _ = resolve(StatedNoise(0.7), in_memory(stored, scaling))
    assert scaling.to_unit(stored).std() == pytest.approx(level, rel=0.03)


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_one_large_image_is_enough(rng, sigma):
    grid = np.linspace(0, 2, 256)
    image = np.sin(3 * grid[:, None] + 2 * grid)[None, ..., None] + sigma * rng.standard_normal((1, 256, 256, 1))
    assert estimate_level_of(image, "a.tif") == pytest.approx(sigma, rel=0.04)


def test_one_small_image_is_not(rng):
    with pytest.raises(InputError, match=r"a.tif is too small to estimate its noise: state --sigma"):
        estimate_level_of(rng.standard_normal((1, 20, 20, 1)), "a.tif")
