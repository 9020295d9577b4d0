"""Pages that are files of the repository: README.md is the start page, and none is copied by hand.

Links go to the page that a file became, if it became one.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from settings_table import write

ROOT = Path(__file__).parents[2]
BORROWED = {
    "project/experiments": "experiments/README.md",
    "project/benchmarks": "experiments/benchmarks/README.md",
    "project/speed": "experiments/benchmarks/NOTES.md",
    "project/contributing": "CONTRIBUTING.md",
    "project/changelog": "CHANGELOG.md",
}
CONFIGS = "reference/configs"
GUIDE = ("data", "scaling", "sampling", "evaluation", "sharing")  # first, in this order; others follow by name
PROJECT = ("reliability", "maths")  # of docs/, that are no guide
CODE = re.compile(r"(^ *```.*?^ *```$|`[^`\n]*`)", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"\]\((?!\w+:)([^)\s#]+)(#[^)\s]*)?\)")


def start_page() -> str:
    """README.md, and behind it the list of all pages, which the sidebar shows."""
    pages = sorted(path.stem for path in (ROOT / "docs").glob("*.md") if path.stem != "index")
    guide = [name for name in GUIDE if name in pages]
    guide += [name for name in pages if name not in (*GUIDE, *PROJECT)]
    project = [name for name in PROJECT if name in pages]
    lists = {
        "Guide": guide,
        "Reference": ["reference/settings", CONFIGS, "reference/api", "reference/modules"],
        "Behind it": [*project, *BORROWED],
    }
    trees = [_tree(caption, entries) for caption, entries in lists.items()]
    return "\n".join([moved((ROOT / "README.md").read_text(), "README.md", "index"), *trees])


def _tree(caption, entries):
    options = f":hidden:\n:caption: {caption}\n"
    return f"```{{toctree}}\n{options}\n" + "\n".join(entries) + "\n```\n"


def moved(text: str, source: str, page: str) -> str:
    """The Markdown of `source`, a path in the repository, with its links as they are seen from `page` of docs/."""
    here, there = posixpath.dirname(source), posixpath.dirname(page)

    def link(match):
        target = posixpath.normpath(posixpath.join(here, match[1]))
        name, anchor = _page_of(target)
        return f"]({posixpath.relpath(name, posixpath.join('docs', there))}{match[2] or anchor})"

    parts = CODE.split(text)
    parts[::2] = [TARGET.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def _page_of(target: str) -> tuple[str, str]:
    """The page, as a path in the repository, that shows a file, and where on it; or the file itself."""
    pages = {source: f"docs/{page}.md" for page, source in BORROWED.items()} | {"README.md": "docs/index.md"}
    pages |= {"tweedie_diffusion/training/config.py": "docs/reference/settings.md"}
    if target in pages:
        return pages[target], ""
    if target.startswith("configs/") and target.endswith(".py"):
        return f"docs/{CONFIGS}.md", f"#{posixpath.basename(target).replace('.', '')}"
    return target, ""


def configs_page() -> str:
    """Every file of configs/, as it is."""
    text = ["# Config files", "", "`get_config` changes what it needs of the [settings](settings.md).", ""]
    for path in sorted((ROOT / "configs").glob("*.py")):
        text += [f"## {path.name}", f"\n```{{literalinclude}} ../../configs/{path.name}", ":language: python\n```\n"]
    return "\n".join(text)


def setup(app) -> dict[str, Any]:
    """As an extension of Sphinx: write the pages, and read the others with their links moved."""
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _read)
    app.connect("env-get-outdated", lambda *_: ["index"])  # README.md or the list of pages may be new
    return {"parallel_read_safe": True}


def _write_pages(app):
    docs = Path(app.srcdir)
    for page, source in BORROWED.items():
        write(docs / f"{page}.md", moved((ROOT / source).read_text(), source, page))
    write(docs / f"{CONFIGS}.md", configs_page())


def _read(app, page, source):
    if page == "index":
        source[0] = start_page()
    elif "/" not in page:
        source[0] = moved(source[0], f"docs/{page}.md", page)
