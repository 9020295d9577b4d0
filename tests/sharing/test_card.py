import dataclasses
import json
import re

import pytest

from tweedie_diffusion.data.errors import InputError
from tweedie_diffusion.sharing.card import About, model_card, was_edited
from tweedie_diffusion.training.trained import load_run


@pytest.fixture(scope="module")
def model(run):
    return load_run(run)


def test_a_card_says_what_the_model_is_and_what_was_measured(model, run):
    measured = {name: json.loads((run / name).read_text()) for name in ("denoising_curve.json", "evaluation.json")}
    card = model_card(model, About("hub:me/digits", "cc-by-4.0", measured=measured))
    assert card.startswith("---\nlibrary_name: tweedie_diffusion\nlicense: cc-by-4.0\n")
    assert "\n# digits\n" in card
    for fact in ("noise of σ = 0.4", "4×4×1", "100, 20", "0 and 16 (uint8)", "0123abcd", "td.load('hub:me/digits')"):
        assert fact in card
    assert "| sigma | relative_mse |\n| --- | --- |\n| 0.5 | 0.31 |\n| 0.8 | 0.125 |" in card
    assert "| frechet.value | 1.25 |\n| frechet.n.generated | 64 |" in card


def test_without_a_licence_none_is_stated(model):
    card = model_card(model, About("digits"))
    assert "license:" not in card
    assert "whoever shares this model states it" in card


def test_a_model_of_clean_images_is_not_said_to_come_from_noisy_ones(model):
    with_noise = lambda **noise: dataclasses.replace(model, facts=dataclasses.replace(model.facts, **noise))
    clean = model_card(with_noise(sigma_tn_min=0.0, sigma_tn_max=0.0), About("digits"))
    mixed = model_card(with_noise(sigma_tn_min=0.0), About("digits"))
    assert "learned from clean images (images in" in clean
    assert "learned from clean images and others with noise of σ = 0 to 0.4" in mixed
    assert "noisy images alone" not in clean + mixed


def test_names_cannot_break_the_tables(model):
    line = next(line for line in model_card(model, About("digits")).splitlines() if line.startswith("| data |"))
    assert re.findall(r"(?<!\\)\|", line) == ["|"] * 3


def test_an_edit_is_noticed(model):
    card = model_card(model, About("digits"))
    assert not was_edited(card)
    assert was_edited(card.replace("digits", "fingers"))
    assert was_edited(card + "More.\n")
    assert was_edited("")


@pytest.mark.parametrize("licence", ["MIT\ntags: x", "my licence"])
def test_a_licence_is_an_identifier(model, licence):
    with pytest.raises(InputError, match="is no identifier: write it as"):
        model_card(model, About("digits", licence))
