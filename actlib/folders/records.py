"""What each result was made from, in a small file beside it.

    write_record(Path("mask.safetensors.record.json"), ["mask.safetensors"], {"scores": scores})

A record names its results and inputs with their hashes, the versions, the seed, the commit and
whether the code differed from it, the device and the time it took. It lies beside the results, not
in them: two runs give the same bytes of a table, and never take the same time. Paths in it are
relative to its own folder. Models that the study builds have theirs in ``built.json``.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from actlib.files import write_text
from actlib.folders.locks import held

ROOT = Path(__file__).resolve().parents[2]
ENDING = ".record.json"
BUILT = "built.json"
_PACKAGES = "actlib torch transformers tokenizers safetensors peft numpy pandas".split()
_CODE = "actlib notebooks configs data Snakefile pyproject.toml requirements.lock :!data/sweeps"
_NOT_CONTENT = re.compile(rf"\..*|README\.md|{re.escape(BUILT)}|.*{re.escape(ENDING)}")


def made(seconds: float | None = None) -> dict[str, Any]:
    """When, by what versions and code, and on what device something was made.

    Args:
        seconds: that it took.
    """
    told: dict[str, Any] = {"created": datetime.now(UTC).isoformat(timespec="seconds")}
    told |= {"seconds": round(seconds, 1)} if seconds is not None else {}
    return told | {"versions": versions(), "git": dict(git_state()), "device": device()}


def versions() -> dict[str, str]:
    """Versions of Python, this package and those that its results depend on."""
    found = {"python": sys.version.split()[0]}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@lru_cache
def git_state() -> tuple[tuple[str, str | bool | None], ...]:
    """The commit of the code, and whether the code differs from it; None where that is unknown.

    Results that lie in the project, such as figures, do not count as code.
    """
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", *_CODE.split()) if commit else None
    return (("commit", commit), ("dirty", None if changes is None else bool(changes)))


def device() -> str:
    """The device that computes, as far as this process uses one: a GPU's name, or the CPU's."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    threads = f", {torch.get_num_threads()} threads" if torch is not None else ""
    return f"CPU {found[1].strip() if found else 'of unknown kind'}{threads}"


def digest_of(path: Path, quick: bool = False) -> str | None:
    """SHA-256 of a file, or of the names and contents of a folder; None if there is nothing.

    Of a folder, what is written about it does not count: cards, records, hidden files.

    Args:
        path: file or folder.
        quick: of a folder, hash sizes and times of its files in place of their contents; such a
            digest begins with ``stat:``. For steps that move gigabytes in the time that hashing
            them would take.
    """
    if path.is_file():
        return _of_file(*_stamp(path))
    if not path.is_dir():
        return None
    names = {file: file.relative_to(path).parts for file in sorted(path.rglob("*"))}
    files = [
        file
        for file, parts in names.items()
        if file.is_file() and not any(map(_NOT_CONTENT.fullmatch, parts))
    ]
    told = hashlib.sha256()
    if quick:
        stamps = (f"{'/'.join(names[file])} {_stamp(file)[1:]}\n" for file in files)
        return f"stat:{hashlib.sha256(''.join(stamps).encode()).hexdigest()}"
    with ThreadPoolExecutor() as pool:  # hashing leaves the interpreter to others meanwhile
        hashes = pool.map(lambda file: _of_file(*_stamp(file)), files)
        for file, each in zip(files, hashes, strict=True):
            told.update(f"{'/'.join(names[file])} {each}\n".encode())
    return told.hexdigest()


def write_record(
    record: Path,
    results: Iterable[Path],
    inputs: Mapping[str, Path | str],
    *,
    seconds: float | None = None,
    quick: bool = False,
    **told: Any,
) -> None:
    """Write the record of results.

    Args:
        record: its file, in the folder of the results.
        results: files or folders in the record's folder.
        inputs: role -> file or folder, or the name of a model on the Hub.
        seconds: that they took to make.
        quick: see `digest_of`.
        **told: more that decides them, such as ``seed``, ``data_sha256``, ``settings``.
    """
    content = content_of(record.parent, results, inputs, seconds=seconds, quick=quick, **told)
    write_text(record, json.dumps(content, indent=1) + "\n")


