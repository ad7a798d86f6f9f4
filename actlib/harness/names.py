"""From names and patterns to tasks: local ones first, then the harness's own.

The harness's index of its thousands of tasks takes seconds to read, so it is read once, and only
where a name is not that of a local task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from actlib.harness.local_tasks import write_tasks


@dataclass(frozen=True, eq=False)
class Chosen:
    """Tasks to run.

    Attributes:
        names: what the harness is to run, each task once; local ones as paths of their YAML.
        of_the_hub: those of them that are not of the local files.
        manager: the harness's `TaskManager` that knows them.
    """

    names: list[str]
    of_the_hub: list[str]
    manager: Any  # the harness is optional and has no types


def choose(
    asked: Sequence[str],
    data: str | Path | Sequence[str | Path] | None,
    folder: str | Path,
    *,
    chat: bool = False,
) -> Chosen:
    """Tasks that names, patterns and paths of YAML files stand for.

    Args:
        asked: names, patterns with `*`, `?` or `[]`, or paths of the user's own YAML tasks.
        data: folders of the local tasks, as in `actlib.harness.local_tasks`.
        folder: where their YAML is written; it must outlive the choice's use.
        chat: as `actlib.harness.local_tasks`.

    Raises:
        ValueError: nothing is asked for, or a name or pattern stands for no task; the sentence
            names near ones.
    """
    if not asked:
        raise ValueError("expected at least one task, got none")
    local = write_tasks(data, folder, chat=chat)
    files = [name for name in asked if name.endswith((".yaml", ".yml")) and Path(name).is_file()]
    rest = [name for name in asked if name not in files]
    own_alone = all(any(fnmatchcase(known, name) for known in local) for name in rest)
    manager = _manager(not own_alone)
    known = [*local, *manager.all_tasks]
    names = {match: None for name in rest for match in _matches(name, known, data is None)}
    theirs = _outermost([name for name in names if name not in local], manager.task_index)
    ours = [str(Path(folder, f"{name}.yaml")) for name in names if name in local]
    return Chosen([*ours, *theirs, *files], [*theirs, *files], manager)


@cache
def _manager(all_of_the_harness: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=all_of_the_harness)


def _matches(name: str, known: Sequence[str], without_data: bool) -> list[str]:
    found = [match for match in known if fnmatchcase(match, name)]
    if not found:
        near = get_close_matches(name, known, n=4)
        hint = f"; near it: {', '.join(near)}" if near else ""
        folders = "; tasks of local files need data=FOLDER" if without_data else ""
        raise ValueError(f"no task is called {name!r}{hint}{folders}")
    return found


def _outermost(names: Sequence[str], index: Mapping) -> list[str]:
    """Names without those that a group or tag among them holds; the harness refuses doubles."""
    held = {inner for name in names for inner in _members(name, index)}
    return [name for name in names if name not in held]


def _members(name: str, index: Mapping) -> set[str]:
    """Names of all tasks, groups and tags inside a group or tag."""
    entry = index.get(name)
    if entry is None:
        return set()
    listed = (entry.cfg or {}).get("task") if (entry.cfg or {}).get("group") else None
    inner = set(entry.tags) if entry.cfg is None else set()
    for member in listed if isinstance(listed, list) else []:
        inner.add(member if isinstance(member, str) else member.get("task", member.get("group")))
    inner.discard(name)
    return inner.union(*(_members(member, index) for member in inner if isinstance(member, str)))
