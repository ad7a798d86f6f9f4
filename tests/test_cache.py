"""A cached function computes a setting once, and again when what decides it changes."""

import importlib.util
import itertools
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pandas as pd
import pytest

from actlib.study import cache, sources

NUMBERS = itertools.count()
START = """
    import pandas as pd
    import actlib
    from actlib.study.cache import cached

    factor = 2
    unused = 1
    calls = []

    def double(value):
        '''Times the factor.'''
        return factor * value

    @cached
    def rows_of(percent, seed=0):
        '''One row.'''
        calls.append(percent)
        return {"value": double(percent)}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """`load(old, new)`: the functions of START with a text replaced, as after an edit."""
    cache.use_folders(tmp_path / "cache")
    # The list in which the calls are counted is no part of a result.
    known = cache.describe
    monkeypatch.setattr(
        cache, "describe", lambda function: (*(d := known(function))[:2], _without(d[2], "calls"))
    )

    def make(old="", new=""):
        text = textwrap.dedent(START)
        assert old in text
        path = tmp_path / f"edit{next(NUMBERS)}.py"
        path.write_text(text.replace(old, new) if old else text)
        spec = importlib.util.spec_from_file_location("notebook", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield make
    cache.use_folders(cache.Path("artifacts/cache"))


def _without(values, name):
    return {key: value for key, value in values.items() if key != name}


def test_a_setting_is_computed_once_and_labeled(load):
    module = load()
    first, again = module.rows_of(5), module.rows_of(percent=5.0)
    assert first.to_dict("records") == [{"value": 10, "percent": 5, "seed": 0}]
    assert again.equals(first) and module.calls == [5]
    assert load().rows_of(5).equals(first)
    module.rows_of(10)
    module.rows_of(5, seed=1)
    assert module.calls == [5, 10, 5]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("factor * value", "factor + value"),
        ("factor = 2", "factor = 3"),
        ("double(percent)}", 'double(percent), "other": 1}'),
        ("seed=0", "seed=0, scale=1.0"),
    ],
)
def test_an_edit_of_what_decides_a_result_computes_it_again(load, old, new):
    load().rows_of(5)
    module = load(old, new)
    module.rows_of(5)
    assert module.calls == [5]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("'''One row.'''", "'''Another text.'''  # and a comment"),
        ("'''Times the factor.'''", ""),
        ("unused = 1", "unused = 2"),
        ("calls.append(percent)", "calls.append( percent )  # told"),
    ],
)
def test_an_edit_of_anything_else_does_not(load, old, new):
    load().rows_of(5)
    module = load(old, new)
    module.rows_of(5)
    assert module.calls == []


@dataclass(frozen=True)
class Models:
    """Stands for a group of models."""

    seed: int
    cache_key: str

    @property
    def labels(self):
        """Columns."""
        return {"seed": self.seed}


def test_models_count_by_what_they_hold(load, tmp_path):
    module = load("def rows_of(percent, seed=0)", "def rows_of(pair, percent)")
    table = module.rows_of(Models(3, "weights"), 5)
    assert table["seed"].tolist() == [3]
    module.rows_of(Models(3, "weights"), 5)
    assert module.calls == [5]
    module.rows_of(Models(3, "weights trained again"), 5)
    assert module.calls == [5, 5]
    assert len(list((tmp_path / "cache" / "rows_of").glob("seed3-*.parquet"))) == 1


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("factor = 2", "factor = pd.DataFrame({'a': [1]})", "`factor`, a DataFrame"),
        ('{"value": double(percent)}', "pd.DataFrame()", "no rows"),
        ('{"value"', '{"percent"', "names of arguments: percent"),
    ],
)
def test_what_cannot_be_cached_is_refused(load, old, new, sentence):
    with pytest.raises(ValueError, match=sentence):
        load(old, new).rows_of(5)


def test_processes_share_a_file(tmp_path):
    code = textwrap.dedent(START).replace("calls.append(percent)", "pass")
    code += "from pathlib import Path\nimport sys\nfrom actlib.study import cache\n"
    code += f"cache.use_folders(Path({str(tmp_path)!r}))\n"
    code += "[rows_of(int(sys.argv[1]) + n) for n in range(8)]\n"
    (tmp_path / "run.py").write_text(code)
    command = [sys.executable, str(tmp_path / "run.py")]
    running = [subprocess.Popen([*command, str(start)]) for start in (0, 100)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    (path,) = (tmp_path / "rows_of").glob("seed0-*.parquet")
    table = pd.read_parquet(path)
    assert sorted(table["percent"]) == [*range(8), *range(100, 108)]


def test_committed_rows_of_an_earlier_state_are_read_and_said(load, tmp_path, monkeypatch, capsys):
    load().rows_of(5)
    (tmp_path / "cache").rename(tmp_path / "committed")
    monkeypatch.setattr(cache, "digest_modules", lambda names: "another state")
    cache.use_folders(tmp_path / "cache", tmp_path / "committed")
    module = load()
    assert module.rows_of(5)["value"].tolist() == [10] and module.calls == []
    assert "earlier state of actlib" in capsys.readouterr().err
    module.rows_of(6)
    assert module.calls == [6]
    cache.use_folders(tmp_path / "cache")
    module.rows_of(5)
    assert module.calls == [6, 5]


def test_a_function_reaches_the_modules_that_it_names(load):
    module = load("return {", "actlib.transferred\n    return {")
    assert cache.describe(module.rows_of)[1] == {"actlib.transfer"}
    assert "actlib.masks" in sources.reach_modules(["actlib.transfer"])
    assert "actlib.study.session" not in sources.reach_modules(["actlib.transfer"])
    with pytest.raises(ValueError, match="no module"):
        sources.digest_modules(["actlib.absent"])
