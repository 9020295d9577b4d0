import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tweedie_diffusion

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built with every warning an error."""
    for name in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(name)
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-t", "quick", ROOT / "docs", out]
    built = subprocess.run(command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return out


def test_the_pages_are_built_and_complete(site):
    public = (site / "reference" / "api.html").read_text()
    assert [n for n in tweedie_diffusion.__all__ if f'id="tweedie_diffusion.{n}"' not in public] == []

    start = (site / "index.html").read_text()
    assert "Train a diffusion model on noisy images alone" in start
    assert 'href="reference/settings.html"' in start
    pages = sorted(path.stem for path in (ROOT / "docs").glob("*.md"))
    assert [name for name in pages if f'href="{name}.html"' not in start and name != "index"] == []

    maths = (site / "maths.html").read_text()
    assert maths.count("<math") >= len(re.findall(r"\$\$[^$]+\$\$|\$[^$]+\$", (ROOT / "docs" / "maths.md").read_text()))


def test_a_reader_is_sent_to_no_other_server(site):
    fetched = r"(?:<script[^>]* src|<link[^>]* href|<img[^>]* src)=\"https?://"
    assert [path.name for path in site.rglob("*.html") if re.search(fetched, path.read_text())] == []
