import io

import numpy as np
import pytest

from tweedie_diffusion.evaluation.figures import looks_of
from tweedie_diffusion.evaluation.memorisation_pictures import memorisation_figure


def drawn(shape, rng):
    """The figure of two runs, and its axes."""
    images = rng.uniform(-1, 1, (3, *shape))
    pairs = {"image": images, "train_image": images[::-1], "similarity": np.array([0.99, 0.9, 0.1])}
    similarities = {"clean": np.array([0.5, 1.0, 1.0, 0.75]), "noisy": np.array([0.25, 0.5])}
    results = [{"attack": "mean", "sigma": s, "auc": 0.5 + s / 10, "auc_error": 0.01} for s in (1.0, 4.0)]
    attacks = dict.fromkeys(similarities, results)
    figure = memorisation_figure(dict.fromkeys(similarities, pairs), similarities, attacks, floor=np.array([0.5]))
    return figure, figure.axes


def test_pairs_similarities_and_attacks(rng):
    figure, axes = drawn((4, 4, 1), rng)
    clean, noisy, samples, attack = axes
    assert [label.get_text() for label in clean.get_xticklabels()] == ["0.990", "0.900", "0.100"]
    assert clean.get_title(loc="left").startswith("clean:")
    assert noisy.get_title(loc="left").startswith("noisy:")
    line = samples.lines[0]
    above = dict(zip(line.get_xdata(), line.get_ydata(), strict=True))  # right of each value
    assert [above[x] for x in (-1, 0.5, 0.75, 1.0)] == pytest.approx([1, 0.75, 0.5, 0])
    assert attack.lines[0].get_xydata().tolist() == [[1.0, 0.6], [4.0, 0.9]]
    looks = looks_of(["clean", "noisy"])
    handles = dict(zip(*reversed(attack.get_legend_handles_labels()), strict=True))
    for name, look in looks.items():
        assert (handles[name][0].get_color(), handles[name][0].get_marker()) == (look.color, look.marker)
    assert [line.get_color() for line in samples.lines[:2]] == [look.color for look in looks.values()]
    figure.savefig(io.BytesIO())  # a layout that does not fit would warn


def test_samples_are_above_their_neighbours(rng):
    _, axes = drawn((48, 48, 1), rng)
    shown = axes[0].images[0].get_array()
    rng = np.random.default_rng(0)
    images = np.rint((rng.uniform(-1, 1, (3, 48, 48, 1)) + 1) * 127.5)[..., 0]
    assert np.array_equal(shown[1:49, 1:49], images[0])
    assert np.array_equal(shown[51:99, 1:49], images[2])


def test_vectors_have_no_pictures(rng):
    assert len(drawn((2,), rng)[1]) == 2