def record_beside(result: str | Path, inputs: Mapping[str, Path | str], **told: Any) -> None:
    """Write the record of one result, ``RESULT.record.json``, by the process that just made it.

    Args:
        result: file or folder.
        inputs: as in `write_record`.
        **told: as in `write_record`.
    """
    path = Path(result)
    record = path.with_name(path.name + ENDING)
    write_record(record, [path], inputs, seconds=time.monotonic() - _BEGAN, **told)


def content_of(
    folder: Path,
    results: Iterable[Path],
    inputs: Mapping[str, Path | str],
    *,
    seconds: float | None = None,
    quick: bool = False,
    **told: Any,
) -> dict[str, Any]:
    """What `write_record` writes, for a record that lies in ``folder``."""
    hashes = {os.path.relpath(path, folder): digest_of(Path(path), quick) for path in results}
    listed = [_input(role, place, folder, quick) for role, place in inputs.items()]
    return {"results": hashes, "inputs": listed, **told, "made": made(seconds)}


def record_of(result: Path) -> tuple[Path, dict[str, Any]] | None:
    """The record of a result, and where it lies; None if it has none."""
    result = Path(os.path.abspath(result))  # a link's own folder has the record
    own = result.with_name(f"{result.name}{ENDING}")
    candidates = [result / BUILT, *result.glob(f"*{ENDING}")] if result.is_dir() else []
    candidates += [own, result.parent / BUILT, *sorted(result.parent.glob(f"*{ENDING}"))]
    for path in candidates:
        content = read_json(path) if path.is_file() else {}
        inside = path.parent == result and "results" in content
        if inside or os.path.relpath(result, path.parent) in content.get("results", {}):
            return path, content
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Content of a record.

    Raises:
        ValueError: it is no JSON with keys.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no record of results: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is no record of results: expected keys with values")
    return content


_SOURCES: dict[Path, Callable[[], tuple[Mapping[str, Path | str], Mapping[str, Any]]]] = {}
_BEGAN = time.monotonic()


def declare(folder: Path, told: Callable[[], tuple[Mapping, Mapping]]) -> None:
    """Say what the tables and figures of a folder are made from, for `note` to record.

    Args:
        folder: of the results.
        told: gives their inputs so far, by role, and what else decides them.
    """
    _SOURCES[folder.resolve()] = told


def note(paths: Iterable[Path]) -> None:
    """Record files just written to one folder, if it was declared what they are made from.

    Files of one notebook, ``fig05_areas.csv`` and ``tab05_areas.csv``, share a record.
    """
    paths = [Path(path) for path in paths]
    folder = paths[0].parent
    if folder.resolve() not in _SOURCES:
        return
    inputs, told = _SOURCES[folder.resolve()]()
    number = re.match(r"[a-z]+(\d\d)_", paths[0].name)
    record = folder / (f"notebook{number[1]}" if number else paths[0].stem)
    record = record.with_name(record.name + ENDING)
    with held(record.with_name(f".{record.name}.lock"), "writing a record"):
        earlier = read_json(record).get("results", {}) if record.is_file() else {}
        kept = [folder / name for name in earlier if (folder / name).is_file()]
        results = dict.fromkeys([*kept, *paths])
        write_record(record, results, inputs, seconds=time.monotonic() - _BEGAN, **told)


def _input(role: str, place: Path | str, folder: Path, quick: bool) -> dict[str, Any]:
    digest = digest_of(Path(place), quick)
    if digest is None and not isinstance(place, Path):
        return {"role": role, "name": place}
    return {"role": role, "path": os.path.relpath(place, folder), "sha256": digest}


def _git(*words: str) -> str | None:
    try:
        ran = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def _stamp(path: Path) -> tuple[str, int, int]:
    found = path.stat()
    return str(path.resolve()), found.st_mtime_ns, found.st_size


@lru_cache(maxsize=4096)
def _of_file(path: str, _changed: int, _size: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
