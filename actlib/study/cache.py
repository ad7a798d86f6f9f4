"""Keeps the rows of a cached function on disk, one call a setting, and computes none twice.

    @cached
    def transfer_items(pair, method, percent, scale):
        ...                                   # returns a DataFrame: one row an item

A call is known by the function's syntax, by what it uses of the notebook and of `actlib`, by its
arguments, and by what decides the rankings and choices that it names outside `actlib`. So whoever
edits the function, a list that it reads or a module that it reaches gets new numbers; comments,
docstrings and prose change nothing. One file a function and seed,
``FOLDER/FUNCTION/seedN-SYNTAX.parquet``, is written whole after each call: a kill loses one
setting, and several processes share it. The kind of processor is no part of a key, since the nodes
of a cluster differ; the library versions are.
"""

import ast
import dis
import functools
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from types import BuiltinMethodType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import pandas as pd
from torch import nn

from actlib.files import atomic_file
from actlib.rankings import RANKINGS
from actlib.study.controls import CHOICES
from actlib.study.locking import locked
from actlib.study.sources import (
    digest_modules,
    digest_text,
    imported_modules,
    modules_under,
    syntax_of,
)

KEYS = ["_setting", "_syntax", "_code"]
"""Columns of the files: digests of what a call was given, of the function, and of what it runs."""
_ANNOUNCED: set[str] = set()
_FOLDERS: dict[str, Any] = {"cache": Path("artifacts/cache"), "committed": None}


def use_folders(cache: Path, committed: Path | None = None) -> None:
    """Set where rows are kept, and from where they may be read besides, for the whole process.

    Args:
        cache: folder of the rows.
        committed: folder of rows that another machine measured and left; they are read where the
            cache has none, even if the code of `actlib` has changed since, which is said once.
    """
    _FOLDERS.update(cache=cache, committed=committed)


def cached(function: Callable[..., Any]) -> Callable[..., pd.DataFrame]:
    """Keep what a function returns, as a DataFrame; see the module's own text.

    Its arguments are plain values, or objects with a `cache_key`, such as a pair of models. Those
    that a figure can show (numbers, words, a pair's seed) become columns of the rows; of a second
    pair, handed over as `other`, the seed is the column `other_seed`.

    Raises:
        ValueError: (when called) the function uses a variable that has no stable digest, such as a
            table or a model; a result is empty; an argument has the name of a result's column.
    """

    @functools.wraps(function)
    def read_or_compute(*arguments: Any, **named: Any) -> pd.DataFrame:
        call = inspect.signature(function).bind(*arguments, **named)
        call.apply_defaults()
        file, keys = _locate(function, call.arguments)
        rows = _find(_FOLDERS["cache"] / file, keys)
        if rows is None and _FOLDERS["committed"] is not None:
            rows = _find(_FOLDERS["committed"] / file, keys, older=True)
        if rows is None:
            rows = _label(function(**call.arguments), call.arguments)
            _add(_FOLDERS["cache"] / file, keys, rows)
        return rows.copy()

    return read_or_compute


def _locate(function: Callable, arguments: Mapping[str, Any]) -> tuple[Path, dict[str, str]]:
    """File of a call's rows, relative to the folder, and the values of `KEYS`."""
    syntax, modules, values = describe(function)
    seeds = [value.seed for value in arguments.values() if hasattr(value, "cache_key")]
    seed = arguments.get("seed", seeds[0] if seeds else "-none")
    inputs = {name: _plain(value, name) for name, value in arguments.items()}
    for name, value in values.items():  # a helper may read a variable of an argument's name
        inputs[f"global {name}" if name in arguments else name] = _plain(value, name)
    if own := _describe_methods("\n".join([*syntax, json.dumps(inputs)])):
        inputs["rankings and choices"] = own  # a key that no argument has
    versions = [f"{name} {version(name)}" for name in ("torch", "transformers")]
    trained = [value.code_key for value in arguments.values() if hasattr(value, "code_key")]
    code = [digest_modules(modules), *versions, *trained]
    digests = [[json.dumps(inputs, sort_keys=True)], syntax, code]
    keys = {name: digest_text(*parts) for name, parts in zip(KEYS, digests, strict=True)}
    # functions of one name in two notebooks have a file each
    return Path(function.__name__, f"seed{seed}-{keys['_syntax'][:6]}.parquet"), keys


