import gc
import hashlib
import weakref

import pytest
import torch
from slow_reference import expected_scores, hook_count
from torch import nn

from actlib import kernels, processes
from actlib.activations import record_activations
from actlib.channels import channel_modules
from actlib.hooks import AnswerTokens
from actlib.masks import ChannelMask
from actlib.parameters import weight_differences
from actlib.recording import (
    own_batches,
    record_differences,
    sum_tokens,
)
from actlib.scores import pool


def assert_close(found, expected, tolerance=1e-5):
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(
            found[name].double(), expected[name].double(), rtol=tolerance, atol=tolerance, msg=name
        )


@pytest.mark.parametrize("architecture", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_pooled_recordings_have_the_stds_of_one(pair, items, collate, architecture, side):
    donor, target = pair(architecture)
    parts = [
        record_differences(donor, target, collate(chosen, 2, side), moments=True)
        for chosen in (items[:2], items[2:3], items[3:])  # the second has a single answer token
    ]
    pooled, expected = pool(parts), expected_scores(donor, target, items)
    for part in ("values", "means", "stds"):
        assert_close(getattr(pooled, part), expected[part])


def test_constant_channels_have_no_std(pair, items, collate):
    donor, target = pair("gpt2")
    with torch.no_grad():
        donor.transformer.ln_f.weight.zero_()
    # Over many tokens, the mean of the squares rounds to below the square of the mean.
    scores = record_differences(donor, target, collate(items * 20, 7), moments=True)
    assert (scores.stds["transformer.ln_f"] < 1e-6).all()
    torch.testing.assert_close(scores.means["transformer.ln_f"], donor.transformer.ln_f.bias.data)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("size", [2, 6])
def test_scores_do_not_depend_on_batch_size_padding_or_order(pair, items, collate, size, side):
    donor, target = pair("qwen2")
    one = record_differences(donor, target, collate(items, 1))
    other = record_differences(donor, target, collate(items[::-1], size, side))
    assert_close(other.values, one.values)
    assert other.metadata["data_hash"] == one.metadata["data_hash"]


def test_answer_marks_on_padding_do_not_count(pair, batches):
    donor, target = pair()
    noisy = [b | {"answer_mask": b["answer_mask"] | ~b["attention_mask"].bool()} for b in batches]
    clean = record_differences(donor, target, batches)
    marked = record_differences(donor, target, noisy)
    assert_close(marked.values, clean.values, 0)
    assert marked.metadata["data_hash"] == clean.metadata["data_hash"]


def test_nothing_outlives_its_batch(pair, batches, monkeypatch):
    donor, target = pair()
    donor.train()
    target.model.layers[0].train()
    flags = [[m.training for m in model.modules()] for model in (donor, target)]
    selected, alive, select = [], [], AnswerTokens.select

    def watched(self, name, output, channels):
        activations = select(self, name, output, channels)
        selected.append(weakref.ref(activations))
        assert not activations.requires_grad
        return activations

    def stream():
        for batch in batches:
            gc.collect()
            alive.append(sum(each() is not None for each in selected))
            yield batch

    monkeypatch.setattr(AnswerTokens, "select", watched)
    record_differences(donor, target, stream())
    assert len(selected) == 2 * len(channel_modules(target)) * len(batches)
    assert alive[1] <= 2  # the locals of the last call at most
    assert hook_count(donor) == hook_count(target) == 0
    assert [[m.training for m in model.modules()] for model in (donor, target)] == flags


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_infinite_activations_are_refused_by_module(pair, batches, poison, side):
    models = pair("qwen2")
    with torch.no_grad():
        models[side].model.layers[1].mlp.up_proj.weight[3, 0] = poison
    with pytest.raises(ValueError, match=r"module model.layers.1.mlp.up_proj are NaN or inf"):
        record_differences(*models, batches)
    assert hook_count(models[0]) == hook_count(models[1]) == 0


def test_empty_answer_span_names_the_item(pair, items, collate):
    items[4] = (items[4][0], torch.zeros_like(items[4][1]))
    with pytest.raises(ValueError, match="the answer span of item 4 is empty"):
        record_differences(*pair(), collate(items, 2))


def test_no_batch_is_refused(pair):
    donor, target = pair()
    with pytest.raises(ValueError, match="^there is no batch to record$"):
        record_differences(donor, target, [])
    with pytest.raises(ValueError, match="^there is no batch to record$"):
        record_activations(target, [], weight_differences(donor, target).top(5))


def test_metadata_says_where_the_scores_come_from(pair, batches):
    donor, target = pair()
    donor.config.name_or_path, target.config._commit_hash = "the-donor", "abc"
    found = record_differences(donor, target, batches, metadata={"ability": "maths"}).metadata
    assert (found["donor"], found["target_revision"]) == ("the-donor", "abc")
    assert (found["donor_revision"], found["target"]) == ("", "")
    assert found["method"] == "activation difference"
    assert (found["tokens"], found["items"], found["dtype"]) == ("15", "6", "float32")
    assert found["ability"] == "maths"
    assert all(isinstance(value, str) for value in found.values())
    mixed = record_differences(donor.bfloat16(), target, batches).metadata
    assert mixed["dtype"] == "bfloat16/float32"


def test_data_hash_follows_ids_and_answer_marks(pair, items, collate):
    def hash_of(changed):
        return record_differences(*pair(), collate(changed)).metadata["data_hash"]

    ids, answer = items[0]
    moved = torch.roll(answer, -1)
    other = (ids + 1).clamp_max(60)
    hashes = {
        hash_of([(a, b), *items[1:]]) for a, b in ((ids, answer), (other, answer), (ids, moved))
    }
    assert len(hashes) == 3
    each = (hashlib.sha256(torch.stack(item, dim=1).numpy().tobytes()).digest() for item in items)
    assert hashlib.sha256(b"".join(sorted(each))).hexdigest() in hashes  # whatever the version


def test_weight_differences_are_norms_over_each_channel(pair):
    donor, target = pair("qwen2")
    scores = weight_differences(donor, target)
    delta = donor.model.layers[0].self_attn.q_proj
    base = target.model.layers[0].self_attn.q_proj
    row = torch.cat([(delta.weight - base.weight)[5], (delta.bias - base.bias)[5:6]])
    torch.testing.assert_close(
        scores.values["model.layers.0.self_attn.q_proj"][5], row.norm().detach()
    )
    column = (donor.model.embed_tokens.weight - target.model.embed_tokens.weight)[:, 2]
    torch.testing.assert_close(scores.values["model.embed_tokens"][2], column.norm().detach())
    assert (scores.tokens, scores.magnitudes, scores.means, scores.stds) == (0, {}, {}, {})


def test_empty_or_foreign_masks_are_refused(pair, batches):
    donor, target = pair()
    mask = weight_differences(donor, target).top(5)
    with pytest.raises(ValueError, match="the mask is empty"):
        record_activations(target, batches, mask - mask)
    with pytest.raises(ValueError, match="the mask is of another model"):
        record_activations(target, batches, ChannelMask({"a": torch.ones(2, dtype=torch.bool)}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "channels"), [(1, 6), (7, 2500), (50, 6)])
@pytest.mark.parametrize("rows", [2, 4])
def test_the_kernel_gives_the_formula(monkeypatch, dtype, tokens, channels, rows):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, tokens, channels, generator=generator)
    a[:, 1] += 1e3  # far from zero, with a small std
    a[:, 2] = 3.0
    a, b = a.to(dtype), b.to(dtype)
    x, y = a.double(), b.double()
    exact = [(x - y).abs(), (x.abs() + y.abs()) / 2, x, x.square()][:rows]
    exact = torch.stack([each.sum(dim=0) for each in exact])
    sums = torch.zeros(rows, channels, dtype=torch.float64)
    assert kernels.try_add_sums(sums, a, b)
    torch.testing.assert_close(sums, exact, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sum_tokens(a, b, rows == 4), exact, rtol=1e-12, atol=1e-9)
    # the threads of a large machine share the channels, and leave no trace
    monkeypatch.setattr(kernels, "THREAD_NUMBERS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    shared = torch.zeros(rows, channels, dtype=torch.float64)
    assert kernels.try_add_sums(shared, a, b) and torch.equal(shared, sums)


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float64), (torch.float64, torch.half)])
def test_a_device_that_sums_in_float32_takes_dtypes_that_differ(dtypes):
    donor, target = (torch.empty(3, 5, dtype=dtype, device="meta") for dtype in dtypes)
    assert sum_tokens(donor, target, moments=True).shape == (4, 5)
    assert sum_tokens(donor, target).shape == (2, 5)


