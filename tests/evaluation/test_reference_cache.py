import numpy as np
import pytest

from tweedie_diffusion.evaluation import reference_cache
from tweedie_diffusion.evaluation.features import pca_features, pixel_features
from tweedie_diffusion.evaluation.reference_cache import cached_features


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
    first, calls = ask(cached_features)
    again, none = ask(cached_features)
    assert (calls, none) == (1, 0)
    np.testing.assert_array_equal(first, x)
    np.testing.assert_array_equal(again, x)


def test_other_images_or_features_are_kept_apart(ask, x):
    ask(cached_features)
    assert ask(cached_features, digest="y")[1] == 1
    assert ask(cached_features, features=pca_features(x, 3))[0].shape == (150, 3)


@pytest.mark.parametrize("place", [0.3, 0.6, 1.0])
def test_a_damaged_file_is_computed_again_and_mended(ask, x, tmp_path, place):
    ask(cached_features)
    (path,) = (tmp_path / "cache").iterdir()
    content = bytearray(path.read_bytes())
    content[int(place * len(content)) - 1] ^= 255
    path.write_bytes(content if place < 1 else content[: len(content) // 2])
    mended, calls = ask(cached_features)
    assert (calls, ask(cached_features)[1]) == (1, 0)
    np.testing.assert_array_equal(mended, x)


def test_many_features_are_not_kept(ask, monkeypatch):
    monkeypatch.setattr(reference_cache, "KEPT_BYTES", 150 * 5 * 4 - 1)
    assert [ask(cached_features)[1] for _ in "ab"] == [1, 1]


def test_a_folder_that_cannot_be_made_costs_time_only(ask, x, tmp_path):
    (tmp_path / "file").write_text("")
    features, calls = ask(cached_features, folder=tmp_path / "file" / "cache")
    assert (len(features), calls) == (150, 1)
