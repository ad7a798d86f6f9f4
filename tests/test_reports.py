"""What the report on a pair says, of models in memory and of the same models in folders."""

import json

import pytest
import torch
from tiny_models import tokenizer

from actlib.channels import uncovered_parameters
from actlib.cli import main
from actlib.reports import describe_report, pair_report, relative_change


def report(donor, target, theirs=None):
    return pair_report(donor, target, tokenizer(), theirs or tokenizer())


def test_folders_have_the_report_of_their_models(folders, any_architecture, tmp_path):
    donor, target = folders(any_architecture, donor_size="20KB")  # the donor in shards
    found, stored = pair_report(donor, target), pair_report(tmp_path / "donor", tmp_path / "target")
    assert found.attrs["fits"] and stored.attrs == found.attrs
    moving = {name for name, _ in target.named_parameters()} - set(uncovered_parameters(target))
    assert set(found["parameter"]) == moving
    assert stored.drop(columns="kind").equals(found.drop(columns="kind"))


def test_norms_are_those_of_the_tensors(pair):
    donor, target = pair("qwen2")
    table = report(donor, target).set_index("parameter")
    ours = dict(donor.named_parameters())
    for name, theirs in target.named_parameters():
        change, size = ((ours[name] - theirs).norm().item(), theirs.norm().item())
        columns = ["change_norm", "target_norm", "relative_change"]
        assert table.loc[name, columns].tolist() == pytest.approx([change, size, change / size])
        assert table.loc[name, "entries"] == theirs.numel()
    flat = [torch.cat([p.flatten() for p in m.parameters()]).double() for m in (donor, target)]
    overall = float((flat[0] - flat[1]).norm() / flat[1].norm())
    assert relative_change(table) == table.attrs["relative_change"] == pytest.approx(overall)


def test_what_differs_is_warned_of(family, pair):
    for donor, target, words in [
        (family(), family(dtype=torch.bfloat16), "dtype float32 against bfloat16"),
        (family(), family(), "identical: there is nothing to transfer"),
        (*pair(), "far apart"),
    ]:
        found = report(donor, target)
        (warning,) = found.attrs["warnings"]
        assert found.attrs["fits"] and words in warning
        assert f"warning: {warning}" in describe_report(found)


def test_what_belongs_to_no_channel_is_warned_of_whether_or_not_it_is_trained(family):
    models = family(), family()
    for value, model in enumerate(models):
        model.model.register_buffer("shift", torch.full((3,), float(value)))
        model.model.register_buffer("computed", torch.zeros(3), persistent=False)
        model.model.fixed = torch.nn.Parameter(torch.full((2,), float(value)), requires_grad=False)
    apart, identical = report(*models).attrs["warnings"]
    assert "2 tensors of no channel never move, such as model.fixed" in apart
    assert identical == "all that moves is identical: there is nothing to transfer"


def test_tokenizers_are_compared(family):
    (mismatch,) = report(family(), family(), tokenizer("ba")).attrs["mismatches"]
    assert "2 tokens under other ids" in mismatch
    warnings = report(family(), family(), tokenizer(template="{{ m }}")).attrs["warnings"]
    assert "chat templates differ" in warnings[0]


def test_the_command_prints_the_report_and_says_by_its_status_whether_the_pair_fits(
    folders, family, tmp_path, monkeypatch, capsys
):
    folders("llama")
    family("gpt2").save_pretrained(tmp_path / "other")
    monkeypatch.chdir(tmp_path)
    assert main(["check", "donor", "target"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "donor and target fit" and lines[-1].split()[0] == "overall"
    assert main(["check", "donor", "other", "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert not content["fits"] and content["parameters"] == []
    assert content["relative_change"] is None and "architecture" in content["mismatches"][0]
