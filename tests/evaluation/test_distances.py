import numpy as np
import pytest
import scipy.linalg
from scipy import stats

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation import distances
from tweedie_diffusion.evaluation.distances import energy_distance, frechet_distance, kernel_distance
from tweedie_diffusion.evaluation.moments import Moments


def test_in_one_dimension_it_is_that_of_scipy(rng):
    x, y = rng.normal(0, 1, 3000), rng.normal(0.5, 1.3, 2000)
    biased = stats.energy_distance(x, y) ** 2  # counts the pairs of a point with itself
    expected = biased - sum(2 * np.abs(np.subtract.outer(v, v)).mean() / 2 / (len(v) - 1) for v in (x, y))
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(expected, rel=1e-6)


def test_it_is_unbiased_for_equal_laws(rng):
    values = [energy_distance(rng.normal(size=(20, 2, 2)), rng.normal(size=(30, 2, 2))) for _ in range(400)]
    assert abs(np.mean(values)) < 5 * np.std(values) / 20


def gaussian(mean, covariance):
    """Moments as of a million images."""
    return Moments(10**6, np.asarray(mean, float), np.asarray(covariance) * (10**6 - 1))


def test_the_frechet_distance_is_the_closed_form_of_scipy(rng):
    size = 20
    means, roots = rng.normal(size=(2, size)), rng.normal(size=(2, size, size))
    one, other = (root @ root.T for root in roots)
    expected = np.sum((means[0] - means[1]) ** 2)
    expected += np.trace(one + other - 2 * scipy.linalg.sqrtm(one @ other).real)
    found = frechet_distance(gaussian(means[0], one), gaussian(means[1], other))
    assert found == pytest.approx(expected, rel=1e-9)


def test_of_singular_covariances_with_shared_axes_it_is_that_of_their_deviations(rng):
    size = 60
    axes = np.linalg.qr(rng.normal(size=(size, size)))[0]
    spectra = rng.exponential(size=(2, size)) ** 4
    spectra[0, :40], spectra[1, 30:50] = 0, 0
    one, other = (gaussian(np.zeros(size), axes * spectrum @ axes.T) for spectrum in spectra)
    assert frechet_distance(one, other) == pytest.approx(np.square(np.subtract(*np.sqrt(spectra))).sum(), rel=1e-7)


def test_of_fewer_images_than_features_it_is_that_of_their_products(rng):
    x, y = rng.normal(size=(12, 50)), 2 * rng.normal(size=(90, 50)) + 0.1
    a, b = ((v - v.mean(axis=0)) / (len(v) - 1) ** 0.5 for v in (x, y))
    expected = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + np.sum(a**2) + np.sum(b**2)
    expected -= 2 * np.linalg.norm(a @ b.T, "nuc")
    assert frechet_distance(Moments.of([x]), Moments.of([y])) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_at_no_frechet_distance_from_itself(rng):
    moments = Moments.of([rng.normal(size=(30, 40))])
    assert 0 <= frechet_distance(moments, moments) < 1e-10


def test_the_frechet_distance_refuses_one_image_and_other_features():
    two, one, wide = (Moments.of([np.eye(3)[:count, :size]]) for count, size in ((2, 2), (1, 2), (3, 3)))
    with pytest.raises(InputError, match="at least 2 images"):
        frechet_distance(two, one)
    with pytest.raises(InputError, match="2 and of 3 numbers"):
        frechet_distance(two, wide)


@pytest.mark.parametrize("block", [1024, 3])
def test_the_kernel_distance_of_all_pairs(rng, monkeypatch, block):
    monkeypatch.setattr(distances, "BLOCK", block)
    x, y = rng.normal(size=(7, 4)), rng.normal(size=(5, 4)) + 1
    kernel = lambda a, b: (a @ b / 4 + 1) ** 3
    within = [np.mean([kernel(a, b) for i, a in enumerate(v) for j, b in enumerate(v) if i != j]) for v in (x, y)]
    expected = sum(within) - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert kernel_distance(x, y)[0] == pytest.approx(expected, rel=1e-12)


def test_its_error_is_the_jackknife(rng):
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(9, 2)) + 1
    left_out = [
        [kernel_distance(np.delete(x, i, 0), y)[0] for i in range(6)],
        [kernel_distance(x, np.delete(y, i, 0))[0] for i in range(9)],
    ]
    expected = sum((len(values) - 1) * np.var(values) for values in left_out) ** 0.5
    assert kernel_distance(x, y)[1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("subset_size", [1000, 30])
def test_the_kernel_distance_spreads_as_it_says(rng, subset_size):
    draw = lambda shift: rng.normal(size=(100, 3)) + shift
    found = [kernel_distance(draw(0), draw(1), subsets=20, subset_size=subset_size) for _ in range(150)]
    values, errors = np.transpose(found)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


@pytest.mark.parametrize("subset_size", [1000, 8])
def test_the_kernel_distance_is_unbiased_for_equal_laws(rng, subset_size):
    draw = lambda count: rng.normal(size=(count, 3))
    values = [kernel_distance(draw(15), draw(20), subsets=5, subset_size=subset_size)[0] for _ in range(300)]
    assert abs(np.mean(values)) < 5 * np.std(values) / 300**0.5


def test_the_seed_fixes_the_subsets(rng):
    x, y = rng.normal(size=(2, 40, 3))
    distance = lambda seed: kernel_distance(x, y, seed=seed, subsets=3, subset_size=10)
    assert distance(0) == distance(0)
    assert distance(0) != distance(1)


def test_the_kernel_distance_refuses_too_few_images():
    with pytest.raises(InputError, match="at least 3 images"):
        kernel_distance(np.eye(2), np.eye(3)[:, :2])


def test_both_are_those_of_torch_fidelity(rng):
    pytest.importorskip("torch_fidelity")
    import torch
    from torch_fidelity.metric_fid import fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = rng.normal(size=(300, 24)), rng.gamma(1.0, size=(400, 24))
    of_numpy = [{"mu": v.mean(axis=0), "sigma": np.cov(v.T)} for v in (x, y)]
    theirs = fid_statistics_to_metric(*of_numpy, False)["frechet_inception_distance"]
    assert frechet_distance(Moments.of([x]), Moments.of([y])) == pytest.approx(theirs, rel=1e-4)
    options = {"kid_subsets": 1, "kid_subset_size": 300, "verbose": False}
    theirs = kid_features_to_metric(torch.from_numpy(x), torch.from_numpy(y[:300]), **options)
    assert kernel_distance(x, y[:300])[0] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