class Elsewhere(torch.Tensor):
    """Numbers that say they are on no CPU."""

    is_cpu = False


def test_a_device_that_sums_in_float32_loses_no_more():
    pair = torch.randn(2, 500, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = sum_tokens(*pair, moments=True)
    sums = sum_tokens(*(each.as_subclass(Elsewhere) for each in pair), moments=True)
    torch.testing.assert_close(sums.as_subclass(torch.Tensor), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_scores_without_numba_are_the_same(pair, batches, monkeypatch, name):
    expected = record_differences(*pair(name), batches, moments=True)
    monkeypatch.setattr(kernels, "njit", None)
    scores = record_differences(*pair(name), batches, moments=True)
    for part in ("values", "magnitudes", "means", "stds"):
        for module, values in getattr(expected, part).items():
            torch.testing.assert_close(getattr(scores, part)[module], values, rtol=1e-6, atol=1e-6)


class Loop(nn.Module):
    """A model that runs its layer several times, writes over its output, and has one idle layer."""

    def __init__(self, times=2, scale=1.0):
        super().__init__()
        self.embed, self.layer, self.idle = nn.Embedding(61, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.times, self.scale = times, scale

    def forward(self, input_ids, attention_mask):
        hidden = self.embed(input_ids)
        for _ in range(self.times):
            hidden = self.layer(hidden.clone())
            hidden.mul_(self.scale)
        return hidden


def whole_batch():
    """One item that is answer throughout."""
    ones = torch.ones(1, 5, dtype=torch.long)
    return {"input_ids": torch.arange(3, 8)[None], "attention_mask": ones, "answer_mask": ones}


@pytest.mark.filterwarnings("ignore:modules that never ran")
def test_outputs_that_are_written_over_are_recorded_as_they_were():
    donor, target, batch = Loop(1, scale=3.0), Loop(1, scale=5.0), whole_batch()
    scores = record_differences(donor, target, [batch])
    ours, theirs = (model.layer(model.embed(batch["input_ids"])) for model in (donor, target))
    torch.testing.assert_close(scores.values["layer"], (ours - theirs).abs().mean((0, 1)))


def test_a_model_of_no_library_and_a_module_that_never_ran():
    with pytest.warns(UserWarning, match="never ran on these inputs score 0: idle$") as caught:
        scores = record_differences(Loop(), Loop(), [whole_batch()])
    assert caught[0].filename == __file__
    assert [scores.metadata[key] for key in ("donor", "target", "silent")] == ["", "", "idle"]
    assert scores.means == scores.stds == {}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_batch_with_nan_is_refused_at_once_if_it_is_the_first(is_first):
    donor, target, batch = Loop(), Loop(), whole_batch()
    with torch.no_grad():
        donor.embed.weight[60] = torch.nan
    poisoned = batch | {"input_ids": torch.full((1, 5), 60)}

    def stream():
        yield poisoned if is_first else batch
        assert not is_first
        yield poisoned

    message = "^in donor or target the activations of module embed are NaN or infinite"
    with pytest.raises(ValueError, match=message):
        record_differences(donor, target, stream())


class Heads(Loop):
    """A model that runs its layer on each of some heads."""

    def forward(self, input_ids, attention_mask):
        return self.layer(self.embed(input_ids)[:, :, None].expand(-1, -1, self.times, -1))


def test_outputs_of_two_shapes_are_refused():
    message = r"^module layer gives \(10, 4\) in the donor and \(15, 4\) in the target; give both"
    with pytest.raises(ValueError, match=message):
        record_differences(Heads(2), Heads(3), [whole_batch()])


@pytest.mark.parametrize(("times", "more"), [((2, 3), "target"), ((3, 2), "donor")])
def test_calls_that_have_no_partner_are_refused(times, more):
    with pytest.raises(ValueError, match=f"layer runs more often in the {more}"):
        record_differences(Loop(times[0]), Loop(times[1]), [whole_batch()])


def test_a_forward_that_bypasses_every_module_is_refused(family, batches):
    model = family("llama")
    model.forward = lambda input_ids, attention_mask: None
    with pytest.raises(
        ValueError, match="^donor and target are run by other code than their modules,"
    ):
        record_differences(model, model, batches)


@pytest.mark.parametrize("side", [0, 1])
def test_dropout_is_off_in_a_recording(pair, batches, side):
    models = pair("gpt2")
    expected = record_differences(*models, batches)
    models[side].train()
    assert_close(record_differences(*models, batches).values, expected.values, 0)


def test_a_recording_shows_a_bar_if_it_is_asked_to(pair, batches, capsys):
    record_differences(*pair(), batches)
    assert capsys.readouterr().err == ""
    record_differences(*pair(), batches, progress=True)
    assert capsys.readouterr().err.lstrip().startswith("activation differences: ")


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_of_several_processes_shows_the_bar(batches, capsys, monkeypatch, rank):
    monkeypatch.setattr(processes, "rank_and_count", lambda: (rank, 2))
    assert len([*own_batches(batches)]) == 1 and capsys.readouterr().err == ""
    assert len([*own_batches(batches, "bar")]) == 1
    assert ("bar: 100%" in capsys.readouterr().err) == (rank == 0)


def test_files_hold_names_and_no_paths(pair, batches, tmp_path):
    donor, target = pair()
    donor.config.name_or_path, target.config.name_or_path = str(tmp_path / "maths"), "org/base"
    scores = record_differences(donor, target, batches)
    assert (scores.metadata["donor"], scores.metadata["target"]) == ("maths", "org/base")
