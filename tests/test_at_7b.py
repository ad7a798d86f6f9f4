"""The numbers and the YAML of docs/at_7b.md are what the code has."""

import json
import re
import sys
from pathlib import Path

import torch
import transformers

from actlib.channels import channel_modules
from actlib.study.presets import load_preset

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
from pairs import QWEN_7B  # noqa: E402

PAGE = (ROOT / "docs" / "at_7b.md").read_text(encoding="utf-8")


def test_the_sizes_are_those_of_the_shape():
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(QWEN_7B)
    parameters = sum(each.numel() for each in model.parameters())
    modules = channel_modules(model)
    channels = sum(each.channels for each in modules.values())
    embedding = model.get_input_embeddings().weight.numel()
    assert f"{parameters:,} parameters, {2 * parameters / 1e9:.1f} GB" in PAGE
    assert f"{channels:,} channels in {len(modules)} modules" in PAGE
    assert f"{2 * (parameters - embedding) / 1e9:.1f} GFLOP a token" in PAGE
    assert f"{2 * channels / 1e6:.1f} MB in bfloat16" in PAGE
    assert f"{16 * parameters / 1e9:.0f} GB (16 bytes a parameter)" in PAGE


def test_the_yaml_is_a_preset(tmp_path):
    (yaml,) = re.findall(r"```yaml\n(name: qwen-maths.*?)```", PAGE, re.DOTALL)
    (tmp_path / "qwen-maths.yaml").write_text(yaml)
    rows = [
        {"question": f"{ability} {number}?", "answer": "3", "ability": ability}
        for ability in ("de-science", "fr-science", "en-maths")
        for number in range(40)
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("general", "maths"):
        (tmp_path / name).mkdir()
    preset = load_preset(tmp_path / "qwen-maths.yaml")
    assert (preset.dtype, preset.evaluation.test_items) == ("bfloat16", 100)
    assert preset.lost == ["de-science", "fr-science"]
