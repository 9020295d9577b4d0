import re

import pytest
import settings_table

from tweedie_diffusion.training import config

CODE = settings_table.Path(config.__file__).read_text()


def test_every_setting_is_there_and_says_what_it_is():
    described = {setting.key: setting.description for setting in settings_table.settings()}
    assert described.keys() == config.flatten(config.default_config()).keys()
    assert [key for key, words in described.items() if not words] == []


def test_the_description_of_a_setting_is_the_comment_beside_it():
    beside = re.findall(r"^    c(?:onfig)?\.(\w+) = .*?  # (.+)$", CODE, re.MULTILINE)
    found = [(setting.key.rpartition(".")[2], setting.description) for setting in settings_table.settings()]
    assert found == beside


def test_sections_are_those_of_the_config():
    places = {setting.key: setting.default for setting in settings_table.settings()}
    assert places["sampling.sigma_min"] == 0.02
    assert places["refresh.sigma_min"] == 0.05


@pytest.mark.parametrize("name", sorted(settings_table.programs()))
def test_every_flag_is_there_and_says_what_it_is(name):
    found = settings_table.programs()[name]
    code = (settings_table.PROGRAMS / f"{name}.py").read_text()
    assert [flag.name for flag in found] == re.findall(r"DEFINE_\w+\(\s*\"(\w+)\"", code)
    assert [flag.name for flag in found if not flag.description] == []


def test_the_page_has_a_row_for_each_of_them():
    rows = re.findall(r"^\| `(\S+)` \|", settings_table.page(), re.MULTILINE)
    flags = [f"--{flag.name}" for found in settings_table.programs().values() for flag in found]
    assert rows == [setting.key for setting in settings_table.settings()] + flags


def test_bars_and_stars_stay_in_their_cell():
    rows = [row for row in settings_table.page().splitlines() if row.startswith("| `")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    (step,) = [row for row in rows if row.startswith("| `--step`")]
    assert "One of `euler`, `heun`, `ancestral`, `midpoint`, `corrected`." in step
