import numpy as np
import pytest

from tweedie_diffusion.evaluation import reference_cache
from tweedie_diffusion.evaluation.features import pca_features, pixel_features
from tweedie_diffusion.evaluation.reference_cache import cached_features, cached_moments


@pytest.fixture
def x(rng):
    return rng.normal(size=(150, 5)).astype(np.float32)


@pytest.fixture
def ask(x, tmp_path):
    """ask(function, …): its answer, and how many times it asked for the images."""

    def ask(function, folder=tmp_path / "cache", features=pixel_features((5,)), digest="x"):  # noqa: B008
        calls = []
        answer = function(folder, features, digest, lambda: calls.append(0) or [x[:40], x[40:]])
        return answer, len(calls)

    return ask


def test_what_was_kept_is_not_computed_again(ask, x):
    first, calls = ask(cached_moments)
    again, more = ask(cached_moments)
    features, none = ask(cached_features)
    assert (calls, more, none) == (1, 0, 0)
    np.testing.assert_allclose(first.covariance, np.cov(x.T), rtol=1e-5)
    np.testing.assert_array_equal(again.scatter, first.scatter)
    np.testing.assert_array_equal(features, x)


def test_other_images_or_features_are_kept_apart(ask, x):
    ask(cached_moments)
    assert ask(cached_moments, digest="y")[1] == 1
    assert ask(cached_moments, features=pca_features(x, 3))[0].size == 3


@pytest.mark.parametrize("function", [cached_moments, cached_features])
@pytest.mark.parametrize("place", [0.3, 0.6, 1.0])
def test_a_damaged_file_is_computed_again_and_mended(ask, tmp_path, function, place):
    sound, _ = ask(function)
    for path in (tmp_path / "cache").iterdir():
        content = bytearray(path.read_bytes())
        content[int(place * len(content)) - 1] ^= 255
        path.write_bytes(content if place < 1 else content[: len(content) // 2])
    mended, calls = ask(function)
    assert (calls, ask(function)[1]) == (1, 0)
    np.testing.assert_array_equal(getattr(mended, "scatter", mended), getattr(sound, "scatter", sound))


def test_many_features_are_not_kept(ask, monkeypatch):
    monkeypatch.setattr(reference_cache, "KEPT_BYTES", 150 * 5 * 4 - 1)
    assert ask(cached_features) == (None, 1)
    assert ask(cached_features) == (None, 0)  # the moments tell how many there are
    assert ask(cached_moments)[1] == 0


def test_a_folder_that_cannot_be_made_costs_time_only(ask, x, tmp_path):
    (tmp_path / "file").write_text("")
    moments, calls = ask(cached_moments, folder=tmp_path / "file" / "cache")
    assert (moments.count, calls) == (150, 1)
