"""What the report on a pair says, of models in memory and of the same models in folders."""

import copy
import json
import re
from types import SimpleNamespace

import pytest
import tokenizers
import torch
import transformers
from torch import nn

from actlib.channels import uncovered_parameters
from actlib.cli import main
from actlib.reports import FAR, describe_report, pair_report, relative_change


def tokenizer(words=("a", "b"), template=None, **special):
    return SimpleNamespace(
        get_vocab=lambda: {word: index for index, word in enumerate(words)},
        special_tokens_map=special,
        chat_template=template,
    )


def saved_tokenizer(folder, words="ab", **special):
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    fast.save_pretrained(folder)


def report(donor, target, ours=None, theirs=None):
    return pair_report(donor, target, ours or tokenizer(), theirs or tokenizer())


@pytest.fixture
def tuned(family):
    """`tuned(architecture, percent)`: a model, and a copy with each entry changed by percent."""

    def make(architecture="llama", percent=1.0):
        target = family(architecture)
        donor, generator = copy.deepcopy(target), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in donor.parameters():
                signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
                value *= 1 + signs * percent / 100
        return donor, target

    return make


@pytest.fixture
def folders(tmp_path):
    """`folders(donor, target)`: both saved, the donor in shards, with one tokenizer."""

    def make(donor, target):
        places = tmp_path / "donor", tmp_path / "target"
        for place, model in zip(places, (donor, target), strict=True):
            model.save_pretrained(place, max_shard_size="20KB" if model is donor else "1GB")
            saved_tokenizer(place)
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
    rows = table[table["kind"] == "mlp.up_proj"]
    assert len(rows) == 2 and all("up_proj" in name for name in rows.index)


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_a_wrapped_model_is_compared_as_the_one_inside(pair, wrap):
    donor, target = pair("llama")
    expected = report(donor, target)
    for found in (report(wrap(donor), target), report(donor, wrap(target))):
        assert found.equals(expected) and found.attrs == expected.attrs


def round_off(donor, target):
    target.bfloat16()


def equate(donor, target):
    donor.load_state_dict(target.state_dict())


def add_gates(donor, target):
    for model in (donor, target):
        model.model.layers[1].gates = nn.ParameterList([torch.ones(3), torch.ones(2)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (round_off, "dtype float32 against bfloat16"),
        (equate, "identical: there is nothing to transfer"),
        (add_gates, "2 parameters of no channel .* model.layers.1.gates.0"),
    ],
)
def test_what_differs_is_warned_of(tuned, change, words):
    donor, target = tuned("llama_tied")
    change(donor, target)
    found = report(donor, target)
    assert found.attrs["fits"] and any(re.search(words, each) for each in found.attrs["warnings"])
    assert re.search(f"^warning: .*{words}", describe_report(found), re.MULTILINE)


@pytest.mark.parametrize(("percent", "is_far"), [(99 * FAR, False), (101 * FAR, True)])
def test_a_pair_too_far_apart_is_warned_of(tuned, percent, is_far):
    found = report(*tuned(percent=percent))
    assert found.attrs["fits"]
    assert any("far apart" in each for each in found.attrs["warnings"]) == is_far


@pytest.mark.parametrize(
    ("other", "kind", "words"),
    [
        (tokenizer("ba"), "mismatches", "2 tokens under other ids"),
        (tokenizer(template="{{ m }}"), "warnings", "chat templates differ"),
    ],
)
def test_tokenizers_are_compared(tuned, other, kind, words):
    found = report(*tuned(), theirs=other)
    (clause,) = found.attrs["mismatches"] + found.attrs["warnings"]
    assert clause in found.attrs[kind] and words in clause


def test_the_command_prints_the_report_and_says_by_its_status_whether_the_pair_fits(
    tuned, family, folders, tmp_path, capsys
):
    places = [str(place) for place in folders(*tuned())]
    assert main(["check", *places]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "donor and target fit" and lines[-1].split()[0] == "overall"
    assert main(["check", *places, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["fits"] and content["relative_change"] == pytest.approx(0.01, rel=1e-3)
    assert content["parameters"][0]["kind"] == "embed_tokens"
    family("gpt2").save_pretrained(tmp_path / "other")
    assert main(["check", places[0], str(tmp_path / "other"), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert not content["fits"] and content["parameters"] == []
    assert content["relative_change"] is None and "architecture" in content["mismatches"][0]
