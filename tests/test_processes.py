import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from actlib import processes
from actlib.attribution import record_attributions
from actlib.recording import record_differences
from actlib.scores import ChannelScores

SCRIPT = Path(__file__).with_name("recording_process.py")


@pytest.fixture
def run_two(tmp_path):
    """`run_two(donor, target, batches)`: folder of what two processes leave, launched for real."""

    def run(*given):
        torch.save(given, tmp_path / "given.pt")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # What torchrun, and accelerate launch on several GPUs, put into the environment.
        launched = {
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "TORCHELASTIC_RUN_ID": "test",
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(SCRIPT.parents[1]),
        }
        command = [sys.executable, str(SCRIPT), str(tmp_path)]
        processes = [
            subprocess.Popen(
                command,
                env={**os.environ, **launched, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        try:
            told = [process.communicate(timeout=600)[1] for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert [process.returncode for process in processes] == [0, 0], "\n".join(told)
        return tmp_path

    return run


def test_two_processes_give_the_scores_of_one(run_two, pair, items, collate):
    donor, target = pair("mixtral")
    batches = collate(items, 2)
    folder = run_two(donor, target, batches)
    for name, chosen in (("three", batches), ("one", batches[:1]), ("two passes", batches)):
        alone = record_differences(donor, target, chosen, moments=True)
        each = [ChannelScores.load(folder / f"{name}-{rank}.safetensors") for rank in range(2)]
        for found in each:
            assert found.tokens == alone.tokens
            assert found.metadata | {"tokens": ""} == alone.metadata | {"tokens": ""}
            for part in ("values", "magnitudes", "means", "stds"):
                ours, other = getattr(found, part), getattr(alone, part)
                for module in other:
                    torch.testing.assert_close(ours[module], other[module], rtol=1e-6, atol=1e-7)
        assert all(torch.equal(each[0].values[key], each[1].values[key]) for key in alone.values)
    assert not list((folder / "kept").iterdir())
    alone = record_attributions(donor, target, batches, points=2)
    for rank in range(2):
        found = ChannelScores.load(folder / f"attributions-{rank}.safetensors")
        assert found.metadata == alone.metadata | {"tokens": str(found.tokens)}
        for name, values in alone.values.items():
            torch.testing.assert_close(found.values[name], values, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_accelerate_launches_two_processes_on_a_cpu(pair, items, collate, tmp_path):
    donor, target = pair("llama")
    batches = collate(items, 2)
    torch.save((donor, target, batches), tmp_path / "given.pt")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", str(SCRIPT), str(tmp_path)]
    told = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    told["PYTHONPATH"] = str(SCRIPT.parents[1])
    done = subprocess.run(command, env={**os.environ, **told}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone = record_differences(donor, target, batches)
    for rank in range(2):
        found = ChannelScores.load(tmp_path / f"three-{rank}.safetensors")
        assert found.tokens == alone.tokens
        for name, values in alone.values.items():
            torch.testing.assert_close(found.values[name], values, rtol=1e-6, atol=1e-7)


def test_a_process_alone_has_everything(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # a cluster that names no launcher is not joined
    assert processes.rank_and_count() == (0, 1) and all(map(processes.is_own_batch, range(5)))
    assert processes.gather("mine") == ["mine"]
