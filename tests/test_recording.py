import hashlib
import threading
from functools import partial

import pytest
import torch
from slow_reference import expected_scores, hook_count
from tiny_models import Loop

from actlib.activations import record_activations
from actlib.masks import ChannelMask
from actlib.norms import weight_differences
from actlib.recording import record_differences, sum_tokens
from actlib.scores import pool

assert_close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5, check_dtype=False)


def test_pooled_recordings_have_the_stds_of_one(pair, items, collate):
    donor, target = pair("gpt2")
    parts = [
        record_differences(donor, target, collate(chosen, 2), moments=True)
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
def test_scores_do_not_depend_on_batch_size_padding_or_order(pair, items, collate, side):
    one = record_differences(*pair(), collate(items, 1))
    other = record_differences(*pair(), collate(items[::-1], 4, side))
    assert_close(other.values, one.values)
    assert other.metadata["data_hash"] == one.metadata["data_hash"]


# tokens before heads; heads before tokens, in outputs that lie so in memory, and that do not
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "phi"])
def test_as_many_positions_as_heads_are_told_apart(pair, items, collate, name):
    donor, target = pair(name)
    four = [(ids[-4:], answer[-4:]) for ids, answer in items]
    assert donor.config.num_attention_heads == 4
    found = record_differences(donor, target, collate(four))
    assert_close(found.values, expected_scores(donor, target, four)["values"])


def test_positions_that_lie_apart_in_memory_are_told_from_as_many_heads(pair, items, collate):
    models, four = pair("qwen3"), [(ids[-4:], answer[-4:]) for ids, answer in items]
    expected = record_differences(*models, collate(four)).values
    for layer in (*models[0].model.layers, *models[1].model.layers):

        def lay_out(_module, _inputs, output):  # as convolutions do, in Inkling
            return output.transpose(1, 2).contiguous().transpose(1, 2)

        layer.self_attn.q_proj.register_forward_hook(lay_out)
    assert_close(record_differences(*models, collate(four)).values, expected)


def test_answer_marks_on_padding_do_not_count(pair, batches):
    donor, target = pair()
    noisy = [b | {"answer_mask": b["answer_mask"] | ~b["attention_mask"].bool()} for b in batches]
    clean = record_differences(donor, target, batches)
    marked = record_differences(donor, target, noisy)
    assert_close(marked.values, clean.values, rtol=0, atol=0)
    assert marked.metadata["data_hash"] == clean.metadata["data_hash"]


@pytest.mark.parametrize("side", [0, 1])
def test_nan_and_infinite_activations_are_refused_by_module(pair, batches, side):
    models = pair("qwen2")
    with torch.no_grad():
        models[side].model.layers[1].mlp.up_proj.weight[3, 0] = (torch.nan, torch.inf)[side]
    with pytest.raises(ValueError, match=r"module model.layers.1.mlp.up_proj are NaN or inf"):
        record_differences(*models, batches)
    assert hook_count(models[0]) == hook_count(models[1]) == 0


def test_what_cannot_be_recorded_is_refused(pair, items, collate, batches):
    donor, target = pair()
    mask = weight_differences(donor, target).top(5)
    foreign = ChannelMask({"a": torch.ones(2, dtype=torch.bool)})
    for words, given, channels in (
        ("there is no batch to record", [], mask),
        ("the mask is empty", batches, mask - mask),
        ("the mask is of another model", batches, foreign),
    ):
        with pytest.raises(ValueError, match=words):
            record_activations(target, given, channels)
    for words, given, metadata in (
        ("there is no batch to record", [], {}),
        ("expected a list of batches, each a mapping", batches[0], {}),
        ("must not use the key 'tokens'", batches, {"tokens": "3"}),
    ):
        with pytest.raises(ValueError, match=words):
            record_differences(donor, target, given, metadata=metadata)
    items[4] = (items[4][0], torch.zeros_like(items[4][1]))
    with pytest.raises(ValueError, match="the answer span of item 4 is empty"):
        record_differences(donor, target, collate(items, 2))


def test_metadata_says_where_the_scores_come_from(pair, batches, tmp_path):
    donor, target = pair()
    donor.config.name_or_path, target.config.name_or_path = str(tmp_path / "maths"), "org/base"
    target.config._commit_hash = "abc"
    found = record_differences(donor, target, batches, metadata={"ability": "maths"}).metadata
    assert (found["donor"], found["donor_revision"]) == ("maths", "")  # no path of this machine
    assert (found["target"], found["target_revision"]) == ("org/base", "abc")
    assert found["method"] == "activation difference"
    assert (found["tokens"], found["items"], found["dtype"]) == ("15", "6", "float32")
    assert found["ability"] == "maths"
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


