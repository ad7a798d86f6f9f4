"""The sweep of `tiny` runs through SLURM, two jobs at once; killed jobs are submitted again.

On two training seeds with fewer settings, in all notebooks: after a sixth of the training, or after
all of it where the environment's FAMILY is `tiny`, as in `make test-all`.
"""

import os
import re
import signal
import subprocess

import pytest
import yaml
from one_node_slurm import CannotStart, one_node_slurm
from quick_family import PARAMETERS, write_family
from workflow import MOST_SECONDS, first, processes, started

from actlib.study.presets import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def slurm():
    """Environment in which SLURM's commands reach a node of two CPUs, alive for one test."""
    try:
        with one_node_slurm() as environment:
            yield environment
    except CannotStart as reason:
        pytest.skip(f"no SLURM here: {reason}")


@pytest.fixture
def profile(tmp_path):
    """The shipped profile, for a SLURM that keeps no accounts, and asked more often."""
    shipped = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text(encoding="utf-8"))
    changed = {"slurm-status-command": "squeue", "slurm-no-account": True}
    changed |= {"slurm-init-seconds-before-status-checks": 3, "latency-wait": 5}
    changed["slurm-logdir"] = str(tmp_path / "logs")
    changed["default-resources"] = ["mem_mb=5120", "runtime=60"]
    (tmp_path / "profile").mkdir()
    text = yaml.safe_dump(shipped | changed)
    (tmp_path / "profile" / "config.yaml").write_text(text, encoding="utf-8")
    return str(tmp_path / "profile")


@pytest.fixture
def sweep(tmp_path):
    """Preset of two seeds, and Snakemake's options for its sweep."""
    share = 1 if os.environ.get("FAMILY") == "tiny" else 6
    seeds = {"seeds": [0, 1], "parameters": PARAMETERS}
    preset = write_family(tmp_path / "swept.yaml", share, sweep=seeds)
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    options = ["--snakefile", str(ROOT / "Snakefile"), "--directory", str(tmp_path)]
    options += ["--config", f"preset={preset}", "--", "sweep"]
    return preset, options


def running_jobs(slurm):
    command = ["squeue", "--noheader", "--states=RUNNING", "--format=%i"]
    return subprocess.run(command, env=slurm, capture_output=True, text=True).stdout.split()


def tables(store):
    """Text of every table and figure's numbers that notebooks left, by its place in the store."""
    return {str(path.relative_to(store)): path.read_text() for path in store.rglob("results/*.csv")}


def test_a_sweep_whose_jobs_are_killed_gives_the_tables_of_one_without_slurm(
    slurm, profile, sweep, tmp_path
):
    preset, options = sweep
    words = ["--workflow-profile", profile, *options]
    with started(tmp_path / "cluster", *words, environment=slurm) as (run, said):
        both = first(lambda: len(jobs := running_jobs(slurm)) == 2 and jobs, run)
        assert both, said.read_text()[-3000:]
        subprocess.run(["scancel", both[0]], env=slurm, check=True)
        killed = first(lambda: processes("step", "record", preset), run)[0]
        os.kill(killed, signal.SIGKILL)
        assert run.wait(timeout=MOST_SECONDS) == 0, said.read_text()[-3000:]

    text = said.read_text()
    assert f"SLURM-job '{both[0]}' failed, SLURM status is: 'CANCELLED'" in text
    assert len(re.findall(r"^Trying to restart job", text, re.MULTILINE)) == 2
    every = int(re.search(r"^total +(\d+)$", text, re.MULTILINE)[1])  # and the goal, no job
    assert every > 40  # seven models, two recordings and the notebooks of each seed
    assert len(re.findall(r"has been submitted with SLURM jobid", text)) == every - 1 + 2

    words = ["--workflow-profile", ROOT / "profiles/default", *options]
    with started(tmp_path / "alone", *words) as (run, said):
        assert run.wait(timeout=MOST_SECONDS) == 0, said.read_text()[-3000:]
    ours, theirs = tables(tmp_path / "cluster"), tables(tmp_path / "alone")
    assert {name.split("/")[1] for name in ours} == {"sweep"} and len(ours) > 100
    assert ours == theirs
