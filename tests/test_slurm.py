"""A study runs through SLURM, and jobs that are killed are submitted again until all is there."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from one_node_slurm import CannotStart, one_node_slurm
from small_study import write_preset

from actlib.study.presets import ROOT, load_preset

pytestmark = pytest.mark.slow

MOST_SECONDS = 1800  # of any wait; the whole took 10 minutes on two cores shared with much else


@pytest.fixture
def slurm():
    """Environment in which SLURM's commands reach a node of two CPUs, alive for one test."""
    try:
        with one_node_slurm(cpus=2, memory_mb=16000) as environment:
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
    changed["default-resources"] = ["gpu=1", "mem_mb=5120", "runtime=60"]
    (tmp_path / "profile").mkdir()
    text = yaml.safe_dump(shipped | changed)
    (tmp_path / "profile" / "config.yaml").write_text(text, encoding="utf-8")
    return str(tmp_path / "profile")


@pytest.fixture
def started(slurm, profile, small_preset, tmp_path):
    """A run of the small study on SLURM: its process, its preset and the file of its words."""
    data = Path(load_preset(small_preset).data.path)
    preset = write_preset(tmp_path / "killed.yaml", data)
    command = [sys.executable, "-m", "actlib", "run", preset, "--notebooks", "01"]
    command += ["--profile", profile]
    environment = slurm | {"ACT_STORE": str(tmp_path / "store"), "OMP_NUM_THREADS": "1"}
    said = tmp_path / "said.txt"
    with said.open("w") as output:
        run = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    yield run, preset, said
    with suppress(ProcessLookupError):  # Snakemake too, where the test failed
        os.killpg(run.pid, signal.SIGTERM)
    run.wait(timeout=120)


def first(look, run):
    """What `look` finds, as soon as it finds something, while the run goes on."""
    deadline = time.monotonic() + MOST_SECONDS
    while time.monotonic() < deadline and run.poll() is None:
        if found := look():
            return found
        time.sleep(0.1)
    return None


def running_jobs(slurm):
    command = ["squeue", "--noheader", "--states=RUNNING", "--format=%i"]
    return subprocess.run(command, env=slurm, capture_output=True, text=True).stdout.split()


def asked(job, slurm):
    command = ["scontrol", "show", "job", job]
    return subprocess.run(command, env=slurm, capture_output=True, text=True).stdout


def processes(*words):
    """Processes that have all these words in their command lines, each as one argument."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            given = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:  # it has ended meanwhile
            continue
        if set(words) <= set(given):
            found.append(int(folder.name))
    return found


def test_jobs_that_are_killed_are_submitted_again(started, slurm, tmp_path):
    run, preset, said = started
    job = first(lambda: running_jobs(slurm), run)[0]
    told = asked(job, slurm)
    assert "TresPerJob=gres:gpu:1" in told and "mem=5G" in told, told
    subprocess.run(["scancel", job], env=slurm, check=True)
    (killed,) = first(lambda: processes("step", "record", preset), run)
    os.kill(killed, signal.SIGKILL)

    status = run.wait(timeout=MOST_SECONDS)
    assert status == 0, said.read_text()[-3000:]
    store = tmp_path / "store" / "small"
    told = (store / "study/logs/snakemake.log").read_text()
    assert f"SLURM-job '{job}' failed, SLURM status is: 'CANCELLED'" in told
    assert len(re.findall(r"^Trying to restart job", told, re.MULTILINE)) == 2
    # Four models, the scores and the notebook; two of them twice.
    assert len(re.findall(r"has been submitted with SLURM jobid", told)) == 6 + 2
    for name in ("base", "multilingual", "forgetful", "maths"):
        assert (store / f"models/{name}-seed0/built.json").is_file()
    assert (store / "scores/seed0.json").is_file()
    assert (store / "study/notebooks/01_concentration.ipynb").is_file()
    assert "results/fig01" in (store / "study/report.md").read_text()
