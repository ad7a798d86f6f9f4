"""The way from a result back to its inputs, by the records beside them.

    for line in lines(trace(Path("mask.safetensors"))):
        print(line)

Records are those of `actlib.folders.records`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actlib.folders.records import digest_of, record_of


def trace(result: Path) -> dict[str, Any]:
    """A result's record, with those of its inputs below it, down to what has none.

    Returns:
        path, sha256 (now), state (``unchanged``, ``changed`` since the record, ``missing``, or
        ``not kept`` for what was no file of this machine), record (without inputs), and inputs: the
        same of each, with its role.

    Raises:
        ValueError: there is no such file, or nothing says how it was made.
    """
    if not result.exists():
        raise ValueError(f"there is no file or folder {result}; look for a slip in the path")
    found = record_of(result)
    if found is None:
        raise ValueError(f"no record tells how {result} was made: make it anew to have one")
    known = found[1]["results"].get(os.path.relpath(os.path.abspath(result), found[0].parent))
    return _node(result, known, {})


def lines(node: Mapping[str, Any], depth: int = 0) -> list[str]:
    """A trace for people: one line a result or input, indented below what it went into."""
    role = f"{node['role']}: " if "role" in node else ""
    by_time = str(node["sha256"]).startswith("stat:")
    hashed = " by sizes and times" if by_time else f" {(node['sha256'] or '')[:12]}".rstrip()
    text = f"{'  ' * depth}{role}{node['path']}{hashed} ({node['state']})"
    if node.get("above"):
        return [f"{text}, see above"]
    if node["record"]:
        text += f"; {_told(node['record'])}"
    return [text, *(line for each in node["inputs"] for line in lines(each, depth + 1))]


def broken(node: Mapping[str, Any]) -> list[str]:
    """Paths in a trace that are missing, or changed since they were recorded."""
    own = [node["path"]] if node["state"] in ("missing", "changed") else []
    below = [path for each in node["inputs"] for path in broken(each)]
    return list(dict.fromkeys(own + below))


def _node(path: Path, known: str | None, seen: dict[str, dict], role: str = "") -> dict[str, Any]:
    place = os.path.abspath(path)
    now = digest_of(Path(place), quick=str(known).startswith("stat:"))
    node: dict[str, Any] = {"role": role} if role else {}
    node |= {"path": os.path.relpath(place), "sha256": now or known, "record": None, "inputs": []}
    states = {None: "missing", known: "unchanged"}
    node["state"] = states.get(now, "changed" if known else "there")
    if place in seen:
        return node | {"above": True}
    seen[place] = node
    found = record_of(Path(place)) if now else None
    if found:
        content = dict(found[1])
        listed = content.pop("inputs", [])
        node["record"] = content | {"file": os.path.relpath(found[0])}
        node["inputs"] = [_below(found[0].parent, each, seen) for each in listed]
    return node


def _below(folder: Path, each: Mapping[str, Any], seen: dict[str, dict]) -> dict[str, Any]:
    if "path" in each:
        return _node(folder / each["path"], each["sha256"], seen, each["role"])
    node = {"role": each["role"], "path": each["name"], "sha256": None, "state": "not kept"}
    return node | {"record": None, "inputs": []}


def _told(record: Mapping[str, Any]) -> str:
    created = record.get("made", {})
    git, torch = created.get("git", {}), created.get("versions", {}).get("torch")
    parts = [f"made {created.get('created', 'at an unknown time')}"]
    if "seconds" in created:
        parts.append(f"in {created['seconds']:g} s")
    parts += [f"{key} {record[key]}" for key in ("seed", "seeds") if key in record]
    if git.get("commit"):
        dirty = " with changes" if git.get("dirty") else ""
        parts.append(f"commit {git['commit'][:10]}{dirty}")
    if torch:
        parts.append(f"torch {torch}")
    if "device" in created:
        parts.append(created["device"])
    return ", ".join(parts)
