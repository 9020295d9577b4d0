"""The pages, built by Sphinx: sphinx-build -W -b html docs build/docs (pip install -e ".[docs]")."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "building"), str(Path(__file__).parents[1])]

import tweedie_diffusion  # noqa: E402 — from this folder, installed or not

project = "tweedie_diffusion"
version = release = tweedie_diffusion.__version__
copyright = "the authors of tweedie_diffusion"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "mathml",
    "settings_table",
    "api_pages",
    "repository_pages",
]
exclude_patterns = ["building"]
if not tags.has("quick"):  # noqa: F821 — Sphinx's, by `-t quick`
    extensions.append("sphinx.ext.viewcode")  # a third of the time

# Markdown as GitHub reads it: formulas between dollars, and an anchor at every heading.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
smartquotes = False  # --flag is no dash
html_math_renderer = "mathml"

# Docstrings: `x` is code.
default_role = "literal"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
autosummary_generate = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "tweedie_diffusion"
html_static_path = ["building/static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False
