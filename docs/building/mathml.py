"""Formulas as MathML, which browsers draw themselves: the pages need no script, and nobody's server."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
SIDES = {"(": "l", "[": "l", ")": "r", "]": "r"}  # \\big[ of LaTeX is known by the names \\bigl and \\bigr only


def to_mathml(latex: str, *, block: bool) -> str:
    """A formula as a <math> element.

    Raises:
        MathError: if it has a command that is not known.
    """
    named = re.sub(r"\\(big|Big|bigg|Bigg)([\[\]()])", lambda m: f"\\{m[1]}{SIDES[m[2]]}{m[2]}", latex.strip())
    return tex2mathml(named, as_block=block)


def _visit(block: bool):
    def visit(translator, node):
        latex = node.astext()
        try:
            translator.body.append(to_mathml(latex, block=block))
        except MathError as error:
            LOGGER.warning("the formula %r cannot be shown: %s", latex, error, location=node)
            translator.body.append(f"<code>{translator.encode(latex)}</code>")
        raise nodes.SkipNode

    return visit


def setup(app) -> dict[str, Any]:
    """As an extension of Sphinx: html_math_renderer = "mathml"."""
    app.add_html_math_renderer("mathml", (_visit(False), None), (_visit(True), None))
    return {"parallel_read_safe": True}
