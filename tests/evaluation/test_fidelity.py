import math

import numpy as np
import pytest
from scipy.spatial import cKDTree

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation import fidelity as module
from tweedie_diffusion.evaluation.fidelity import fidelity


def by_trees(real, generated, k):
    """The definitions, ball by ball."""
    radii = lambda x: cKDTree(x).query(x, k + 1)[0][:, -1]
    inside = lambda x, y: np.linalg.norm(x[:, None] - y, axis=-1) <= radii(x)[:, None]  # [of x, of y]
    in_real, in_generated = inside(real, generated), inside(generated, real)
    return {
        "precision": in_real.any(axis=0).mean(),
        "recall": in_generated.any(axis=0).mean(),
        "density": in_real.sum(axis=0).mean() / k,
        "coverage": in_real.any(axis=1).mean(),
    }


@pytest.mark.parametrize(("neighbours", "rows", "columns"), [(5, 1024, 4096), (1, 64, 50), (3, 7, 300)])
def test_it_is_what_trees_find(rng, monkeypatch, neighbours, rows, columns):
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(module, "COLUMNS", columns)
    real, generated = rng.normal(size=(300, 3)), 1.2 * rng.normal(size=(170, 3)) + 0.8
    found, expected = fidelity(real, generated, neighbours=neighbours), by_trees(real, generated, neighbours)
    assert all(0.1 < expected[name] < 1 for name in ("precision", "recall", "coverage"))  # there is something to find
    assert found == pytest.approx(expected, rel=1e-12)


def test_equal_laws_have_the_expected_density_and_coverage(rng):
    n, m, k = 40, 60, 3
    found = [fidelity(rng.normal(size=(n, 2)), rng.normal(size=(m, 2)), neighbours=k) for _ in range(300)]
    expected = {"density": 1.0, "coverage": 1 - math.comb(n - 1, k) / math.comb(n + m - 1, k)}
    for name, value in expected.items():
        values = [entry[name] for entry in found]
        assert abs(np.mean(values) - value) < 5 * np.std(values) / 300**0.5


@pytest.mark.parametrize("offset", [0, 300])
def test_a_set_covers_itself(rng, offset):
    """Every ball holds its own image and k others, however far from zero the features lie."""
    x = (rng.normal(size=(90, 10)) + offset).astype(np.float32)
    expected = {"precision": 1.0, "recall": 1.0, "density": 6 / 5, "coverage": 1.0}
    assert fidelity(x, x, neighbours=5) == pytest.approx(expected, rel=1e-12)


def test_one_repeated_image_is_precise_and_covers_nothing(rng):
    real = rng.normal(size=(200, 4))
    found = fidelity(real, np.repeat(real[:1], 50, axis=0), neighbours=2)
    assert found["precision"] == 1
    assert found["recall"] == 1 / 200  # only the image itself lies in balls without extent
    assert found["coverage"] < 0.05


def test_rounding_does_not_part_equal_images(rng, monkeypatch):
    """Real images in sixes: their balls have no extent, and hold the generated ones that equal them. Blocks of uneven
    sizes round differently.
    """
    monkeypatch.setattr(module, "ROWS", 7)
    monkeypatch.setattr(module, "COLUMNS", 29)
    x = rng.normal(size=(40, 300)) + 5
    found = fidelity(np.repeat(x, 6, axis=0), np.concatenate([x, -x]), neighbours=5)
    assert found["precision"] == 0.5
    assert found["coverage"] == 1


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (np.ones((5, 2)), np.ones((9, 2)), "5 real images have no 5 neighbours"),
        (np.ones((9, 2)), np.ones((5, 2)), "5 generated images have no 5 neighbours"),
        (np.ones((9, 2)), np.ones((9, 3)), "2 and of 3 numbers"),
        (np.ones((9, 2)), np.full((9, 2), np.nan), "NaN"),
    ],
)
def test_what_has_no_neighbours_is_refused(real, generated, message):
    with pytest.raises(InputError, match=message):
        fidelity(real, generated)
