"""What the book does to HTML, formulas and docstrings, in small and through one real build."""

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("myst_nb", reason="the book's own packages are not installed")

DOCS = Path(__file__).resolve().parents[1] / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

from mathml import mathml  # noqa: E402
from safe_html import safe  # noqa: E402
from sphinx.cmd.build import build_main  # noqa: E402

EVIL = [
    "<script>harm()</script>",
    "<SCRIPT src='//evil.example/x.js'>harm()",
    "<img src=x onerror='harm()'>",
    "<svg onload='harm()'></svg>",
    "<iframe src='https://evil.example'></iframe>",
    "<a href='javascript:harm()'>text</a>",
    "<div onclick='harm()'>text</div>",
    "<style>@import 'https://evil.example/x.css'; harm</style>",
    "<p style='background: url(https://evil.example/x.png)'>text</p>",
    "<link rel=stylesheet href='https://evil.example/x.css'>",
    "<form action='https://evil.example'><button>text</button></form>",
    "<math><mtext><style><img src=x onerror=harm()></style></mtext></math>",
]


MARKDOWN = [
    "![a picture](https://evil.example/x.png) ![another](//evil.example/x.png)",
    "[text](javascript:harm())",
    "```{raw} html\n<script>harm()</script>\n```",
]


class Found(HTMLParser):
    """Tags and attributes through which HTML acts, loads or leads elsewhere."""

    def __init__(self):
        super().__init__()
        self.harms = []

    def handle_starttag(self, tag, attrs):
        acting = ("script", "style", "svg", "iframe", "form", "link", "img", "math", "object")
        self.harms += [tag] if tag in acting else []
        for name, value in attrs:
            acts = name.startswith("on") or name == "src" or "url(" in (value or "")
            self.harms += [name] if acts or "javascript:" in (value or "") else []


def harms(html):
    """What of an HTML text acts."""
    found = Found()
    found.feed(html)
    return found.harms


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_that_acts_or_loads_is_left(evil):
    assert harms(evil)
    left = safe(f"<p>before</p>{evil}")
    assert "before" in left
    assert not harms(left)


def test_a_table_of_pandas_and_colored_tokens_stay():
    table = '<table border="1" class="dataframe"><tr><td colspan="2">1</td></tr></table>'
    left = safe(table)
    assert 'class="dataframe"' in left and 'colspan="2"' in left
    token = safe('<span style="background:#cfe8f7;color:#00436b">1</span>')
    assert "#cfe8f7" in token and "#00436b" in token


def test_what_is_no_formula_is_shown_as_written():
    assert mathml(r"\nosuchthing{<b>}") == r"<code>\nosuchthing{&lt;b&gt;}</code>"


def test_harmful_outputs_and_cells_do_nothing_in_a_built_page(tmp_path):
    def output(kind, text):
        data = {kind: text, "text/plain": "plain"}
        return {"output_type": "display_data", "data": data, "metadata": {}}

    outputs = [output("text/html", "<table><tr><td>kept</td></tr></table>" + "".join(EVIL))]
    outputs += [output("application/javascript", "harm()"), output("text/markdown", EVIL[0])]
    outputs += [output("text/markdown", text) for text in MARKDOWN]
    about = {"metadata": {}, "cell_type": "code", "execution_count": 1, "id": "two"}
    text = {"metadata": {}, "cell_type": "markdown", "id": "one"}
    cells = [
        {**text, "source": "# Title\n\nsaid " + "\n\n".join([*MARKDOWN, *EVIL])},
        {**about, "source": "1", "outputs": outputs},
    ]
    kind = {"language_info": {"name": "python"}}
    notebook = {"cells": cells, "metadata": kind, "nbformat": 4, "nbformat_minor": 5}
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    options = ["-q", "-W", "-c", str(DOCS), "-D", "extensions=myst_nb,safe_html,mathml"]
    assert build_main([*options, str(source), str(tmp_path / "out")]) == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    article = page[page.index("<article") : page.index("</article>")]
    assert "kept" in article and "said" in article and "a picture" in article
    assert "evil.example" not in article
    assert not harms(article)
