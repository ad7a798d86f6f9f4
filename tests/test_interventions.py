import pytest
import torch
import transformers
from causal_families import build
from slow_reference import hook_count
from tiny_models import ARCHITECTURES, Loop, random_mask, unchanged
from torch import nn

from actlib.channels import channel_modules
from actlib.hooks import output_hooks
from actlib.interventions import ABLATIONS, ablated, patched


@pytest.fixture(params=[*ARCHITECTURES, "qwen3", "gemma3", "phi"])
def architecture(request):
    """Families that differ most, and three that apply norms to each head."""
    return request.param


def some(model, only=None):
    return random_mask(model, 0.4, only=only and [only])


def inputs_of(batch):
    return {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}


@torch.no_grad()
def logits_of(model, batch, **options):
    return model(**inputs_of(batch), **options).logits


@torch.no_grad()
def outputs_of(model, batch):
    """Every output of every channel module in one forward, as the rest of the model sees it."""
    seen = {}

    def hold(name, output):
        seen.setdefault(name, []).append(output)

    with output_hooks(model, channel_modules(model), hold):
        model(**inputs_of(batch))
    return {name: torch.stack(outputs) for name, outputs in seen.items()}


def interventions(donor, target, mask):
    means = {name: torch.ones(len(chosen)) for name, chosen in mask.channels.items()}
    return [patched(target, donor, mask)] + [
        ablated(target, mask, how, means=means) for how in ABLATIONS
    ]


def test_full_patch_gives_the_donor_and_an_empty_one_the_target(pair, architecture, batches):
    donor, target = pair(architecture)
    alone = [[logits_of(model, batch) for batch in batches] for model in (donor, target)]
    assert not torch.equal(alone[0][0], alone[1][0])
    with patched(target, donor, random_mask(target, share=1.1)):
        patched_logits = [logits_of(target, batch) for batch in batches]
    assert all(map(torch.equal, patched_logits, alone[0]))
    for intervention in interventions(donor, target, random_mask(target, share=0)):
        with intervention:
            assert torch.equal(logits_of(target, batches[0]), alone[1][0])


def test_an_edit_writes_its_channels_and_no_other(pair, architecture, batches):
    donor, target = pair(architecture)
    theirs, ours = (outputs_of(model, batches[0]) for model in (donor, target))
    for name in ours:
        mask = some(target, only=name)
        chosen = mask.channels[name]
        means = {name: torch.linspace(1, 2, len(chosen))}
        for intervention, given in (
            (patched(target, donor, mask), theirs[name]),
            (ablated(target, mask, "zero"), torch.zeros_like(ours[name])),
            (ablated(target, mask, "mean", means=means), means[name].expand_as(ours[name])),
        ):
            with intervention:
                found = outputs_of(target, batches[0])[name]
            # Upstream of the one edited module nothing moves, so its other channels stay.
            assert torch.equal(found[..., chosen], given[..., chosen])
            assert torch.equal(found[..., ~chosen], ours[name][..., ~chosen])


def test_resampling_two_items_of_one_length_swaps_them(family, architecture, items, collate):
    model = family(architecture)
    batch = collate([items[1], items[3]])[0]
    alone = outputs_of(model, batch)
    for name, outputs in alone.items():
        mask = some(model, only=name)
        chosen = mask.channels[name]
        with ablated(model, mask, "resample"):
            found = outputs_of(model, batch)[name]
        given = outputs.expand(-1, 2, *outputs.shape[2:]).flip(1)
        assert torch.equal(found[..., chosen], given[..., chosen])
        assert torch.equal(found[..., ~chosen], outputs.expand_as(found)[..., ~chosen])


