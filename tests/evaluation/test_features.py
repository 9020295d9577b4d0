import numpy as np
import pytest
from sklearn.decomposition import PCA

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.evaluation import features as module
from tweedie_diffusion.evaluation.features import open_features, pca_features, pixel_features


@pytest.fixture
def x(rng):
    """70 images of 36 numbers, correlated."""
    return (rng.normal(size=(70, 36)) @ rng.normal(size=(36, 36)) / 6).astype(np.float32).reshape(70, 4, 3, 3)


def test_pixels_are_the_image(x):
    features = pixel_features((4, 3, 3))
    np.testing.assert_array_equal(features(x), x.reshape(70, 36))
    assert features.size == 36
    assert features.digest != pixel_features((3, 4, 3)).digest


@pytest.mark.parametrize(("count", "columns"), [(70, 8192), (20, 5)])
def test_principal_components_are_those_of_scikit_learn(x, monkeypatch, count, columns):
    monkeypatch.setattr(module, "COLUMNS", columns)
    reference, flat = x[:count], lambda v: v.reshape(len(v), -1).astype(np.float64)
    expected = PCA(6, svd_solver="full").fit(flat(reference)).transform(flat(x))
    found = pca_features(reference, 6)(x)
    np.testing.assert_allclose(found * np.sign(found[0] * expected[0]), expected, atol=1e-5)


def test_many_images_are_thinned_evenly(x, monkeypatch):
    monkeypatch.setattr(module, "PCA_IMAGES", 35)
    thinned = pca_features(x[np.linspace(0, 69, 35).astype(int)], 4)
    assert pca_features(x, 4).digest == thinned.digest


def test_other_reference_images_make_another_digest(x):
    assert pca_features(x, 4).digest == pca_features(x, 4).digest
    assert len({pca_features(x, 4).digest, pca_features(x, 5).digest, pca_features(x[1:], 4).digest}) == 3


@pytest.mark.parametrize(
    ("name", "size"), [("pixels", 36), ("pca", 32), ("pca:7", 7)], ids=["pixels", "default", "number"]
)
def test_a_name_opens_features(x, name, size):
    features = open_features(name, reference=x)
    assert features(x).shape == (70, size)
    assert features.size == size


def test_vectors_have_as_many_components_as_they_vary_along(rng):
    x = rng.normal(size=(40, 3))
    x[:, 1] = 2 * x[:, 0]
    assert open_features("pca", reference=x).size == 2
    np.testing.assert_allclose(
        np.var(open_features("pca", reference=x)(x), axis=0).sum(), np.var(x, axis=0).sum(), 1e-5
    )
    assert open_features("pixels", reference=x)(x).shape == (40, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pixel", "did you mean pixels"),
        ("inceptoin:weights.npz", "did you mean inception:FILE"),
        ("pca:few", "did you mean pca:NUMBER"),
        ("pca:0", "did you mean pca:NUMBER"),
        ("classifier", "come from a file: classifier:FILE"),
        ("dinov2:nowhere.safetensors", "nowhere.safetensors does not exist"),
        ("inception:weights-inception-2015-12-05-6726825d.pth", "95,628,359 bytes, SHA-256"),
        ("classifier:nowhere.safetensors", "train_features"),
        ("pca:36", "36 numbers have 35 principal components"),
    ],
)
def test_a_wrong_name_tells_the_right_one(x, name, message):
    with pytest.raises(InputError, match=message):
        open_features(name, reference=x[:36])


def test_networks_do_not_take_vectors():
    with pytest.raises(InputError, match="use pixels or pca"):
        open_features("inception:weights", reference=np.ones((5, 2)))


def test_images_of_another_shape_are_refused(x):
    with pytest.raises(InputError, match="cannot be compared"):
        pca_features(x, 3)(x[:, :2])
