"""Mutation testing: how many small changes to the core do its own tests notice?

python tools/mutants.py artifacts/mutants            # make the copy, mutate it, run the tests
python tools/mutants.py artifacts/mutants --survivors   # only list what no test noticed

Channels, masks and transfer are mutated by mutmut, which changes one expression at a time and runs
those modules' tests. It leaves decorated functions alone, so in the copy properties and context
managers are decorated by assignment: ``count = property(count)``.
"""

import argparse
import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("channels", "masks", "transfer")
_COPIED = ("actlib", "tests", "configs", "data")
_ASSIGNED = ("property", "classmethod", "contextmanager")


def main() -> int:
    """Make a copy of the package, mutate it there, and say what became of the mutants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the mutated copy; made anew")
    parser.add_argument("--survivors", action="store_true", help="list those of the last run")
    given = parser.parse_args()
    folder = given.folder.resolve()
    if not given.survivors:
        _copy(folder)
        _mutmut(folder, "run", "--max-children", os.environ.get("CORES", "1"))
    _mutmut(folder, "export-cicd-stats")
    print((folder / "mutants" / "mutmut-cicd-stats.json").read_text(encoding="utf-8"))
    return _mutmut(folder, "results")


def undecorated(source: str) -> str:
    """The source with properties and context managers decorated by an assignment after them."""
    lines = source.splitlines()
    for node in reversed([each for each in ast.walk(ast.parse(source)) if _is_assigned(each)]):
        indent, name = " " * node.col_offset, node.decorator_list[0].id
        lines.insert(node.end_lineno, f"{indent}{node.name} = {name}({node.name})")
        del lines[node.decorator_list[0].lineno - 1]
    return "\n".join(lines) + "\n"


def _is_assigned(node: ast.AST) -> bool:
    if not isinstance(node, ast.FunctionDef) or len(node.decorator_list) != 1:
        return False
    decorator = node.decorator_list[0]
    return isinstance(decorator, ast.Name) and decorator.id in _ASSIGNED


def _copy(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for part in _COPIED:
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    for module in MODULES:
        path = folder / "actlib" / f"{module}.py"
        path.write_text(undecorated(path.read_text(encoding="utf-8")), encoding="utf-8")
    lists = {
        "source_paths": ["actlib"],
        "only_mutate": [f"actlib/{module}.py" for module in MODULES],
        "also_copy": [part for part in _COPIED if part not in ("actlib", "tests")],
        "pytest_add_cli_args_test_selection": [f"tests/test_{module}.py" for module in MODULES],
    }
    settings = [f"{key} =\n    " + "\n    ".join(values) for key, values in lists.items()]
    (folder / "setup.cfg").write_text("[mutmut]\n" + "\n".join(settings) + "\n", encoding="utf-8")


def _mutmut(folder: Path, *words: str) -> int:
    # mutmut forks after the tests have run once; threads of PyTorch would not survive that.
    threads = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "mutmut", *words]
    return subprocess.run(command, cwd=folder, env={**os.environ, **threads}).returncode


if __name__ == "__main__":
    sys.exit(main())
