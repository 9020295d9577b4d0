import re
from pathlib import Path

import jax.numpy as jnp

import tweedie_diffusion
from tweedie_diffusion.diffusion.oracles import gaussian_denoiser
from tweedie_diffusion.training.config import default_config, flatten

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_example_runs(monkeypatch):
    monkeypatch.setattr(tweedie_diffusion, "load", lambda workdir: gaussian_denoiser(0.0, 0.25))
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {}
    exec(block, names)
    assert names["loss"].shape == (16,)
    assert jnp.isfinite(names["x_0"]).all()


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_nothing_is_left_to_fill_in():
    assert re.findall(r"@[A-Z]+@|TODO|TBD", README) == []


def test_every_setting_that_is_named_exists():
    settings = flatten(default_config())
    rows = [
        line.split("|")[1]
        for line in README.splitlines()
        if re.match(r"\| `(data|model|training|ambient|con|ref|sam)", line)
    ]
    named = []
    for row in rows:
        first = re.match(r" `(\w+)\.", row)[1]
        named += [n if not n.startswith(".") else first + n for n in re.findall(r"`([\w.]+)`", row)]
    assert len(named) > 20
    assert [n for n in named if n not in settings] == []