def describe(function: Callable) -> tuple[list[str], set[str], dict[str, Any]]:
    """What a function's results depend on, besides its arguments.

    Returns:
        Its syntax and that of the notebook's functions that it calls; the modules of actlib that it
        names; the other variables that it reads, by name.

    Raises:
        ValueError: there is no source, or that of a lambda within something else; it is a method.
    """
    syntax, modules, values = [], set(), {}
    waiting: list[Any] = [inspect.unwrap(function)]
    seen = set()
    while waiting:
        function = waiting.pop()
        seen.add(function)
        try:
            if not isinstance(function, FunctionType):
                raise TypeError  # the object of a bound method decides too
            source = textwrap.dedent(inspect.getsource(function))
            syntax.append(syntax_of(source))
            modules |= {*imported_modules(ast.parse(source))}
        except (OSError, TypeError, SyntaxError) as error:
            name = getattr(function, "__name__", repr(function))
            raise ValueError(
                f"no source of {name} was found that is a whole statement; define it by def, "
                "in no class"
            ) from error
        for name, value in _variables(function, source):
            if isinstance(value, MethodType | BuiltinMethodType):
                value = value.__self__  # decides what a method does; of a function it is the module
            value = inspect.unwrap(value) if callable(value) else value
            home = getattr(value, "__module__", None) or type(value).__module__
            is_own, is_opaque = home == function.__module__, nn.Module | functools.partial
            if isinstance(value, ModuleType):
                package = value.__name__
                modules |= {package, *modules_under(ast.parse(source), name, package)}
            elif home.startswith("actlib"):
                modules.add(home)
                if not isinstance(value, FunctionType | type):
                    values[name] = value  # refused without a `cache_key`
            elif isinstance(value, FunctionType):
                if is_own and value not in seen:
                    waiting.append(value)
            elif is_own or not callable(value) or isinstance(value, is_opaque):
                values[name] = value  # classes and objects of the notebook are refused
    modules = {name for name in modules if name.startswith("actlib.")}
    return sorted(syntax), modules, values


def _describe_methods(text: str) -> dict[str, Any]:
    """What decides the rankings and choices that a text quotes and that actlib does not define."""
    every: dict[str, tuple[str, Any, list]] = {
        f"ranking {name}": (name, rule.formula, [rule.per_module, rule.needs, rule.of])
        for rule in RANKINGS.values()
        for name in (rule.name, rule.method)
    } | {f"choice {name}": (name, function, []) for name, function in CHOICES.items()}
    found: dict[str, Any] = {}
    waiting = [text]
    while waiting:
        text = waiting.pop()
        for key, (name, function, settings) in every.items():
            is_named = json.dumps(name) in text or repr(name) in text
            if key in found or not is_named or str(function.__module__).startswith("actlib"):
                continue
            syntax, modules, values = describe(function)
            plain = {variable: _plain(value, variable) for variable, value in values.items()}
            found[key] = [syntax, digest_modules(modules), plain, *settings]
            waiting.append("\n".join([*syntax, json.dumps(plain)]))  # may name others
    return found


def _variables(function: Any, source: str) -> Iterator[tuple[str, Any]]:
    """Global variables that a function reads, those of functions around it, computed defaults."""
    yield from inspect.getclosurevars(function).nonlocals.items()
    trees = (getattr(node, "args", None) for node in ast.walk(ast.parse(source)))
    arguments = next(each for each in trees if isinstance(each, ast.arguments))
    defaults = [*arguments.defaults, *filter(None, arguments.kw_defaults)]
    values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for written, value in zip(defaults, values, strict=True):
        if any(isinstance(part, ast.Name) for part in ast.walk(written)):
            yield ast.unparse(written), value
    names = sorted(_global_names(function.__code__))
    yield from ((n, function.__globals__[n]) for n in names if n in function.__globals__)


