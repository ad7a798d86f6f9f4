"""Sphinx settings of the book; `tools/book.py` gathers the pages and builds it (`make book`).

Nothing in a built page may need the network: the notebooks are not run again, formulas become
MathML, and no script of another host is asked for.
"""

import re
import sys
from functools import partial
from html import escape
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import actlib

project = "The ACT study"
author = "The actlib authors"
project_copyright = "The actlib authors, Apache-2.0"
version = release = actlib.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "plain_docstrings",
]
exclude_patterns = ["docs/index.md", "actlib"]  # the first is the home page
suppress_warnings = [
    "ref.python",  # two classes of one name, in a type that names the one meant by its module
    "mystnb.unknown_mime_type",  # of a widget only its text is kept
    "misc.highlighting_failure",  # notebooks hold lines of the shell
]

myst_enable_extensions = ["dollarmath"]
myst_dmath_allow_space = False  # "$5 and $6" are prices
myst_dmath_allow_digits = False
myst_heading_anchors = 4
nb_execution_mode = "off"
nb_output_folder = "book-outputs"
nb_merge_streams = True
nb_ipywidgets_js = {}  # widgets would need scripts of another host

autosummary_generate = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_default_options = {
    "members": True,
    "exclude-members": "model_config",
}
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = "The ACT study"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["enlarge.js"]
html_show_sourcelink = False
html_permalinks_icon = "#"
html_theme_options = {
    "show_toc_level": 2,
    "use_fullscreen_button": False,
    "navbar_persistent": [],  # the search field is in the sidebar, and a button in the page's head
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
}

SIZES = re.compile(r"\\[bB]igg?[lrm]?(?![a-zA-Z])")  # MathML sizes brackets by itself


def write_mathml(translator: nodes.NodeVisitor, node: nodes.Element, block: bool) -> None:
    """Write a formula; its TeX as code, and a warning, where docutils cannot convert it."""
    tex = node.astext()
    try:
        written = latex2mathml.tex2mathml(SIZES.sub("", tex), as_block=block)
    except (MathError, SyntaxError, KeyError) as error:
        logging.getLogger("mathml").warning("the formula %r has no MathML: %s", tex, error)
        written = f"<code>{escape(tex)}</code>"
    translator.body.append(f'<div class="math">{written}</div>\n' if block else written)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Have formulas drawn by browsers themselves: no script, no font to fetch."""
    inline, block = ((partial(write_mathml, block=is_block), None) for is_block in (False, True))
    app.add_html_math_renderer("mathml", inline, block)
