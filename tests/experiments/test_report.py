import json
from pathlib import Path

import numpy as np
import pytest

from experiments.report import write_report
from experiments.roads import ADSM, ADSM_NOISE_UNITS, CLEAN, ROADS
from experiments.samples import frechet_distance
from experiments.studies import STUDIES
from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.config import check_config, default_config, flatten

LEVELS = [0.03, 0.06, 0.1, 0.2, 0.3]


def row(road, values, *, seed=0, seconds=100.0, sigma_tn=0.3, **fields):
    curve = {"sigma": LEVELS[: len(values)], "relative_mse": values, "excess": values}
    done = {"status": "done", "seconds": seconds, "steps": 10, "curve": curve, "distance": 2.0, "floor": 1.0}
    return {"road": road, "seed": seed, "sigma_tn": sigma_tn, "commit": "abc"} | done | fields


FAILED = {"road": "refresh", "seed": 0, "sigma_tn": 0.3, "commit": "abc", "status": "the loss is nan at step 7"}


def last_line(text):
    return text.splitlines()[-1]


@pytest.mark.parametrize("road", ROADS)
def test_every_road_is_a_valid_config(road):
    config = default_config()
    with config.unlocked():
        config.update_from_flattened_dict(ROADS[road])
    assert check_config(config) is None
    assert flatten(config).keys() == flatten(default_config()).keys()


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_names_roads_that_exist_and_levels_below_its_noise(name):
    study = STUDIES[name]
    assert set(study.roads) <= set(ROADS)
    for sigma_tn in study.sigma_tn:
        levels = study.levels(sigma_tn)
        assert 0 < min(levels) <= max(levels) <= sigma_tn
        assert check_config(study.config(sigma_tn, "images.npz")) is None


def test_the_gap_closed_is_the_share_of_the_sum_over_levels(tmp_path):
    rows = [row(CLEAN, [1.0, 1.0]), row(ADSM, [3.0, 2.0]), row("default", [1.5, 1.25], seconds=130.0)]
    text = write_report(tmp_path, "digits", STUDIES["digits"], rows, {})
    assert last_line(text) == "gap closed: 0.750 (target 0.9; not measured at σ_tn = 0.5)"  # 1 − .75/3
    assert "| default | 1 | 1.500 | 1.250 | 0.75 |  | 2.00 | 1.00 | 1.30 |  |" in text


def test_the_gap_is_also_measured_from_adsm_with_noise_units(tmp_path):
    rows = [row(CLEAN, [1.0]), row(ADSM, [5.0]), row(ADSM_NOISE_UNITS, [3.0]), row("default", [2.0])]
    text = write_report(tmp_path, "digits", STUDIES["digits"], rows, {})
    assert "| default | 1 | 2.000 | 0.75 | 0.50 |" in text


def test_cost_is_compared_on_one_machine_only(tmp_path):
    rows = [row(CLEAN, [1.0]), row(ADSM, [3.0], hardware="a"), row("default", [2.0], hardware="b")]
    text = write_report(tmp_path, "digits", STUDIES["digits"], rows, {})
    assert "| default | 1 | 2.000 | 0.50 |  | 2.00 | 1.00 |  |  |" in text


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_its_place_in_the_readme(name):
    readme = (Path(__file__).parents[2] / "experiments" / "README.md").read_text()
    assert readme.count(f"<!-- {name} -->") == readme.count(f"<!-- end of {name} -->") == 1


def test_a_study_without_a_place_in_the_readme_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(InputError, match="add the lines <!-- digits --> and <!-- end of digits -->"):
        write_report(tmp_path, "digits", STUDIES["digits"], [row(CLEAN, [1.0])], {})


def test_mistaken_noise_is_compared_by_bars_and_says_whether_it_was_warned_of(tmp_path):
    mistaken = row("σ_tn stated × 0.8", [2.5], warned=True)
    failed = FAILED | {"road": "Laplace noise"}
    rows = [row(CLEAN, [1.0]), row(ADSM, [3.0]), row("default", [1.5]), mistaken, failed]
    text = write_report(tmp_path, "robustness", STUDIES["robustness"], rows, {})
    assert "| σ_tn stated × 0.8 | 1 | 2.500 | 0.25 |  | 2.00 | 1.00 | 1.00 | yes |" in text
    assert (tmp_path / "results" / "robustness_0.3.png").is_file()


def test_a_row_that_failed_is_marked_and_the_others_are_kept(tmp_path):
    rows = [row(CLEAN, [1.0]), row(ADSM, [3.0]), FAILED, row("default", [1.5])]
    text = write_report(tmp_path, "digits", STUDIES["digits"], rows, {})
    assert "| refresh (seed 0: the loss is nan at step 7) | 1 |  |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1
    assert "| default | 1 | 1.500 |" in text
    rows.append(FAILED | {"road": "default", "seed": 1})
    text = write_report(tmp_path, "digits", STUDIES["digits"], rows, {})
    assert "| default (seed 1: the loss is nan at step 7) | 2 | 1.500 |" in text
    assert last_line(text) == "gap closed: -inf (target 0.9; not measured at σ_tn = 0.5)"


def test_the_worst_excess_is_over_levels_and_seeds_of_the_default_road(tmp_path):
    excess = [0.01, 0.02, 0.03, 0.04, 0.05]
    rows = [row(ADSM, [0.9] * 5)] + [row("default", [*excess[:4], 0.05 + seed], seed=seed) for seed in (0, 1)]
    (tmp_path / "README.md").write_text("a\n<!-- mixture_2d -->\nold\n<!-- end of mixture_2d -->\nb\n")
    text = write_report(tmp_path, "mixture_2d", STUDIES["mixture_2d"], rows, {"seeds": "0, 1"})
    assert last_line(text) == "worst excess: 1.050 (target 0.1)"
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("a\n")
    assert readme.endswith("b\n")
    assert "old" not in readme
    assert "0.550 ± 0.500" in readme
    assert json.loads((tmp_path / "results" / "mixture_2d.json").read_text())["rows"] == rows


def test_the_frechet_distance_of_two_gaussians(rng):
    one = rng.standard_normal((200_000, 2)) * [1.0, 2.0]
    other = rng.standard_normal((200_000, 2)) * [3.0, 2.0] + [0.0, 1.0]
    assert frechet_distance(one, other) == pytest.approx(1.0 + (3 - 1) ** 2, rel=0.02)
    flat = np.concatenate([one, np.zeros((200_000, 1))], axis=1)  # a feature that never fires
    assert frechet_distance(flat, flat) == pytest.approx(0.0, abs=1e-6)