def test_forwards_of_other_threads_do_not_count(pair, batches):
    model, mask = pair()[1], weight_differences(*pair()).top(20)
    expected, others = record_activations(model, batches, mask), iter(batches)

    def run_elsewhere(*_call):
        if (batch := next(others, None)) is not None:
            inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
            thread = threading.Thread(target=model, kwargs=inputs)
            thread.start()
            thread.join()

    with model.register_forward_pre_hook(run_elsewhere):
        found = record_activations(model, batches, mask)
    assert next(others, None) is None and torch.equal(found, expected)


@torch.no_grad()
def test_weight_differences_are_norms_over_each_channel(pair):
    donor, target = pair("qwen2")
    scores, name = weight_differences(donor, target), "model.layers.0.self_attn.q_proj"
    ours, theirs = (model.get_submodule(name) for model in (donor, target))
    row = torch.cat([(ours.weight - theirs.weight)[5], (ours.bias - theirs.bias)[5:6]])
    torch.testing.assert_close(scores.values[name][5], row.norm())
    column = (donor.model.embed_tokens.weight - target.model.embed_tokens.weight)[:, 2]
    torch.testing.assert_close(scores.values["model.embed_tokens"][2], column.norm())
    sizes = (donor.model.norm.weight.abs() + target.model.norm.weight.abs()) / 2
    torch.testing.assert_close(scores.magnitudes["model.norm"], sizes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "channels", "rows"), [(70, 2500, 2), (50, 6, 4)])
def test_sums_are_those_of_the_formula(dtype, tokens, channels, rows):
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, tokens, channels, generator=generator)
    a[:, 1] += 1e3  # far from zero, with a small std
    a[:, 2] = 3.0
    a, b = a.to(dtype), b.to(dtype)
    x, y = a.double(), b.double()
    exact = [(x - y).abs(), (x.abs() + y.abs()) / 2, x, x.square()][:rows]
    exact = torch.stack([each.sum(dim=0) for each in exact])
    rtol, atol = (1e-12, 1e-9) if dtype == torch.float64 else (2e-7, 1e-4)
    torch.testing.assert_close(sum_tokens(a, b, rows == 4), exact, rtol=rtol, atol=atol)


class Elsewhere(torch.Tensor):
    """Numbers that say they are on no CPU."""

    is_cpu = False


def test_a_device_that_sums_in_float32_loses_no_more():
    pair = torch.randn(2, 500, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = sum_tokens(*pair, moments=True)
    sums = sum_tokens(*(each.as_subclass(Elsewhere) for each in pair), moments=True)
    torch.testing.assert_close(sums.as_subclass(torch.Tensor), expected, rtol=1e-5, atol=1e-4)


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


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda hidden: hidden[0].repeat(1, 2), r"returned shape \(5, 8\), expected 1 x 5"),
        (
            lambda hidden: hidden[:, :, None].repeat(1, 1, 2, 1),
            r"gives \(5, 4\) in the donor and \(10, 4\) in the target; give both the same",
        ),
    ],
)
def test_an_output_of_another_shape_is_refused(forward, words):
    donor, target = Loop(), Loop()
    target.layer.forward = forward
    with pytest.raises(ValueError, match=f"^module layer {words}"):
        record_differences(donor, target, [whole_batch()])


def test_nan_in_the_first_batch_is_refused_before_the_second():
    donor, stream = Loop(), iter([whole_batch(), whole_batch()])
    with torch.no_grad():
        donor.embed.weight[3] = torch.nan
    with pytest.raises(ValueError, match="the activations of module embed are NaN or infinite"):
        record_differences(donor, Loop(), stream)
    assert len([*stream]) == 1


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
def test_dropout_is_off_in_a_recording_and_on_again_after_it(pair, batches, side):
    models = pair("gpt2")
    expected = record_differences(*models, batches)
    models[side].train().transformer.ln_f.eval()
    flags = [module.training for module in models[side].modules()]
    assert_close(record_differences(*models, batches).values, expected.values, rtol=0, atol=0)
    assert [module.training for module in models[side].modules()] == flags
