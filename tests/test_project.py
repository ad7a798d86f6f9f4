"""What the project says of itself in several files agrees."""

import json
import re
import tomllib

import pandas as pd
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from programs import python

import actlib
from actlib.study.presets import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
EXTRAS = PROJECT["optional-dependencies"]
ASKED = sorted({*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)})


def _text(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def locked():
    text = _text("requirements.lock") + _text("requirements-torch.lock")
    lines = [line for line in text.splitlines() if line[:1] not in ("#", " ")]
    pins = dict(re.match(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines)
    named = {canonicalize_name(name): version for name, version in pins.items()}
    assert len(named) == len(lines)
    return named


@pytest.mark.parametrize("asked", [*ASKED, *SETTINGS["build-system"]["requires"]])
def test_the_lock_pins_what_pyproject_asks_for(asked, locked):
    requirement = Requirement(asked)
    assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_conda_installs_the_locked_versions_and_the_package(locked):
    *dependencies, section = yaml.safe_load(_text("environment.yml"))["dependencies"]
    (python,) = [part.partition("=")[2] for part in dependencies if part.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")
    *pins, package = section["pip"]
    assert "pip" in dependencies and package == "-e ."
    pairs = (pin.split("==") for pin in pins)
    assert {canonicalize_name(name): version for name, version in pairs} == locked


def test_every_locked_package_has_its_license_listed_once(locked):
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \|$", _text("docs/licenses.md"), re.MULTILINE)
    assert sorted(", ".join(rows[2:]).split(", ")) == sorted(locked)


# What is asked for by name and imported by none of our files: programs, their plugins, and types.
UNIMPORTED = set(
    """gguf ipykernel jupyterlab mypy myst-nb pandas-stubs pre-commit pyarrow pytest-cov ruff
    pytest-xdist snakemake snakemake-executor-plugin-slurm sphinx-book-theme types-pyyaml""".split()
)
MODULES = {"pyyaml": "yaml", "scikit-learn": "sklearn"}


def test_every_dependency_is_imported():
    folders = [ROOT / name for name in ("actlib", "notebooks", "tools", "tests", "data", "docs")]
    paths = [path for folder in folders for path in folder.rglob("*")]
    code = [path.read_text("utf-8") for path in paths if path.suffix in (".py", ".ipynb")]
    imported = set(re.findall(r'^[\s"]*(?:import|from) (\w+)', "\n".join(code), re.MULTILINE))
    names = {canonicalize_name(Requirement(each).name) for each in ASKED} - UNIMPORTED
    assert not {MODULES.get(name, name.replace("-", "_")) for name in names} - imported


def test_every_file_names_the_same_version():
    assert actlib.__version__ == PROJECT["version"]
    assert yaml.safe_load(_text("CITATION.cff"))["version"] == PROJECT["version"]
    assert f"## {PROJECT['version']}" in _text("CHANGELOG.md")


EQUAL = "random_equal_difference"


def _interval(row):
    return "{:.2f} [{:.2f}, {:.2f}]".format(*row.astype(float).round(2))


def test_sentences_on_smol_quote_its_tables():
    page, readme = (_text(name).replace("−", "-") for name in ("docs/findings.md", "README.md"))
    prose = page[page.index("training seeds of a real model") : page.index("## Few questions")]
    prose, readme = (" ".join(text.split()) for text in (prose, readme))
    table = pd.read_csv(ROOT / "figures/smol/tab08_budget.csv").set_index("method")
    share = table.loc[table["panel"].str.startswith("Recovered"), ["mean", "low", "high"]]
    for ending in ("", "_absolute", "_by_size", "_per_parameter", "_per_parameter_retention"):
        assert _interval(share.loc[f"attribution{ending}"]) in prose, ending
    for method in ("interpolation", "attribution_per_parameter"):
        assert _interval(share.loc[method]) in readme, method
    keeps = table.loc[table["panel"].str.startswith("Exact"), "mean"]
    told = f"{keeps['attribution_per_parameter']:.2f} of the retained questions are answered"
    assert told in prose and told in readme
    table = pd.read_csv(ROOT / "figures/smol/tab02_interventions.csv")
    table = table[(table["how"] == "patch") & (table["ranking"] == "module")].set_index("method")
    act, other = (f"{table.loc[each, 'recovery']:.2f}" for each in ("act_module", EQUAL))
    assert f"bring back {act} of the NLL" in prose and f"bring back {act} of the NLL" in readme
    assert f"summed difference {other}" in prose and f"same difference {other}" in readme
    table = pd.read_csv(ROOT / "figures/smol/tab05_above.csv").set_index(["measure", "method"])
    table = table.loc[[("recovered share", "act_module")]].set_index("top_percent")
    assert _interval(table.loc[50, ["above", "low", "high"]]) in prose
    table = pd.read_csv(ROOT / "figures/smol/tab08_budget_ahead.csv").set_index("method")
    for method in ("attribution_per_parameter", "attribution_per_parameter_retention"):
        assert _interval(table.loc[method, ["difference", "low", "high"]]) in prose, method
    seeds = pd.read_csv(ROOT / "figures/smol/tab00_conditions.csv")
    assert (seeds["conditions_met"] == 4).all() and "meets all four entry conditions" in prose
    count = ["three", "four", "five", "six", "seven", "eight"][len(seeds) - 3]
    assert f"{count} of eight planned seeds" in prose.lower()
    assert f"{count} of eight planned seeds" in readme


def test_the_verdicts_of_the_readme_are_those_of_the_kept_table():
    readme = _text("README.md").replace("−", "-")
    table = pd.read_csv(ROOT / "figures/tiny/tab07_claims.csv")
    rows = {line.split(" | ")[0].strip("| "): line for line in readme.splitlines() if "|" in line}
    tested = table[table["verdict"] != "not tested"]
    assert len(tested) == 8
    for claim in tested.itertuples():
        (line,) = [line for title, line in rows.items() if title and claim.title.startswith(title)]
        digits = 3 if claim.margin < 0.1 else 2
        numbers = "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(
            claim.estimate, claim.low, claim.high, digits
        )
        assert (numbers if claim.estimate else "both at the floor") in line, claim.title
        assert line.endswith(f"| {claim.verdict} |"), claim.title


def test_the_findings_are_those_of_the_kept_tables():
    python("tools/write_findings.py", "--check")


# words that mean something else, or nothing, to a reader of the field
AVOIDED = r"""\b(?:told|judg\w+|anew|hangs? on|of (?:one's|your) own|(?:not )?distinguishable from
|arm is ahead|stands beside|cell of the sweep)\b""".replace("\n", "")


def test_prose_is_in_the_words_of_the_field():
    """Of pages, text cells and docstrings, but not of what was written of the first study."""
    prose = {}
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("data/*.md")]:
        if path.name not in ("first_study.md", "LOG.md"):
            prose[path] = path.read_text("utf-8")
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        prose[path] = "\n".join("".join(c["source"]) for c in cells if "outputs" not in c)
    for path in ROOT.glob("actlib/**/*.py"):
        prose[path] = "\n".join(re.findall(r'""".*?"""', path.read_text("utf-8"), re.DOTALL))
    avoided = {path: re.findall(AVOIDED, text, re.IGNORECASE) for path, text in prose.items()}
    assert not {path: words for path, words in avoided.items() if words}
