import pytest
import torch
from torch import nn

from actlib.channels import channel_modules
from actlib.experts import Routed
from actlib.localize import record_differences
from actlib.parallel import Share
from actlib.passes import Bar, bytes_per_token, held_activations, parts


def sizes_of(found):
    return [(len(part.batch["input_ids"]), len(part.tokens.rows)) for part in found]


def test_batches_are_split_by_items_where_answers_are_many(batches):
    # The answers are of 2, 4, 1 and 3, 3, 2 tokens.
    assert sizes_of(parts(batches, 100, Share())) == [(3, 7), (3, 8)]
    assert sizes_of(parts(batches, 5, Share())) == [(1, 2), (2, 5), (1, 3), (2, 5)]
    assert sizes_of(parts(batches, 0, Share())) == [(1, n) for n in (2, 4, 1, 3, 3, 2)]
    for part in parts(batches, 5, Share()):
        assert set(part.batch) == {"input_ids", "attention_mask", "answer_mask"}
        assert part.tokens.shape == tuple(part.batch["input_ids"].shape)


def test_shares_are_all_parts_by_their_numbers(items, collate):
    batches = collate(items, 2)
    alone = {part.number: part.digest for part in parts(batches, 4, Share())}
    shared = [part for rank in range(2) for part in parts(batches, 4, Share(rank, 2))]
    assert sorted(alone) == list(range(len(alone))) and len(alone) > len(batches)
    assert {part.number: part.digest for part in shared} == alone and len(shared) == len(alone)


def test_digests_tell_items_and_padding_apart(items, collate):
    (whole,) = parts(collate(items, 6), 100, Share())
    (right,) = parts(collate(items, 6, "right"), 100, Share())
    assert whole.digest != right.digest and whole.item_digests() == right.item_digests()
    assert len(set(whole.item_digests())) == 6


@pytest.mark.parametrize("held_bytes", [0, 20_000])
def test_scores_do_not_depend_on_how_batches_are_split(pair, batches, held_bytes):
    donor, target = pair("mixtral")
    expected = record_differences(donor, target, batches)
    found = record_differences(donor, target, batches, held_bytes=held_bytes)
    assert found.metadata == expected.metadata
    for part in ("values", "magnitudes", "means", "stds"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi3", "mixtral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_held(family, batches, name, dtype):
    model = family(name, dtype=dtype)
    part = next(parts(batches, 100, Share()))
    with torch.no_grad():
        held = held_activations(model, channel_modules(model), part)
    numbers = [
        each.values if isinstance(each, Routed) else each
        for calls in held.values()
        for each in calls
    ]
    assert sum(each.nbytes for each in numbers) == bytes_per_token(model) * len(part.tokens.rows)


class Overwriting(nn.Module):
    """Scales its layer's output in place, as some models do with their logits."""

    def __init__(self, scale):
        super().__init__()
        self.embed, self.layer = nn.Embedding(9, 4), nn.Linear(4, 4)
        self.scale, self.runs = scale, 0

    def forward(self, input_ids, attention_mask):
        self.runs += 1
        found = self.layer(self.embed(input_ids))
        return found if self.scale is None else found.mul_(self.scale)


@pytest.mark.parametrize(("scale", "runs"), [(3.0, 2), (None, 1)])
@pytest.mark.parametrize("inference", [True, False])
def test_a_donor_that_writes_over_its_outputs_is_held_as_it_was(scale, runs, inference):
    model, ones = Overwriting(scale), torch.ones(1, 5, dtype=torch.long)
    batch = {"input_ids": ones * 3, "attention_mask": ones, "answer_mask": ones}
    (part,) = parts([batch], 100, Share())
    with torch.inference_mode() if inference else torch.no_grad():
        expected = model.layer(model.embed(batch["input_ids"]))[0]
        held = held_activations(model, channel_modules(model), part)
    (found,) = held["layer"]
    assert torch.equal(found, expected)
    assert model.runs == (1 if inference else runs)  # which copies, and need not run again


def test_a_bar_tells_tokens_a_second_and_the_time_left(pair, batches, capsys):
    record_differences(*pair(), batches, progress=True)
    told = capsys.readouterr().err
    assert "activation differences" in told and "2/2" in told and "tokens/s" in told
    record_differences(*pair(), iter(batches), progress=True)
    assert "2batch" in capsys.readouterr().err  # how many there are is not known
    record_differences(*pair(), batches)
    assert capsys.readouterr().err == ""


def test_a_bar_counts_the_parts_that_ran(batches, capsys):
    with Bar(batches, "counting", shown=True) as bar:
        for part in parts(bar, 100, Share()):
            bar.add(part)
    assert "tokens/s" in capsys.readouterr().err
