import json

import jax.numpy as jnp
import numpy as np
import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation import comparison
from tweedie_diffusion.evaluation.comparison import compare, proximal_distance
from tweedie_diffusion.evaluation.distances import energy_distance, frechet_distance, kernel_distance
from tweedie_diffusion.evaluation.fidelity import fidelity
from tweedie_diffusion.evaluation.moments import Moments


@pytest.fixture
def sets(rng):
    return rng.normal(size=(50, 4)), rng.normal(size=(20, 4)) + 0.5


def test_values_are_those_of_all_images(sets):
    found = compare(*sets, seed=0)
    expected = fidelity(*sets) | {
        "frechet": frechet_distance(*(Moments.of([x]) for x in sets)),
        "kid": kernel_distance(*sets)[0],
    }
    assert {name: entry["value"] for name, entry in found.items()} == pytest.approx(expected, rel=1e-12)
    assert found["kid"]["standard_error"] == pytest.approx(kernel_distance(*sets)[1], rel=1e-12)
    assert all(entry["n"] == {"reference": 50, "generated": 20} for entry in found.values())
    assert json.loads(json.dumps(found)) == found


def rows(*sets):
    return [set(map(tuple, x)) for x in sets]


@pytest.mark.parametrize(("num_generated", "half"), [(20, 20), (40, 25)])
def test_the_floor_is_of_two_halves_and_matched_is_of_as_many(rng, monkeypatch, num_generated, half):
    calls = []
    monkeypatch.setattr(comparison, "fidelity", lambda *sets, **_: calls.append(sets) or {"recall": len(calls)})
    reference, generated = rng.normal(size=(51, 4)), rng.normal(size=(num_generated, 4))
    entry = compare(reference, generated, seed=0, statistics=["recall"], splits=1)["recall"]
    of_value, of_matched, of_floor = (rows(*sets) for sets in calls)
    assert [entry[name] for name in ("value", "matched", "floor")] == [1, 2, 3]
    assert of_value == rows(reference, generated)
    assert of_matched[0] == of_floor[0]
    assert of_matched[1] <= of_value[1]
    assert of_floor[0] | of_floor[1] == of_value[0]
    assert [len(x) for x in of_floor] == [len(x) for x in of_matched] == [51 - half, half]
    assert entry["floor_n"] == {"reference": 51 - half, "generated": half}


def test_the_bias_of_few_images_is_in_matched_and_in_the_floor_alike(rng):
    draw = lambda count: rng.normal(size=(count, 12))
    found = [compare(draw(80), draw(80), seed=i, statistics=["frechet"])["frechet"] for i in range(60)]
    value, matched, floor = (np.array([entry[name] for entry in found]) for name in ("value", "matched", "floor"))
    difference = matched - floor
    assert abs(difference.mean()) < 5 * difference.std() / 60**0.5
    assert value.mean() < 0.8 * floor.mean()  # which is why the floor is not set beside it


def test_the_seed_fixes_the_halves(sets):
    floor = lambda seed: compare(*sets, seed=seed, statistics=["frechet"])["frechet"]["floor"]
    assert floor(0) == floor(0)
    assert floor(0) != floor(1)


def test_one_split_is_a_mean_of_one(sets):
    one, two = (compare(*sets, seed=0, statistics=["frechet"], splits=n)["frechet"] for n in (1, 2))
    assert one["difference_sd"] is None
    second = 2 * np.array([two["matched"], two["floor"]]) - np.array([one["matched"], one["floor"]])
    gaps = [one["matched"] - one["floor"], second[0] - second[1]]
    assert two["difference_sd"] == pytest.approx(np.std(gaps, ddof=1))


def test_too_few_for_halves_have_no_floor(sets):
    found = compare(sets[0][:11], sets[1], seed=0)
    assert {entry[name] for entry in found.values() for name in ("matched", "floor", "floor_n")} == {None}


def test_too_few_for_a_covariance_are_told(rng):
    warning = lambda count: compare(rng.normal(size=(90, 30)), rng.normal(size=(count, 30)), seed=0)["frechet"][
        "warning"
    ]
    assert warning(30).startswith("30 generated images make a singular covariance of 30 features")
    assert warning(30).endswith("N must exceed F: take at least 31")
    assert warning(31) == ""
    assert compare(*(rng.normal(size=(60, 30)) for _ in "ab"), seed=0)["frechet"]["warning"].startswith("30 ")


def test_there_is_no_other_statistic(sets):
    with pytest.raises(InputError, match="there is no statistic 'fid'"):
        compare(*sets, seed=0, statistics=["fid"])


SIGMA_TN = np.resize(np.float32([0.0, 0.3, 0.6]), 300)


def noisy(rng, x_0):
    return x_0 + SIGMA_TN.reshape(-1, 1, 1, 1) * rng.normal(size=x_0.shape).astype(np.float32)


def images(rng, count, scale=0.5):
    return scale * rng.normal(size=(count, 3, 3, 1)).astype(np.float32)


@pytest.mark.parametrize("count", [300, 120])
def test_samples_of_the_clean_law_are_at_no_distance_once_noised(rng, count):
    draw = lambda scale: proximal_distance(images(rng, count, scale), noisy(rng, images(rng, 300)), SIGMA_TN, seed=0)
    found = [draw(0.5) for _ in range(20)]
    for name in ("value", "floor"):
        values = [entry[name] for entry in found]
        assert abs(np.mean(values)) < 5 * np.std(values) / 20**0.5
    assert draw(0.1)["value"] > 5 * np.std([entry["value"] for entry in found])
    assert found[0]["n"] == {"reference": 300, "generated": count}
    assert found[0]["floor_n"] == {"reference": 150, "generated": 150}
    assert json.loads(json.dumps(found)) == found


def test_without_noise_it_is_the_energy_distance(rng):
    samples, x_tn = images(rng, 20), images(rng, 3)
    found = proximal_distance(jnp.asarray(samples), x_tn, np.zeros(3, np.float32), seed=0)
    assert found["value"] == pytest.approx(energy_distance(samples, x_tn), rel=1e-6)
    assert found["floor"] is None


def test_one_noisy_image_is_too_few(rng):
    with pytest.raises(InputError, match="1 noisy images and 20 samples are too few"):
        proximal_distance(images(rng, 20), images(rng, 1), np.ones(1, np.float32), seed=0)
