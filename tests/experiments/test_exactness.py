import pytest

from experiments import exactness
from experiments.exactness import digest, train_row
from experiments.roads import ADSM, CLEAN
from experiments.studies import STUDIES
from tweedie_diffusion.training.config import default_config, flatten
from tweedie_diffusion.training.guard import Diverged


@pytest.mark.parametrize(("weight", "same"), [(0.0, True), (4.0, False)])
def test_settings_of_a_term_without_weight_do_not_tell_rows_apart(weight, same):
    one, other = default_config(), default_config()
    one.consistency.weight = other.consistency.weight = weight
    other.consistency.start += 1
    assert (digest(one) == digest(other)) is same


def test_a_setting_that_is_off_does_not_tell_rows_apart():
    one, other = default_config(), default_config()
    assert not one.data.flip
    with other.unlocked():
        del other.data["flip"]
    assert digest(one) == digest(other)


def test_where_the_data_lie_does_not_tell_rows_apart_and_their_noise_does():
    one, moved, noisier = default_config(), default_config(), default_config()
    moved.data.source = "elsewhere.npz"
    noisier.data.sigma_tn *= 2
    assert digest(one) == digest(moved) != digest(noisier)


def test_clean_training_is_done_once_for_all_noises_and_its_rows_are_kept_apart(monkeypatch, tmp_path):
    trained = []

    def train(config, workdir):
        trained.append((workdir, flatten(config)))
        raise Diverged("the loss is nan at step 7: lower the learning rate")

    monkeypatch.setattr(exactness, "train", train)
    monkeypatch.setattr(exactness, "study_config", lambda study, seed, sigma_tn: study.config(sigma_tn, ""))
    rows = [
        train_row(STUDIES["digits"], road, 0, sigma_tn, tmp_path) for road in (CLEAN, ADSM) for sigma_tn in (0.3, 0.5)
    ]
    assert trained[0] == trained[1]
    assert len({workdir for workdir, _ in trained}) == 3
    assert [row["status"] for row in rows] == ["the loss is nan at step 7"] * 4
    assert len(list(tmp_path.rglob("row.json"))) == 4
    assert train_row(STUDIES["digits"], ADSM, 0, 0.5, tmp_path) == rows[3]
    assert len(trained) == 4
