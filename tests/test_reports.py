"""What the report on a pair says, of models in memory and of the same models in folders."""

import json
from types import SimpleNamespace

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models

from actlib.channels import uncovered_parameters
from actlib.cli import main
from actlib.reports import describe_report, pair_report, relative_change


def tokenizer(words="ab", template=None):
    return SimpleNamespace(
        get_vocab=lambda: {word: index for index, word in enumerate(words)},
        special_tokens_map={},
        chat_template=template,
    )


def report(donor, target, theirs=None):
    return pair_report(donor, target, tokenizer(), theirs or tokenizer())


@pytest.fixture
def tuned(family):
    """`tuned(architecture, factor)`: a model, before it a copy with each entry times a factor."""

    @torch.no_grad()
    def make(architecture="llama_tied", factor=1.01):
        donor, target = family(architecture), family(architecture)
        for value in donor.parameters():
            value *= factor
        return donor, target

    return make


@pytest.fixture
def folders(tmp_path):
    """`folders(donor, target)`: both saved, the donor in shards, with one tokenizer."""

    def make(donor, target):
        places = tmp_path / "donor", tmp_path / "target"
        for place, model in zip(places, (donor, target), strict=True):
            model.save_pretrained(place, max_shard_size="20KB" if model is donor else "1GB")
            core = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
            transformers.PreTrainedTokenizerFast(tokenizer_object=core).save_pretrained(place)
        return places

    return make


def test_a_fine_tuned_pair_is_fine_in_memory_and_in_folders(tuned, folders, any_architecture):
    donor, target = tuned(any_architecture)
    apart = set(uncovered_parameters(target))
    moving = {name for name, _ in target.named_parameters()} - apart
    found, stored = report(donor, target), pair_report(*folders(donor, target))
    for each in (found, stored):
        assert each.attrs["fits"] and each.attrs["mismatches"] == []
        assert len(each.attrs["warnings"]) == bool(apart), each.attrs["warnings"]
        assert set(each["parameter"]) == moving
        assert each["relative_change"].to_numpy() == pytest.approx(0.01, rel=1e-3)
        assert each.attrs["relative_change"] == pytest.approx(0.01, rel=1e-3)
    assert stored.drop(columns="kind").equals(found.drop(columns="kind"))


def test_norms_are_those_of_the_tensors(pair):
    donor, target = pair("qwen2")
    table = report(donor, target).set_index("parameter")
    ours = dict(donor.named_parameters())
    for name, theirs in target.named_parameters():
        change, size = (ours[name] - theirs).double().norm(), theirs.double().norm()
        expected = [change, size, change / size]
        columns = ["change_norm", "target_norm", "relative_change"]
        assert table.loc[name, columns].tolist() == pytest.approx([float(x) for x in expected])
        assert table.loc[name, "entries"] == theirs.numel()
    flat = [torch.cat([p.flatten() for p in m.parameters()]).double() for m in (donor, target)]
    overall = float((flat[0] - flat[1]).norm() / flat[1].norm())
    assert relative_change(table) == pytest.approx(overall)


def test_what_differs_is_warned_of(tuned):
    donor, target = tuned()
    for pair, words in [
        ((donor, target.to(torch.bfloat16)), "dtype float32 against bfloat16"),
        (tuned(factor=1), "identical: there is nothing to transfer"),
        (tuned(factor=-0.5), "far apart"),
    ]:
        found = report(*pair)
        (warning,) = found.attrs["warnings"]
        assert found.attrs["fits"] and words in warning
        assert f"warning: {warning}" in describe_report(found)


def test_tokenizers_are_compared(tuned):
    (mismatch,) = report(*tuned(), theirs=tokenizer("ba")).attrs["mismatches"]
    assert "2 tokens under other ids" in mismatch
    (warning,) = report(*tuned(), theirs=tokenizer(template="{{ m }}")).attrs["warnings"]
    assert "chat templates differ" in warning


def test_the_command_prints_the_report_and_says_by_its_status_whether_the_pair_fits(
    tuned, family, folders, tmp_path, capsys
):
    places = [str(place) for place in folders(*tuned())]
    assert main(["check", *places]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "donor and target fit" and lines[-1].split()[0] == "overall"
    family("gpt2").save_pretrained(tmp_path / "other")
    assert main(["check", places[0], str(tmp_path / "other"), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert not content["fits"] and content["parameters"] == []
    assert content["relative_change"] is None and "architecture" in content["mismatches"][0]
