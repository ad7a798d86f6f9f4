"""What the numbers were measured on: processor, memory, graphics card, versions, commit, date.

Standard library only.
"""

import datetime
import os
import subprocess
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("cpu", "cores", "memory_gib", "gpu", "torch", "transformers", "peer", "commit", "date")
"""Columns that every table of results ends with."""


def facts() -> dict[str, str]:
    """The machine, commit and date, by the names of `COLUMNS`; versions come from each side."""
    return {
        "cpu": _cpu(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory_gib": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f}",
        "gpu": "none",
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def versions(*packages: str) -> dict[str, str]:
    """Installed versions by package; "" where there is none."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = ""
    return found


def named_versions(*packages: str) -> str:
    """The same in one line, packages that are not installed left out."""
    return ", ".join(
        f"{name} {version}" for name, version in versions(*packages).items() if version
    )


def commit() -> str:
    """Short hash of the checkout's commit; "+" follows where code of the package was changed."""
    try:
        found = _git("rev-parse", "--short=10", "HEAD")
        changed = _git("status", "--porcelain", "--", "actlib", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found + ("+" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return os.uname().machine
