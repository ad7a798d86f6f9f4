"""What results were made from, in `provenance.json` beside them.

    write_provenance(figures, "notebook05", {"donor": folder, "questions": data}, seeds=[0, 1])

adds an entry: when, by which versions and commit, on what device, with which seeds, and the hashes
of models and data. It holds no path of the machine.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import actlib
from actlib.files import write_text
from actlib.study.locking import locked

FILE = "provenance.json"
PACKAGES = "torch transformers tokenizers safetensors peft numpy pandas".split()
CODE = "actlib notebooks configs data Snakefile pyproject.toml requirements.lock :!data/items"
# What is said about a folder is no content of it.
ABOUT = re.compile(r"\..*|README\.md|built\.json|provenance\.json")


def write_provenance(
    folder: Path, name: str, inputs: Mapping[str, Path | str], **settings: Any
) -> None:
    """Add or replace an entry of ``folder/provenance.json``; see `provenance`."""
    path, entry = folder / FILE, provenance(inputs, **settings)
    with locked(folder / f".{FILE}.lock", f"writing {path}"):
        entries = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        entries = dict(sorted({**entries, name: entry}.items()))
        write_text(path, json.dumps(entries, indent=1) + "\n")


def provenance(inputs: Mapping[str, Path | str], **settings: Any) -> dict[str, Any]:
    """When, by what and from what something is made.

    Args:
        inputs: role -> file, folder, or name of a model on the Hub (which gets no hash).
        **settings: what else decides the results, such as ``seeds``.
    """
    versions = {"python": sys.version.split()[0], "actlib": actlib.__version__}
    versions |= {package: version(package) for package in PACKAGES}
    hashes = {}
    for role, source in inputs.items():
        name = Path(source).name if Path(source).exists() else str(source)
        hashes[role] = {"name": name, "sha256": digest_of(Path(source))}
    entry = {"created": datetime.now(UTC).isoformat(timespec="seconds"), "versions": versions}
    return entry | {"commit": commit(), "device": device(), **settings, "inputs": hashes}


@lru_cache
def commit() -> str | None:
    """Commit of this clone, ending in " with changes" where it differs; None where it is none."""
    head, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", *CODE.split())
    return f"{head}{' with changes' if changed else ''}" if head else None


def _git(*arguments: str) -> str | None:
    """What git says of this clone, not of a repository around an installed wheel, or of a hook."""
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "--git-dir", ".git", "--work-tree", ".", *arguments]
    environment = {key: text for key, text in os.environ.items() if not key.startswith("GIT_")}
    try:
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    except OSError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


def device() -> str:
    """The device that computes, as far as this process uses one: a GPU's name, or the CPU's."""
    torch, info = sys.modules.get("torch"), Path("/proc/cpuinfo")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    match = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.is_file() else None
    threads = f", {torch.get_num_threads()} threads" if torch is not None else ""
    return f"CPU {match[1].strip() if match else 'of unknown kind'}{threads}"


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, or of a folder's files but for cards, provenance and hidden ones."""
    if path.is_file():
        return _file_digest(path.resolve(), path.stat().st_mtime_ns, path.stat().st_size)
    parts = {file: file.relative_to(path).parts for file in sorted(path.rglob("*"))}
    rows = [
        f"{'/'.join(names)} {digest_of(file)}\n"
        for file, names in parts.items()
        if file.is_file() and not any(map(ABOUT.fullmatch, names))
    ]
    return hashlib.sha256("".join(rows).encode()).hexdigest() if path.is_dir() else None


@lru_cache(maxsize=4096)
def _file_digest(path: Path, _changed: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
