"""Ten lines and one command: a notebook on a pair of one's own, with a report.

One case of one notebook, since Snakemake and two more processes start for it; what else a run may
end in is told by `tests/test_runs.py`, without them.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from small_study import write_pair

pytestmark = pytest.mark.slow

PRESET = """\
donor: donor
target: target
questions: questions.jsonl
lost: [de-maths]
retained: [en-maths]
dtype: float32
evaluation: {recording_items: 6, test_items: 2, validation_items: 2}
"""


@pytest.fixture
def own(tmp_path, small_preset):
    """Folder that holds `mine.yaml`, a pair of tiny models and 80 questions."""
    write_pair(tmp_path, "qwen2", small_preset)
    rows = [
        {"question": f"{name} {n}?", "answer": f"It is {n}.", "ability": name}
        for n in range(40)
        for name in ("de-maths", "en-maths")
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "questions.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(PRESET, encoding="utf-8")
    return tmp_path


def test_a_yaml_beside_two_models_becomes_a_notebook_and_a_report(own, monkeypatch):
    monkeypatch.setenv("ACT_STORE", "store")
    command = [sys.executable, "-m", "actlib", "run", "mine.yaml", "--notebooks", "01"]
    command += ["--cores", "1", "--json"]
    ended = subprocess.run(command, cwd=own, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr[-3000:]
    told = json.loads(ended.stdout)
    found = told["notebooks"]["01_concentration"]
    assert found["state"] == "done" and Path(found["notebook"]).is_file()
    assert "The top 5 % of the channels hold" in found["answer"]
    report = Path(told["report"])
    assert report == own / "store" / "mine" / "report.md"
    text = report.read_text(encoding="utf-8")
    assert found["answer"] in text and "fig01_concentration_ccdf.png" in text
    assert "left out" not in text  # of what was asked for
    assert (own / "store/mine/figures/fig01_concentration_ccdf.pdf").is_file()
