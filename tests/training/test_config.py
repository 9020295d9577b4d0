import pytest
from ml_collections import ConfigDict

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.training.config import check_config, default_config, difference, from_json, may_change, to_json


def with_setting(key, value):
    config = default_config()
    *path, name = key.split(".")
    part = config
    for step in path:
        part = part[step]
    with part.unlocked(), part.ignore_type():
        part[name] = value
    return config


def test_the_default_is_valid():
    assert check_config(default_config()) is None


def test_json_brings_back_the_same_config():
    config = with_setting("model.channel_multipliers", (1, 2, 3))
    assert from_json(to_json(config)) == config


def test_an_unknown_key_in_a_config_file_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"consistency.wieght.*did you mean 'consistency.weight'"):
        check_config(with_setting("consistency.wieght", 1.0))


def test_assigning_an_unknown_key_fails_at_once():
    with pytest.raises(AttributeError, match="sigma_tn"):
        default_config().data.sigma_t = 0.3


def test_a_missing_key_is_refused():
    with pytest.raises(InputError, match="'seed' is missing"):
        check_config(ConfigDict({k: v for k, v in default_config().items() if k != "seed"}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.sigma_tn", -0.1, "data.sigma_tn must be >= 0"),
        ("data.sigma_tn", "0.5", "data.sigma_tn must be of type float"),
        ("data.sigma_tn", float("nan"), "data.sigma_tn must be of type float"),
        ("data.sigma_tn", 100.0, "ambient.sigma_max must exceed"),
        ("data.held_out", 0.0, "data.held_out must be between 0 and 1"),
        ("data.range", (1.0,), r"data.range must be \(\) or"),
        ("data.range_percentiles", (99.0, 1.0), r"data.range_percentiles must be \(\) or"),
        ("data.photons", (0.0, 0.0, 0.0), r"data.photons must be \(\) or \(gain > 0"),
        ("data.photons", (1.0, 0.0, 0.0), r"data.photons describes noise that the images carry"),
        ("data.sigma_from", "auto", r"data.sigma_from describes noise that the images carry"),
        ("data.sigma_from", "levels.txt", r"data.sigma_from must be empty, auto, or a path to a .csv"),
        ("data.sigma_units", "counts", r"data.sigma_units must be one of nothing, data"),
        ("data.channel_sigmas", (1.0, 0.0), r"data.channel_sigmas must be noise levels > 0"),
        ("consistency.step", "heun", "consistency.step must be one of ancestral, midpoint, corrected"),
        ("consistency.batch_fraction", 0.7, "consistency.batch_fraction must be 1 or 0.5 or 0.25"),
        ("evaluation.sigmas", (0.1, float("inf")), "evaluation.sigmas must be noise levels > 0"),
        ("model.network", "vit", "model.network must be one of unet, mlp"),
        ("model.embedding", "half", "model.embedding must be one of full, clamped, none"),
        ("model.remat", 1, "model.remat must be of type bool"),
        ("model.channel_multipliers", (), "model.channel_multipliers must be whole numbers"),
        ("training.steps", 0, "training.steps must be > 0"),
        ("training.steps", True, "training.steps must be of type int"),
        ("training.ema_decay", 1.0, r"training.ema_decay must be in \[0, 1\)"),
        ("training.shards", -1, "training.shards must be >= 0"),
        ("training.accumulate", -1, "training.accumulate must be >= 0"),
        ("ambient.weight_cap", 0.5, "ambient.weight_cap must be >= 1"),
        ("consistency.step", "rk4", "consistency.step must be one of"),
        ("consistency.stop", 100, "consistency.stop must exceed consistency.start"),
        ("consistency.anchor", "beside", "consistency.anchor must be one of below, above"),
        ("consistency.draws", 0, "consistency.draws must be > 0"),
        ("consistency.antithetic", False, "set consistency.draws=2, or consistency.antithetic=True"),
        ("refresh.stop", 200, "refresh.stop must exceed refresh.start"),
        ("refresh.relaxation", 2.0, r"refresh.relaxation must be in \[0, 2\)"),
        ("sampling.sigma_min", 90.0, "sampling.sigma_min must lie below"),
        ("evaluation.sigmas", (0.0,), "evaluation.sigmas must be noise levels > 0"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(key, value, message):
    with pytest.raises(InputError, match=message):
        check_config(with_setting(key, value))


def test_an_embedding_that_hides_the_level_is_refused_with_noise_units():
    config = with_setting("model.noise_units", True)
    config.model.embedding = "clamped"
    with pytest.raises(InputError, match=r"set model\.embedding=full"):
        check_config(config)


@pytest.mark.parametrize(("key", "value"), [("capacity", 32), ("rows", 65)])
def test_a_buffer_that_does_not_suit_the_batch_is_refused_if_there_is_refresh(key, value):
    config = with_setting(f"refresh.{key}", value)
    assert check_config(config) is None
    config.refresh.weight = 1.0
    with pytest.raises(InputError, match=f"refresh.{key} must .* training.batch_size"):
        check_config(config)


def test_a_run_goes_on_with_blocks_computed_again_but_not_in_another_precision():
    assert may_change("model.remat")
    assert not may_change("model.dtype")


def test_difference_names_what_changed():
    assert difference(to_json(default_config()), to_json(with_setting("data.sigma_tn", 0.25))) == [
        "data.sigma_tn: 0.5 -> 0.25"
    ]


def test_a_key_younger_than_a_run_is_no_difference_while_it_is_off():
    old = to_json(default_config()).replace(' "model.sigma_data": 0.0,\n', "")
    assert difference(old, to_json(default_config())) == []
    assert difference(old, to_json(with_setting("model.sigma_data", 0.5))) == ["model.sigma_data: None -> 0.5"]
