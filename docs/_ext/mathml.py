"""Writes formulas as MathML, which browsers draw themselves: no script, no font to fetch.

Docutils brings the converter. What it cannot convert is shown as the TeX that was written.
"""

import re
from html import escape

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![a-zA-Z])")  # MathML sizes brackets by itself
LOG = logging.getLogger(__name__)


def mathml(tex: str, *, block: bool = False) -> str:
    """MathML of a formula; its TeX as code, and a warning, where it cannot be converted."""
    try:
        return latex2mathml.tex2mathml(SIZES.sub("", tex), as_block=block)
    except (MathError, SyntaxError, KeyError) as error:
        LOG.warning("the formula %r has no MathML: %s", tex, error, type="mathml")
        return f"<code>{escape(tex)}</code>"


def _inline(translator: nodes.NodeVisitor, node: nodes.Element) -> None:
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def _block(translator: nodes.NodeVisitor, node: nodes.Element) -> None:
    translator.body.append(f'<div class="math">{mathml(node.astext(), block=True)}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    """Register the renderer and choose it."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
