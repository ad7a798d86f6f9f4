"""The one look: methods that can be told apart, and names for readers."""

from pathlib import Path

import pandas as pd

from actlib.analysis import style
from actlib.rankings import RANKINGS, Ranking


def test_methods_differ_in_name_and_in_color_or_marker():
    looks = style.METHODS.values()
    assert len({look.label for look in looks}) == len({look[:2] for look in looks}) == len(looks)


def test_a_ranking_registered_elsewhere_has_its_legend_and_no_methods_color(monkeypatch):
    monkeypatch.setitem(RANKINGS, "own", Ranking("own", dict, legend="Mine"))
    colors = {style.look_of("act_own", position).color for position in range(8)}
    assert len(colors - {look.color for look in style.METHODS.values()}) == 8
    assert style.named(pd.DataFrame({"a": ["act_own", "ties"]}))["a"].tolist() == ["Mine", "TIES"]


def test_the_gallery_says_where_methods_come_from():
    page = Path("docs/gallery.md").read_text(encoding="utf-8")
    assert style.METHODS["ties"].source
    for key, look in style.METHODS.items():
        assert not look.source or f"| {look.label} | `{key}` | [{look.source}](" in page


def test_tables_for_readers_name_methods_in_index_columns_and_cells():
    table = pd.DataFrame({"ties": ["union", "fr-maths"], "n": [1.0, 2.0]}, index=["donor", "all"])
    expected = {"TIES": ["ACT, union", "fr-maths"], "n": [1.0, 2.0]}
    pd.testing.assert_frame_equal(style.named(table), pd.DataFrame(expected, ["Donor", "all"]))
    levels = table.set_index("ties", append=True)
    assert [*style.named(levels).index[0]] == ["Donor", "ACT, union"]
    names = {"some_arm": "Some arm", "de": "de", "fr-mgsm": "fr-mgsm", "mlp.up_proj": "mlp.up proj"}
    assert {key: style.label_of(key) for key in names} == names
