"""Writes the hashes of every locked package into requirements.lock, and what follows from it.

python tools/lock.py      # after a pin NAME==VERSION was added, changed or removed by hand

That is environment.yml, the versions for conda; a new package is named in docs/licenses.md by hand.
pip says which file it would take for each Python, and the hash that the index gives for it; nothing
is installed. So the lock holds for Linux on x86-64; for another machine run this there. torch is in
requirements-torch.lock without a hash: one version of it is served as different builds, for CPUs
and for CUDA.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK, TORCH = ROOT / "requirements.lock", ROOT / "requirements-torch.lock"
PYTHONS = ("3.11", "3.12", "3.13")
PIN = re.compile(r"([\w.-]+)==([^\s;\\]+)")
HEAD = """\
# Every package of the study and of its development tools but torch, pinned with the hashes of the
# files that pip takes on Linux (x86-64) for Python {pythons}. It is complete, so that
# it is installed with --no-deps. After a change of a pin: python tools/lock.py
"""
ENVIRONMENT = """\
# conda env create --file environment.yml && conda activate actlib
#
# The versions of requirements.lock without its hashes: pip checks hashes for all that one command
# installs, or for nothing, and torch has none. Written by tools/lock.py.
name: actlib
channels:
  - conda-forge
dependencies:
  - python=3.11
  - pip
  - pip:
"""


def main() -> None:
    """Ask pip for the hashes, Python by Python, and write the lock and what follows from it."""
    pins = pinned(LOCK.read_text(encoding="utf-8"))
    digests = {name: {file: digest} for name, (file, digest) in chosen(pins).items()}
    # One wheel serves all Pythons if its name says so, and a source package always does.
    several = [
        pin
        for pin in pins
        if (file := next(iter(digests[name_of(pin)]))).endswith(".whl") and "-none-any" not in file
    ]
    for python in PYTHONS:
        for name, (file, digest) in chosen(several, python).items():
            digests[name][file] = digest
    LOCK.write_text(text(pins, digests), encoding="utf-8")
    every = sorted([*pins, *pinned(TORCH.read_text(encoding="utf-8"))], key=str.lower)
    versions = "".join(f"      - {each}\n" for each in [*every, "-e ."])
    (ROOT / "environment.yml").write_text(ENVIRONMENT + versions, encoding="utf-8")
    print(f"{LOCK.name}: {len(pins)} packages, {sum(map(len, digests.values()))} files")


def pinned(lock: str) -> list[str]:
    """The pins of a lock, ``NAME==VERSION``, whether or not they have hashes."""
    lines = (line for line in lock.splitlines() if not line.startswith(("#", " ")))
    return [match[0] for line in lines if (match := PIN.match(line))]


def name_of(pin: str) -> str:
    """A package's name as the index normalizes it."""
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def text(pins: Iterable[str], digests: dict[str, dict[str, str]]) -> str:
    """The lock: a line for each pin and one for each different hash."""
    pythons = f"{', '.join(PYTHONS[:-1])} and {PYTHONS[-1]}"
    parts = [HEAD.format(pythons=pythons)]
    for pin in sorted(pins, key=str.lower):
        hashes = sorted(set(digests[name_of(pin)].values()))
        parts.append(" \\\n".join([pin, *(f"    --hash=sha256:{each}" for each in hashes)]) + "\n")
    return "".join(parts)


def chosen(pins: Iterable[str], python: str = "") -> dict[str, tuple[str, str]]:
    """File and SHA-256 of each pin by its name, as pip would take it for a Python.

    Args:
        pins: what to look for.
        python: for which Python to look for wheels; for this one, and source packages too, if "".
    """
    with tempfile.TemporaryDirectory() as folder:
        pin_file, report = Path(folder, "pins.txt"), Path(folder, "report.json")
        pin_file.write_text("\n".join(pins), encoding="utf-8")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
        command += ["--ignore-installed", "--report", str(report), "--requirement", str(pin_file)]
        if python:
            command += ["--python-version", python, "--only-binary", ":all:", "--target", folder]
        subprocess.run(command, check=True)
        installs = json.loads(report.read_text(encoding="utf-8"))["install"]
    return {
        name_of(each["metadata"]["name"]): (
            each["download_info"]["url"].rpartition("/")[2],
            each["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for each in installs
    }


if __name__ == "__main__":
    main()
