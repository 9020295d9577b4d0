import pytest

from experiments.exactness import digest
from tweedie_diffusion.training.config import default_config


@pytest.mark.parametrize(("weight", "same"), [(0.0, True), (4.0, False)])
def test_settings_of_a_term_without_weight_do_not_tell_rows_apart(weight, same):
    one, other = default_config(), default_config()
    one.consistency.weight = other.consistency.weight = weight
    other.consistency.start += 1
    assert (digest(one) == digest(other)) is same


def test_where_the_data_lie_does_not_tell_rows_apart_and_their_noise_does():
    one, moved, noisier = default_config(), default_config(), default_config()
    moved.data.source = "elsewhere.npz"
    noisier.data.sigma_tn *= 2
    assert digest(one) == digest(moved) != digest(noisier)
