"""What the runner plans and leaves: jobs, results among the artifacts, the same after kills."""

import json
import random
import re
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest
from programs import python
from safetensors.torch import load_file
from small_study import FAMILY, QUICK, write_own, write_pair, write_preset, write_questions
from workflow import first, processes, started

from actlib.study import sources
from actlib.study.presets import ROOT, load_preset


def changed_files():
    """What git says of the project's folder."""
    command = ["git", "-C", str(ROOT), "status", "--porcelain"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def quick(small_preset, tmp_path):
    """Path of a small preset whose notebook 03 tries little, with a sweep over two seeds.

    Its base is trained for long enough to save checkpoints.
    """
    models = FAMILY | {"base": FAMILY["base"] | {"steps": 150}}
    data = Path(load_preset(small_preset).data.path)
    study, sweep = ({"seeds": seeds, "parameters": {"03": QUICK}} for seeds in ([0], [0, 1]))
    changes = {"name": "quick", "models": models, "study": study, "sweep": sweep}
    return write_preset(tmp_path / "quick.yaml", data, **changes)


def test_a_sweep_is_a_job_a_seed_and_notebook_and_then_one_that_reads_them(quick, tmp_path):
    options = ["--dry-run", "--quiet", "host", "--config", f"preset={quick}", "--", "sweep"]
    with started(tmp_path / "store", *options) as (ran, log):
        assert ran.wait() == 0, log.read_text()
    jobs = re.findall(r"Job \d+: (.+)", log.read_text())
    for folder in ("sweep", "sweep/seed0", "sweep/seed1"):
        assert f"Notebook 03_sufficiency ({folder})" in jobs
    for kind in ("differences", "attributions"):
        assert {f"Recording {kind}, seed {seed}" for seed in (0, 1)} <= set(jobs)
    assert {f"Model forgetful-seed{seed}" for seed in (0, 1)} <= set(jobs)
    assert not [job for job in jobs if "(study)" in job or "(keep)" in job]


def test_a_notebook_depends_on_the_code_that_it_reaches_and_on_no_docstring(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    lines = ["from actlib.masks import ChannelMask\n", "import actlib as act\n", "%time 1\n"]
    lines += ["act.patched(act.study.x, act.__version__)"]
    cells = [{"cell_type": "code", "source": lines}]
    (tmp_path / "01.ipynb").write_text(json.dumps({"cells": cells}))

    def digest_after(**texts):
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text)
        sources._read.cache_clear()
        return sources.digest_notebook(tmp_path / "01.ipynb")

    masks = '"""Words."""\nfrom actlib import hooks\nA = 1\n"""Words on A."""\n'
    (tmp_path / "study").mkdir()
    reached = dict.fromkeys(
        ("hooks", "interventions", "study/__init__", "study/x", "cli"), "a = 1\n"
    )
    first = digest_after(masks=masks, **reached)
    assert digest_after(masks=masks.replace("Words", "Others") + "# a comment\n") == first
    assert digest_after(cli="a = 2\n") == first  # which the notebook does not reach
    for name in ("hooks", "interventions", "study/x"):  # by an import, an export, an attribute
        assert digest_after(**{name: "a = 2\n"}) != first
        assert digest_after(**{name: "a = 1\n"}) == first
    sources._read.cache_clear()


@pytest.mark.slow
def test_ten_lines_become_notebooks_and_a_report_and_nothing_tracked_changes(tmp_path, tokenizer):
    write_pair(tmp_path, tokenizer)
    write_questions(tmp_path, "de-maths", "en-maths", count=40)
    counts = {"recording_items": 6, "test_items": 2, "validation_items": 2}
    settings = {"dtype": "float32", "evaluation": counts}
    mine = write_own(tmp_path, **settings, study={"parameters": {"03": QUICK}})
    before, own = changed_files(), {"ACT_STORE": str(tmp_path / "store"), "OMP_NUM_THREADS": "1"}
    words = ["run", mine, "--notebooks", "00,03", "--cores", "1", "--json"]
    result = json.loads(python("-m", "actlib", *words, PYTHONPATH=str(ROOT), **own))
    notebook = result["notebooks"]["03_sufficiency"]
    assert notebook["state"] == "done" and Path(notebook["notebook"]).is_file()
    report = Path(result["report"]).read_text(encoding="utf-8")
    assert notebook["answer"] in report and "target_minus_donor" in report
    assert "fig03" in report and list(Path(result["results"]).glob("fig03*.pdf"))
    assert "left out" not in report  # of what was asked for
    assert changed_files() == before


def contents(store):
    """Tensors of models and scores as bytes, rows of the cache, tables."""
    found = {}
    for path in store.rglob("*.safetensors"):  # whose metadata are in no fixed order
        tensors = load_file(path)
        found[path] = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    for path in store.rglob("*.parquet"):
        rows = pd.read_parquet(path)
        found[path] = rows.sort_values(list(rows)).to_csv(index=False).encode()
    found |= {path: path.read_bytes() for path in store.rglob("results/*.csv")}
    return {str(path.relative_to(store)): content for path, content in found.items()}


CHECKPOINT = "quick/models/.base-seed0.training/*/checkpoint-*/trainer_state.json"


@pytest.mark.slow
def test_a_killed_study_ends_as_one_left_alone(quick, tmp_path):
    def study_in(store):
        target = store / "quick/study/notebooks/03_sufficiency.ipynb"
        return started(store, target, "--cores", 1, "--config", f"preset={quick}")

    killed, whole, hits = tmp_path / "killed", tmp_path / "whole", []
    notebook = f"{killed}/quick/study/logs/03_sufficiency.partial.ipynb"
    # Of each round, a job's words, and the most seconds after its start.
    rounds = [("build", quick, 0)] + [("build", quick, 6)] * 2 + [("record", quick, 6)] * 2
    rounds += [("papermill", notebook, 20)] * 5
    moments = random.Random(0)
    for number, (word, argument, seconds) in enumerate(rounds):
        with study_in(killed) as (run, _):
            first(lambda job=(word, argument): processes(*job), run)
            if number == 0:  # which shall resume from a checkpoint
                first(lambda: any(killed.glob(CHECKPOINT)), run)
            time.sleep(moments.uniform(0, seconds))
            hits.append(run.poll() is None)
    assert sum(hits) >= len(rounds) - 3, "most rounds must hit a live run"
    for store in (killed, whole):
        with study_in(store) as (run, log):
            assert run.wait() == 0, log.read_text()[-3000:]
    assert contents(killed).keys() == contents(whole).keys()
    assert contents(killed) == contents(whole)
    hidden = {path.suffix for path in killed.rglob("models/.*")}
    assert not hidden & {".partial", ".training"}
