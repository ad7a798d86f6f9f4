"""The wheel, built from the source archive and used alone, without an extra and the repository."""

import shutil
import tomllib
from importlib.metadata import distributions

import pytest
from packaging.requirements import Requirement
from programs import python

from actlib.study.presets import ROOT

USE = """
import sys
for extra in "datasets matplotlib scipy sklearn papermill snakemake lm_eval".split():
    sys.modules[extra] = None  # as if it were not installed
import torch, transformers
import actlib

assert actlib.__file__.startswith(sys.argv[1])
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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder that holds the wheel alone; what it depends on is the environment's."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, so that no build is left in the repository
    shutil.copytree(ROOT / "actlib", source / "actlib")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    archive = "from setuptools.build_meta import build_sdist; build_sdist('..')"  # as make dist
    python("-c", archive, cwd=source)
    (archive,) = folder.glob("*.tar.gz")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    options += ["--no-build-isolation", "--target", folder / "site"]
    python("-m", "pip", "install", *options, archive)
    return folder / "site"


def run(site, *words):
    """What a command prints, out of reach of the repository."""
    return python(*words, cwd=site.parent, PYTHONPATH=str(site))


def test_the_wheel_holds_all_files_of_the_package_and_its_extras(site):
    packed = {path.relative_to(site) for path in (site / "actlib").rglob("*") if path.is_file()}
    kinds = (".py", ".typed", ".md", ".yaml")
    ours = {path.relative_to(ROOT) for path in (ROOT / "actlib").rglob("*") if path.suffix in kinds}
    assert {path for path in packed if path.suffix != ".pyc"} == ours
    (wheel,) = distributions(name="actlib", path=[str(site)])
    stated = [each for each in map(Requirement, wheel.requires) if each.marker]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for extra, asked in extras["optional-dependencies"].items():
        names = {each.name for each in stated if each.marker.evaluate({"extra": extra})}
        assert names == {Requirement(each).name for each in asked}


def test_channels_are_recorded_and_moved_without_an_extra(site):
    run(site, "-c", USE, site)


def test_help_needs_neither_extras_nor_torch(site):
    assert "transfer" in run(site, site / "bin" / "actlib", "--help")
    probe = "import sys, actlib.cli; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    assert run(site, "-c", probe) == "[]\n"
