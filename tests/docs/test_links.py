import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "experiments", "notebooks", "configs", "tests", "tweedie_diffusion")
MADE = ("docs/reference", "docs/project")  # when the pages are built
FENCES = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
TARGETS = re.compile(r"(?:\]\(|(?:src|href)=\")(?!\w+:)([^)\s#\"]*)(?:#([^)\s\"]+))?")


def pages():
    found = [*ROOT.glob("*.md"), *(path for name in FOLDERS for path in (ROOT / name).rglob("*.md"))]
    found = [path for path in found if not path.relative_to(ROOT).as_posix().startswith(MADE)]
    return sorted([*found, *(ROOT / "notebooks").glob("*.ipynb")])


def text_of(path):
    """Markdown without its code."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return re.sub(r"`[^`\n]*`", lambda code: code[0] if "](" not in code[0] else "", FENCES.sub("", text))


def anchors(path):
    """Those that GitHub gives to headings: small letters, digits, - and _, with - for a space; the second has -1."""
    found = []
    for heading in re.findall(r"^ {0,3}#{1,6} +(.+?) *#*$", text_of(path), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        again = sum(slug == re.sub(r"-\d+$", "", other) for other in found)
        found.append(f"{slug}-{again}" if again else slug)
    return found


def broken(path):
    for name, anchor in TARGETS.findall(text_of(path)):
        target = path.parent / name if name else path
        if not target.exists():
            yield name
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield f"{name}#{anchor}"


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_and_picture_leads_somewhere(path):
    assert list(broken(path)) == []


def test_a_broken_one_would_be_found(tmp_path):
    (tmp_path / "other.md").write_text("# Café σ_tn: `x`\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n[a](other.md#café-σ_tn-x) [b](#here) [c](https://example.org/x) `[d](none.md)` [e](other.md#twice-1)\n"
        '```\n[f](none.md)\n```\n[g](none.md) ![h](none.png) [i](other.md#none) [`j`](#none) <img src="none.svg">\n'
    )
    assert list(broken(page)) == ["none.md", "none.png", "other.md#none", "#none", "none.svg"]
