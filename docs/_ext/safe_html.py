"""Lets no HTML of a page, prompt, model card or notebook output act in the book.

Markdown and notebook outputs may hold HTML, such as the tables of pandas. Sphinx writes it into the
page as it is; here only tags that show text stay, and nothing that runs, loads or leads elsewhere.
Of a picture on another host its description is shown.
"""

import re
import zlib
from pathlib import Path

import bleach
from bleach.css_sanitizer import CSSSanitizer
from docutils import nodes
from sphinx.application import Sphinx

VERSION = zlib.crc32(Path(__file__).read_bytes())  # a change here reads all pages anew
TAGS = frozenset(
    "b br caption code div em hr i kbd li ol p pre small span strong sub sup table tbody td tfoot "
    "th thead tr u ul".split()
)
STYLES = ["background", "background-color", "border", "border-radius", "color"]
STYLES += ["font-family", "font-weight", "text-align", "white-space"]
# With no parenthesis there is no url(), so a style loads nothing.
PLAIN_STYLE = re.compile(r"[\w\s:;#,.%-]*")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.I)
UNSEEN = re.compile(r"<(style|script|template|noscript)\b.*?(</\1\s*>|\Z)", re.DOTALL | re.I)


def _allowed(tag: str, name: str, value: str) -> bool:
    if name == "style":
        return bool(PLAIN_STYLE.fullmatch(value))
    return name in ("class", "border", "colspan", "rowspan")


def safe(html: str) -> str:
    """The HTML with nothing left but text and tags that show it.

    Styles and scripts go with all they hold; of other tags that are not allowed the text stays.
    """
    return bleach.clean(
        UNSEEN.sub("", html),
        tags=TAGS,
        attributes=_allowed,
        css_sanitizer=CSSSanitizer(allowed_css_properties=STYLES),
        strip=True,
        strip_comments=True,
    )


def _clean(app: Sphinx, doctree: nodes.document) -> None:
    for node in list(doctree.findall(nodes.raw)):
        if "html" in node.get("format", "").split():
            text = safe(node.astext())
            node.parent.replace(node, nodes.raw("", text, format="html") if text.strip() else [])
    for node in list(doctree.findall(nodes.image)):
        if ELSEWHERE.match(node["uri"]):  # its host would learn who reads the page
            node.parent.replace(node, nodes.Text(node.get("alt") or node["uri"]))


def setup(app: Sphinx) -> dict:
    """Clean each page once it is read."""
    app.connect("doctree-read", _clean, priority=100)  # before Sphinx looks for the pictures
    return {"parallel_read_safe": True, "parallel_write_safe": True, "env_version": VERSION}