@pytest.mark.parametrize("length", [4, 6])  # as many tokens as heads, or another number
@pytest.mark.parametrize("name", ["qwen3", "gemma3", "phi"])
def test_norms_of_each_head_are_exchanged_by_item_and_token(family, items, collate, name, length):
    model = family(name)
    short = length - 1
    long, other = items[1], items[3]
    batch = collate([[part[-length:] for part in long], [part[-short:] for part in other]])[0]
    norm = f"model.layers.1.self_attn.q_{'layer' * (name == 'phi')}norm"
    alone = outputs_of(model, batch)[norm][0]
    with ablated(model, some(model, only=norm), "resample"):
        found = outputs_of(model, batch)[norm][0]
    if name in ("gemma3", "phi"):  # which have heads first
        alone, found = alone.transpose(1, 2), found.transpose(1, 2)
    chosen = some(model).channels[norm]
    assert torch.equal(found[:, -short:][..., chosen], alone.flip(0)[:, -short:][..., chosen])
    first = found[0, 0][..., chosen]  # of which the giver has none: its first token
    assert torch.equal(first, alone[1, 1][..., chosen])


def test_resampling_gives_another_item_from_an_unedited_run(family, batches):
    model, batch = family(), batches[0]
    alone = outputs_of(model, batch)
    with ablated(model, some(model), "resample", seed=5):
        found = outputs_of(model, batch)
    real = batch["attention_mask"].bool()
    lengths = real.sum(1).tolist()
    givers = set()
    for name, chosen in some(model).channels.items():
        for item, length in enumerate(lengths):
            last = found[name][0, item, -min(lengths) :][..., chosen]
            matching = [
                giver
                for giver in range(len(lengths))
                if torch.equal(last, alone[name][0, giver, -min(lengths) :][..., chosen])
            ]
            assert len(matching) == 1 and matching != [item]
            givers.add((item, *matching))
            for back in range(1, length + 1):  # from the end; past the giver its first token
                given = alone[name][0, matching[0], -min(back, lengths[matching[0]])]
                assert torch.equal(found[name][0, item, -back][chosen], given[chosen])
    assert len(givers) == len(lengths), "all modules take from one giver"


