"""Pages of the names in the code, from their docstrings: the public ones, and every module of every floor."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from settings_table import write

import tweedie_diffusion

PACKAGE = Path(tweedie_diffusion.__file__).parent
FLOORS = ["diffusion", "models", "data", "evaluation", "training", "sharing", "report"]
PUBLIC = """Public names
============

All that ``import tweedie_diffusion as td`` gives: pure functions on jax arrays. A *denoiser* is any function
``denoise(x_t [B, ...], sigma [B]) -> x0_hat [B, ...]``; a noise level σ is a standard deviation in units of images in
[−1, 1], a float or one an image; a key is one key, or one an image.

"""
MODULES = """Modules by floor
================

A file imports from its own floor or from a lower one. The functions of the lowest floors are the
:doc:`public names <api>`; what stands above them may change.

.. toctree::

"""


def public_page() -> str:
    """The public names, those of one module together, in the order of the floors and of the code."""
    groups: dict[str, list[str]] = {}
    for name in tweedie_diffusion.__all__:
        groups.setdefault(getattr(tweedie_diffusion, name).__module__, []).append(name)
    order = lambda module: _floor_of(module) if "." in module else -1  # `load` comes first
    parts = [PUBLIC]
    for module in sorted(groups, key=lambda module: (order(module), module)):
        names = sorted(groups[module], key=lambda name: inspect.getsourcelines(getattr(tweedie_diffusion, name))[1])
        parts.append(_heading(_words(module) if "." in module else "A trained model", "-"))
        parts.append(".. autosummary::\n   :nosignatures:\n\n")
        parts += [f"   ~tweedie_diffusion.{name}\n" for name in names]
        parts += ["\n", *(_entry(name) for name in names)]
    return "".join(parts)


def _entry(name: str) -> str:
    if not inspect.isclass(getattr(tweedie_diffusion, name)):
        return f".. autofunction:: tweedie_diffusion.{name}\n\n"
    return f".. autoclass:: tweedie_diffusion.{name}\n   :members:\n   :special-members: __call__\n\n"


def floor_pages() -> dict[str, str]:
    """{floor: a page with each of its modules}."""
    found = {}
    for floor in FLOORS:
        paths = [path for path in sorted((PACKAGE / floor).rglob("*.py")) if not path.name.startswith("_")]
        if not paths:
            continue
        first = PACKAGE / floor / "__init__.py"
        about = ast.get_docstring(ast.parse(first.read_text())) if first.is_file() else ""
        names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in paths]
        parts = [_heading(floor, "="), f"{about or ''}\n\n"]
        for name in names:
            parts += [_heading(name.removeprefix(f"tweedie_diffusion.{floor}."), "-")]
            parts += [f".. automodule:: {name}\n   :members:\n\n"]
        found[floor] = "".join(parts)
    return found


def _floor_of(module: str) -> int:
    return FLOORS.index(module.split(".")[1])


def _words(module: str) -> str:
    return module.rpartition(".")[2].replace("_", " ").capitalize()


def _heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n\n"


def setup(app) -> dict[str, Any]:
    """As an extension of Sphinx: write the pages before the pages are read, and read docstrings as plain text."""
    app.connect("builder-inited", _write_pages)
    app.connect("autodoc-process-docstring", _as_text, priority=400)  # before the sections are told apart
    app.connect("doctree-read", _without_dashes)
    return {"parallel_read_safe": True}


def _write_pages(app):
    folder, floors = Path(app.srcdir) / "reference", floor_pages()
    for name, page in floors.items():
        write(folder / f"{name}.rst", page)
    write(folder / "api.rst", public_page())
    write(folder / "modules.rst", MODULES + "".join(f"   {name}\n" for name in floors))


def _as_text(app, what, name, thing, options, lines: list[str]):
    """Nothing in a docstring is markup but `code`: the stars and bars of a formula mean themselves."""
    for i, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[i] = "`".join(parts)


def _without_dashes(app, document):
    """`name: what it is` in lists of arguments, where Sphinx writes two dashes."""
    for text in list(document.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))