def _global_names(code: CodeType) -> set[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    inner = [part for part in code.co_consts if isinstance(part, CodeType)]
    return names.union(*map(_global_names, inner))


def _plain(value: Any, name: str) -> Any:
    """A value as JSON holds it, in which 5 and 5.0 are the same."""
    if hasattr(value, "cache_key"):
        return value.cache_key
    if isinstance(value, Mapping):
        return {str(key): _plain(part, name) for key, part in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(part, name) for part in value]
    if value is None or isinstance(value, str | bool):
        return value
    if not isinstance(value, pd.Series):  # whose index would be left out
        with suppress(TypeError, ValueError, AttributeError):
            return float(value) if getattr(value, "ndim", 0) == 0 else value.tolist()
    raise ValueError(
        f"a cached function uses `{name}`, a {type(value).__name__}, which has no stable "
        "digest: make it inside the function, or hand over what it is made from"
    )


def _label(result: Any, arguments: Mapping[str, Any]) -> pd.DataFrame:
    """A result as a table, with the arguments as columns."""
    table = result if isinstance(result, pd.DataFrame) else pd.DataFrame([result])
    if table.empty:
        raise ValueError("a cached function returned no rows, which could not be told from none")
    labels: dict[str, Any] = {}
    for name, value in arguments.items():
        column, label = ("seed", value.seed) if hasattr(value, "cache_key") else (name, value)
        if isinstance(label, list | tuple | range):
            label = "+".join(map(str, label))
        labels[f"{name}_{column}" if column in labels else column] = label
    if shared := [name for name in labels if name in table]:
        raise ValueError(f"the result has columns with the names of arguments: {', '.join(shared)}")
    return table.reset_index(drop=True).assign(**labels)


def _find(path: Path, keys: Mapping[str, str], older: bool = False) -> pd.DataFrame | None:
    """Rows of a call; those of `older` code too, where the function itself is the same."""
    table, columns = _load(path), KEYS[:2] if older else KEYS
    rows = table[(table[columns] == pd.Series(keys)[columns]).all(axis=1)]
    if rows.empty:
        return None
    name = path.parent.name
    if (rows["_code"] != keys["_code"]).any() and name not in _ANNOUNCED:
        _ANNOUNCED.add(name)
        print(f"{name}: rows measured by an earlier state of actlib", file=sys.stderr)
    return rows.drop(columns=KEYS).reset_index(drop=True)


def _load(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame(columns=KEYS)
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_ino, state.st_size)


@functools.lru_cache(maxsize=64)
def _read(path: Path, *_state: int) -> pd.DataFrame:
    with path.open("rb") as file:  # once, since another process may put a new one there
        return pd.read_parquet(file)


def _add(path: Path, keys: Mapping[str, str], rows: pd.DataFrame) -> None:
    with locked(path.with_name(f".{path.name}.lock"), f"writing {path.name}"):
        table, before = rows.assign(**keys), _load(path)
        # of the same code alone: rows of another are never read again
        same = (before[KEYS[1:]] == pd.Series(keys)[KEYS[1:]]).all(axis=1)
        before = before[same & (before["_setting"] != keys["_setting"])]
        table = pd.concat([before, table], ignore_index=True) if len(before) else table
        write_rows(table, path)


def write_rows(table: pd.DataFrame, path: Path) -> None:
    """Write a file of rows whole; the bytes of floats lie apart, which halves its size."""
    floats = table.select_dtypes("float").columns.tolist()
    repeated = [name for name in table if name not in floats]
    coding: Any = {"use_byte_stream_split": floats, "use_dictionary": repeated}
    with atomic_file(path) as unfinished:
        table.to_parquet(unfinished, index=False, compression="zstd", **coding)
