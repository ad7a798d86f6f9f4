"""A cached function computes a setting once, and again when what decides it changes."""

import itertools
import runpy
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pandas as pd
import pytest

from actlib import rankings
from actlib.study import cache, controls

NUMBERS = itertools.count()
START = """
    import pandas as pd
    import actlib
    from actlib.rankings import ranking
    from actlib.study import controls
    from actlib.study.cache import cached

    @ranking("powered", per_module=False)
    def raise_(scores):
        return {name: d**2 for name, d in scores.values.items()}

    def by_power(scores, percent, draw):
        return scores.top(percent, "powered")

    controls.CHOICES["by_power"] = by_power
    factor = 2
    times = 1
    unused = 1

    def double(value, by=times):
        '''Times the factor.'''
        return factor * value * by

    @cached
    def rows_of(percent, seed=0):
        '''One row.'''
        print("computed", percent)
        return {"value": double(percent)}
"""


class Chooser:
    def choose(self, scores, percent, draw):
        return scores.top(percent)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`load(old, new)`: the function of START with a text replaced, as after an edit."""
    monkeypatch.setitem(rankings.RANKINGS, "powered", None)
    monkeypatch.setitem(controls.CHOICES, "by_power", None)
    before = dict(cache._FOLDERS)
    cache.use_folders(tmp_path / "cache")

    def make(old="", new=""):
        text = textwrap.dedent(START)
        assert old in text
        path = tmp_path / f"edit{next(NUMBERS)}.py"
        path.write_text(text.replace(old, new) if old else text)
        return runpy.run_path(str(path), run_name="notebook")["rows_of"]

    yield make
    cache.use_folders(**before)


def test_a_setting_is_computed_once_and_labeled(load, capsys):
    rows_of = load()
    first, again = rows_of(5), rows_of(percent=5.0)
    assert first.to_dict("records") == [{"value": 10, "percent": 5, "seed": 0}]
    assert again.equals(first) and load()(5).equals(first)
    rows_of(10)
    rows_of(5, seed=1)
    assert capsys.readouterr().out.split() == ["computed", "5", "computed", "10", "computed", "5"]


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        ("factor * value", "factor + value", True),
        ("factor = 2", "factor = 3", True),
        ("times = 1", "times = 3", True),
        ("seed=0", "seed=0, scale=1.0", True),
        ("'''One row.'''", "'''Another text.'''  # and a comment", False),
        ("'''Times the factor.'''", "", False),
        ("unused = 1", "unused = 2", False),
    ],
)
def test_an_edit_of_what_decides_a_result_alone_computes_it_again(load, capsys, old, new, again):
    load()(5)
    load(old, new)(5)
    assert capsys.readouterr().out.count("computed") == 1 + again


def test_an_argument_does_not_hide_a_variable_of_its_name(load):
    rows_of = load("percent", "factor")
    assert rows_of(5)["value"].tolist() == [10]
    rows_of.__wrapped__.__globals__["factor"] = 3  # what `double` reads
    assert rows_of(5)["value"].tolist() == [15]


def test_models_count_by_what_they_hold_and_label_the_rows(load, tmp_path, capsys):
    rows_of = load("def rows_of(percent, seed=0)", "def rows_of(pair, other, percent)")
    others = SimpleNamespace(seed=4, cache_key="others")
    for weights in ("some", "some", "trained again"):
        models = SimpleNamespace(seed=3, cache_key=weights)
        (row,) = rows_of(models, others, 5).to_dict("records")
        assert row == {"value": 10, "seed": 3, "other_seed": 4, "percent": 5}
    assert capsys.readouterr().out.count("computed") == 2
    assert len(list((tmp_path / "cache" / "rows_of").glob("seed3-*.parquet"))) == 1


OWN = "type('Own', (), {'__module__': __name__, '__call__': lambda self: 2})"


@pytest.mark.parametrize(
    "value",
    ["pd.DataFrame()", "pd.Series([2], ['a'])", "actlib.ChannelMask({})"]
    + ["__import__('torch').nn.Linear(1, 1)", "__import__('functools').partial(max, 3)"]
    + [OWN, f"{OWN}()", f"{OWN}().__call__"],
)
def test_what_has_no_stable_digest_is_refused(load, value):
    kinds = "DataFrame|Series|ChannelMask|Linear|partial|type|Own"
    with pytest.raises(ValueError, match=f"`factor`, a ({kinds}), .* make it inside"):
        load("factor = 2", f"factor = {value}")(5)


def test_the_object_of_a_method_counts_and_a_series_is_no_argument(load, capsys):
    for shape in ("[0]", "[0]", "[0, 0]"):
        called = f"* value * by * len(take())\n\ntake = {shape}.copy"
        load("* value * by", called)(5)
    assert capsys.readouterr().out.count("computed") == 2
    with pytest.raises(ValueError, match="`percent`, a Series"):
        load()(pd.Series([5], ["a"]))


def test_processes_share_a_file(tmp_path):
    code = textwrap.dedent(START) + "from pathlib import Path\nimport sys\n"
    code += "from actlib.study import cache\n"
    code += f"cache.use_folders(Path({str(tmp_path)!r}))\n"
    code += "[rows_of(int(sys.argv[1]) + n) for n in range(8)]\n"
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, str(tmp_path / "run.py")]
    running = [subprocess.Popen([*command, str(start)]) for start in (0, 100)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    (path,) = (tmp_path / "rows_of").glob("seed0-*.parquet")
    assert sorted(pd.read_parquet(path)["percent"]) == [*range(8), *range(100, 108)]


def test_committed_rows_of_an_earlier_state_are_read_and_said(load, tmp_path, monkeypatch, capsys):
    load()(5)
    (tmp_path / "cache").rename(tmp_path / "committed")
    monkeypatch.setattr(cache, "digest_modules", lambda names: "another state")
    cache.use_folders(tmp_path / "cache", tmp_path / "committed")
    assert load()(5)["value"].tolist() == [10]
    assert "earlier state of actlib" in capsys.readouterr().err
    load()(6)
    cache.use_folders(tmp_path / "cache")
    load()(5)
    assert capsys.readouterr().out.split() == ["computed", "6", "computed", "5"]


@pytest.mark.parametrize(
    ("named", "module"),
    [
        ("actlib.transferred", "transfer"),
        ("actlib.masks.random_like, actlib.__version__", "masks"),
        ("from actlib import merge", "merging"),
    ],
)
def test_a_function_reaches_the_modules_that_it_names(load, named, module):
    rows_of = load("return {", f"{named}\n    return {{")
    assert cache.describe(rows_of)[1] == {f"actlib.{module}"}


@pytest.mark.parametrize("named", ["act_powered", ["powered"], "by_power", "act_x"])
def test_an_edit_of_a_ranking_or_choice_outside_actlib_computes_again(load, capsys, named):
    for old, new in (("", ""), ("", ""), ("d**2", "d**3"), ("=False", "=True")):
        rows_of = load(old, new)
        rows_of(named)
    assert capsys.readouterr().out.count("computed") == (1 if named == "act_x" else 3)
    for choice in (Chooser().choose, {"a": lambda: 1}["a"], max):
        controls.CHOICES["by_power"] = choice
        with pytest.raises(ValueError, match="define it by def, in no class"):
            rows_of("by_power")