def test_padding_does_not_count(family, architecture, items, collate):
    model, found = family(architecture), []
    left, right = (collate(items, side=side)[0] for side in ("left", "right"))
    wider = {key: nn.functional.pad(value, (5, 0)) for key, value in left.items()}
    for padded in (left, right, wider):
        with ablated(model, some(model), "resample"):
            found.append(logits_of(model, padded)[padded["attention_mask"].bool()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keep", [4, torch.tensor([3, 6, 7, 8])])
def test_kept_logits_are_those_of_a_full_forward(pair, architecture, batches, keep):
    donor, target = pair(architecture)
    index = slice(-keep, None) if isinstance(keep, int) else keep
    for make in range(4):
        found = []
        for options in ({}, {"logits_to_keep": keep}):
            with interventions(donor, target, some(target))[make]:
                found.append(logits_of(target, batches[0], **options))
        whole = found[0] if make == 3 else found[0][:, index]  # resampling computes all
        torch.testing.assert_close(found[1], whole, rtol=1e-5, atol=1e-5)


def test_resampling_depends_on_the_seed_and_the_number_of_forwards_only(family, items, collate):
    model = family()
    batch, other = collate(items, size=6)[0], collate(items, size=2)[0]

    def run(seed, first):
        with ablated(model, some(model), "resample", seed=seed):
            return logits_of(model, first), logits_of(model, batch)

    assert torch.equal(run(0, batch)[1], run(0, other)[1])
    assert not torch.equal(*run(0, batch))
    assert len({run(seed, other)[1].sum().item() for seed in range(5)}) > 1


@pytest.mark.parametrize("make", range(4))
def test_interventions_leave_models_as_they_were_even_after_errors(pair, batches, make):
    def fail(_module, _inputs):
        raise RuntimeError("broken")

    donor, target = pair("gpt2")
    for model in (donor, target):
        logits_of(model, batches[0])  # in which the library puts up hooks of its own
    target.lm_head.weight.requires_grad_(False)
    donor.train().lm_head.eval()
    with unchanged(donor, target):
        with pytest.raises(RuntimeError), interventions(donor, target, some(target))[make]:
            raise RuntimeError("in the block")
        with interventions(donor, target, some(target))[make]:
            expected = logits_of(target, batches[0])
            assert hook_count(target) > 0
        failing = donor if make == 0 else target
        with interventions(donor, target, some(target))[make]:
            with failing.lm_head.register_forward_pre_hook(fail):
                with pytest.raises(RuntimeError, match="broken"):
                    target(**inputs_of(batches[0]))
            found = logits_of(target, batches[0])  # what failed leaves nothing behind
            assert torch.equal(found, expected) or make == 3  # which draws again


def test_dtypes_may_differ(family, batches):
    donor, target = family("qwen2", 1, torch.bfloat16), family("qwen2", 0)
    expected = logits_of(donor, batches[0])
    with patched(target, donor, random_mask(target, share=1.1)):
        found = logits_of(target, batches[0])
    assert found.dtype == torch.float32 and torch.equal(found, expected.float())


def test_modules_that_run_several_times_are_patched_call_by_call():
    donor, target, ids = Loop(), Loop(), torch.arange(6).reshape(2, 3)
    alone, mask = donor(ids, None), random_mask(target, share=1.1, only=("layer",))
    with patched(target, donor, mask):
        assert torch.equal(target(ids, None), alone)
        donor.times = 1
        with pytest.raises(ValueError, match="layer runs more often than"):
            target(ids, None)
        donor.times = 3  # what is left over must not reach the next forward
        expected = [target(ids, None), target(ids, None)]
    assert torch.equal(*expected)


def test_interventions_nest(family, batches):
    donor, target, late = family(seed=1), family(seed=0), some(family(), only="lm_head")
    with patched(target, donor, some(target, only="model.embed_tokens")):
        inner = logits_of(target, batches[0])
        with ablated(target, late, "resample"):  # exchanges what the patched model computes
            resampled = logits_of(target, batches[0])
    chosen = late.channels["lm_head"]
    assert torch.equal(resampled[..., ~chosen], inner[..., ~chosen])
    last = resampled[:, -1, chosen], inner[:, -1, chosen]
    assert sorted(last[0].sum(1).tolist()) == sorted(last[1].sum(1).tolist())


def test_what_cannot_be_done_is_refused(pair, family):
    donor, target = pair()
    mask, wrong = some(target), some(family("gpt2"))
    nan = {name: torch.full(each.shape, torch.nan) for name, each in mask.channels.items()}
    mixture = family("mixtral")
    router = next(n for n, each in channel_modules(mixture).items() if each.role == "router")
    for intervention, message in (
        (patched(target, donor, wrong), "the mask is of another model"),
        (ablated(target, wrong, "zero"), "the mask is of another model"),
        (
            ablated(mixture, some(mixture, only=router), "zero"),
            "or of routers, most of which choose",
        ),
        (ablated(target, mask, "noise"), "ablation 'noise' is none of zero"),
        (ablated(target, mask, "mean", means={}), "needs `means`"),
        (ablated(target, mask, "mean", means=nan), "must be finite"),
    ):
        with unchanged(target), pytest.raises(ValueError, match=message), intervention:
            pass


@pytest.mark.parametrize(("name", "cache"), [("mamba", "cache_params"), ("rwkv", "state")])
def test_a_cache_is_refused_by_whatever_name(name, cache):
    donor, target, ids = build(name, 1), build(name, 0), torch.arange(3, 9)[None]
    given = {cache: target(ids, use_cache=True)[cache]}
    with patched(target, donor, random_mask(target)):
        with pytest.raises(ValueError, match="the inputs hold a cache"):
            target(ids, **given)


def test_inputs_that_cannot_be_resampled_are_refused(family):
    model = family()
    ids = torch.arange(3, 15).reshape(2, 6)
    gap, none = torch.ones(2, 6), torch.ones(2, 6)
    gap[1, 3], none[1] = 0, 0
    with ablated(model, some(model), "resample"):
        for inputs, message in (
            ({"input_ids": ids[:1]}, "at least 2 items, got 1"),
            ({"input_ids": ids, "attention_mask": gap}, "item 1 must have real tokens"),
            ({"input_ids": ids, "attention_mask": none}, "item 1 must have real tokens"),
            ({"input_ids": ids, "attention_mask": none[:, 1:]}, "must be of shape"),
            ({"input_ids": ids, "past_key_values": transformers.DynamicCache()}, "hold a cache"),
        ):
            with pytest.raises(ValueError, match=message):
                model(**inputs)
        with pytest.raises(ValueError, match="outside of a forward"):
            model.lm_head(torch.zeros(2, 6, 16))
        assert model(ids).logits.isfinite().all()
