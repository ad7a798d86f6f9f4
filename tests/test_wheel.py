"""The wheel alone: installed beside what it depends on, and used outside the repository.

It is built from the source archive, as an index would have it. Nothing is downloaded: the
environment holds the wheel and links to the locked packages that its dependencies need, without any
extra.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
USE = """
from importlib.util import find_spec
import torch, transformers
import actlib

assert "site-packages" in actlib.__file__
extras = "datasets matplotlib scipy sklearn papermill snakemake lm_eval numba"
assert not [name for name in extras.split() if find_spec(name)]
sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "vocab_size": 61}
config = transformers.LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
torch.manual_seed(0)
donor, target = (transformers.LlamaForCausalLM(config).eval() for _ in range(2))
donor.save_pretrained("donor")
target.save_pretrained("target")
ids = torch.randint(3, 61, (4, 9))
batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
batch["answer_mask"] = (torch.arange(9) > 5).expand(4, 9).long()

mask = actlib.record_differences(donor, target, [batch]).top(40.0)  # equal norms come first
actlib.transfer_checkpoint("target", "donor", mask, "moved", scale=0.4)
actlib.make_patch("target", "donor", mask, "patch.safetensors", scale=0.4)
load = transformers.LlamaForCausalLM.from_pretrained
moved, patched = load("moved"), load("target")
actlib.apply_patch(patched, "patch.safetensors")
actlib.transfer_(target, donor, mask, scale=0.4)
for model, same in ((moved, True), (patched, True), (load("target"), False)):
    assert all(map(torch.equal, target.parameters(), model.parameters())) == same
"""


def needed(names, found=None):
    """Locked distributions that some need, themselves included, without extras."""
    found = {} if found is None else found
    for name in map(canonicalize_name, names):
        try:
            found.setdefault(name, distribution(name))
        except PackageNotFoundError:
            continue  # of another platform
        for each in map(Requirement, found[name].requires or []):
            applies = not each.marker or each.marker.evaluate({"extra": ""})
            if applies and canonicalize_name(each.name) not in found:
                needed([each.name], found)
    return found


def asked_by(site):
    """What the installed wheel depends on, with the extras as markers."""
    (wheel,) = distributions(name="actlib", path=[str(site)])
    return list(map(Requirement, wheel.requires))


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folder of the programs of an environment that holds the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = folder / "source"  # a copy, so that no build is left in the repository
    shutil.copytree(ROOT / "actlib", source / "actlib")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    archive = "from setuptools.build_meta import build_sdist; build_sdist('..')"  # as make dist
    subprocess.run([sys.executable, "-c", archive], cwd=source, check=True, capture_output=True)
    (archive,) = folder.glob("*.tar.gz")
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, archive]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (site,) = environment.glob("lib/python3.*/site-packages")
    install = ["install", "--ignore-installed", "--no-deps", "--no-index", wheel]  # see PYTHONPATH
    subprocess.run([*pip, "--python", environment / "bin/python", *install], check=True)
    names = [each.name for each in asked_by(site) if not each.marker]
    for package in needed(names).values():
        for top in {file.parts[0] for file in package.files} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
    return environment / "bin"


def run(installed, *words):
    """What a program of the environment prints, out of reach of the repository."""
    hidden = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    command, place = [installed / words[0], *words[1:]], installed.parent.parent
    done = subprocess.run(command, cwd=place, env=hidden, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_all_files_of_the_package_and_its_extras(installed):
    (site,) = installed.parent.glob("lib/python3.*/site-packages")
    packed = {path.relative_to(site) for path in (site / "actlib").rglob("*") if path.is_file()}
    kinds = (".py", ".typed", ".md", ".yaml")
    ours = {path.relative_to(ROOT) for path in (ROOT / "actlib").rglob("*") if path.suffix in kinds}
    assert {path for path in packed if path.suffix != ".pyc"} == ours
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, asked in extras["optional-dependencies"].items():
        stated = [each for each in asked_by(site) if each.marker]
        names = {each.name for each in stated if each.marker.evaluate({"extra": extra})}
        assert names == {Requirement(each).name for each in asked}


def test_channels_are_recorded_and_moved(installed):
    run(installed, "python", "-c", USE)


def test_help_needs_neither_extras_nor_torch(installed):
    assert "transfer" in run(installed, "actlib", "--help")
    probe = "import sys, actlib.cli; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    assert run(installed, "python", "-c", probe) == "[]\n"
