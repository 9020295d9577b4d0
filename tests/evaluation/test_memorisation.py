import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from tweedie_diffusion.evaluation import memorisation
from tweedie_diffusion.evaluation.memorisation import (
    centred_pixels,
    copied,
    membership,
    nearest,
    nearest_of_ways,
    paired_cosines,
    similarity_table,
)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block", [2**24, 60])  # all at once, and few of either at a time
def test_the_nearest_are_those_of_scipy(rng, monkeypatch, metric, block):
    monkeypatch.setattr(memorisation, "BLOCK", block)
    images, train = rng.standard_normal((7, 5)), rng.standard_normal((20, 5))
    indices, values = nearest(images, train, k=3, metric=metric)
    distances = cdist(images, train, metric)
    assert np.array_equal(indices, np.argsort(distances, axis=1)[:, :3])
    expected = np.sort(distances, axis=1)[:, :3]
    assert values == pytest.approx(1 - expected if metric == "cosine" else expected)


def test_near_copies_are_measured_as_in_float64_whichever_way_they_were_seen(rng, monkeypatch):
    monkeypatch.setattr(memorisation, "BLOCK", 3000)
    train = (rng.standard_normal((90, 30)) + 10).astype(np.float32)  # far from 0: squares swallow small distances
    both = np.stack([train, train[:, ::-1]])
    images = np.concatenate([train[:40, ::-1] + 1e-4 * rng.standard_normal((40, 30)), train[40:80]])
    asked = []
    ways = [lambda rows: asked.append(rows) or train[rows], lambda rows: asked.append(rows) or train[rows, ::-1]]
    found = nearest_of_ways(images, ways, 90, k={"cosine": 1, "euclidean": 2})
    for metric, sign, k in (("cosine", -1, 1), ("euclidean", 1, 2)):
        distances = np.min([cdist(images, way.astype(np.float64), metric) for way in both], axis=0)
        assert np.array_equal(found[metric][0], np.argsort(distances, axis=1)[:, :k])
        expected = np.sort(distances, axis=1)[:, :k]
        assert found[metric][1] == pytest.approx(1 - expected if sign < 0 else expected, rel=1e-5, abs=1e-12)
    assert len(asked) > 2
    assert max(len(range(*rows.indices(90))) for rows in asked) <= 3000 // (2 * 30)  # never all of them at once
    seen = np.concatenate([np.arange(90)[rows] for rows in asked])
    assert np.array_equal(np.bincount(seen), np.full(90, 2))  # each way once, whatever is asked for


def test_an_image_of_nothing_is_similar_to_none(rng):
    assert nearest(np.zeros((1, 3)), rng.standard_normal((4, 3)))[1] == 0


def test_of_no_image_nothing_is_near(rng):
    assert [v.shape for v in nearest(np.zeros((0, 3)), rng.standard_normal((4, 3)), k=2)] == [(0, 2), (0, 2)]


def test_cosines_of_pairs(rng):
    x, y = rng.standard_normal((6, 2, 3)), rng.standard_normal((6, 2, 3))
    expected = [1 - cdist(a.reshape(1, -1), b.reshape(1, -1), "cosine")[0, 0] for a, b in zip(x, y, strict=True)]
    assert paired_cosines(x, y) == pytest.approx(expected)


def test_pixels_minus_their_mean_have_no_background(rng):
    background = 5 * rng.standard_normal((4, 4, 1))
    train = background + 0.1 * rng.standard_normal((500, 4, 4, 1))
    features = centred_pixels(train)
    assert features(train) == pytest.approx((train - train.mean(axis=0)).reshape(500, 16), abs=1e-6)
    one, other = features(train[:250]), features(train[250:])
    assert abs(paired_cosines(one, other).mean()) < 0.1
    assert paired_cosines(train[:250], train[250:]).min() > 0.9
    assert centred_pixels(train[:9]).digest != features.digest


def test_shares_above_thresholds():
    found = similarity_table(np.array([0.2, 0.9, 0.91, 0.96, 0.999]), (0.9, 0.95, 0.99))
    assert found["share"] == pytest.approx([0.6, 0.4, 0.2])
    assert found["standard_error"] == pytest.approx(np.sqrt([0.24 / 5, 0.24 / 5, 0.16 / 5]))
    assert found["n"] == 5
    assert found["mean"] == pytest.approx(0.7938)


def test_a_copy_is_much_nearer_to_one_than_to_any_other(rng):
    train = rng.standard_normal((50, 40))
    images = np.concatenate([train[:3] + 0.1 * rng.standard_normal((3, 40)), rng.standard_normal((20, 40))])
    indices, distances = nearest(images, train, k=2, metric="euclidean")
    assert copied(distances).tolist() == [True] * 3 + [False] * 20
    assert indices[:3, 0].tolist() == [0, 1, 2]
    twice = np.concatenate([train, train])
    assert not copied(nearest(images, twice, k=2, metric="euclidean")[1]).any()


def test_auc_is_that_of_scikit_learn_ties_included(rng):
    train, held_out = np.round(rng.standard_normal(40) + 0.5, 1), np.round(rng.standard_normal(70), 1)
    found = membership(train, held_out)
    truth = np.repeat([1, 0], [40, 70])
    assert found["auc"] == pytest.approx(roc_auc_score(truth, np.concatenate([train, held_out])))
    assert found["difference"] == pytest.approx(train.mean() - held_out.mean())


def test_errors_are_the_spread_over_repetitions(rng):
    draws = [membership(rng.standard_normal(30) + 1, 2 * rng.standard_normal(50)) for _ in range(400)]
    of = lambda name: np.array([d[name] for d in draws])
    assert of("auc").mean() == pytest.approx(norm.cdf(1 / 5**0.5), abs=0.01)
    assert of("auc_error").mean() == pytest.approx(of("auc").std(), rel=0.1)
    assert of("standard_error").mean() == pytest.approx((1 / 30 + 4 / 50) ** 0.5, rel=0.05)
    assert of("difference").std() == pytest.approx((1 / 30 + 4 / 50) ** 0.5, rel=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest(np.ones((2, 3)), np.ones((4, 3)), k=5), "between 1 and 4"),
        (lambda: nearest(np.ones((2, 3)), np.ones((4, 3)), metric="l1"), "cosine or euclidean"),
        (lambda: similarity_table([]), "no image"),
        (lambda: membership([1.0], [1.0, 2.0]), "two images of each kind"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
