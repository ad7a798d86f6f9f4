import pytest
import torch
from one_process import tune
from programs import python
from small_study import write_pair

from actlib import processes
from actlib.attribution import record_attributions
from actlib.recording import record_differences
from actlib.scores import ChannelScores
from actlib.study.presets import ROOT

LAUNCHERS = {
    "torchrun": "torch.distributed.run --standalone --nproc_per_node 2",
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 "
    "--main_process_port 0 --mixed_precision no --dynamo_backend no",
}


@pytest.mark.parametrize(
    "launcher", ["torchrun", pytest.param("accelerate", marks=pytest.mark.slow)]
)
def test_two_processes_give_what_one_gives(launcher, pair, items, collate, tokenizer, tmp_path):
    donor, target = pair("mixtral")
    write_pair(tmp_path, tokenizer)
    batches = collate(items, 2)
    torch.save((donor, target, batches), tmp_path / "given.pt")
    env = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    python("-m", *LAUNCHERS[launcher].split(), "tests/one_process.py", tmp_path, **env)
    for name, chosen in (("three", batches), ("one", batches[:1]), ("two passes", batches)):
        alone = record_differences(donor, target, chosen, moments=True)
        each = [ChannelScores.load(tmp_path / f"{name}-{rank}.safetensors") for rank in range(2)]
        for found in each:
            assert found.metadata == alone.metadata
            for part in ("values", "magnitudes", "means", "stds"):
                ours, other = getattr(found, part), getattr(alone, part)
                torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-7)
        assert all(torch.equal(each[0].values[key], each[1].values[key]) for key in alone.values)
    assert not list((tmp_path / "kept").iterdir())
    alone = record_attributions(donor, target, batches, points=2)
    for rank in range(2):
        found = ChannelScores.load(tmp_path / f"attributions-{rank}.safetensors")
        assert found.metadata == alone.metadata
        torch.testing.assert_close(found.values, alone.values, rtol=1e-4, atol=1e-6)
    weights, losses = tune(tmp_path / "target")
    for rank in range(2):
        found, found_losses = torch.load(tmp_path / f"tuned-{rank}.pt")
        assert found_losses == pytest.approx(losses, abs=1e-5) and losses[-1] < losses[0]
        torch.testing.assert_close(found, weights, rtol=0, atol=2e-5)  # Adam moves by up to 0.04


def test_a_process_alone_has_everything(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # a cluster that names no launcher is not joined
    assert processes.rank_and_count() == (0, 1) and all(map(processes.is_own_batch, range(5)))
    assert processes.gather("mine") == ["mine"]
