from functools import partial

import pytest
import torch
from slow_reference import moving_elements
from tiny_models import random_mask, same_bits, state_of, unchanged

from actlib.evaluation import evaluate
from actlib.masks import ChannelMask
from actlib.transfer import as_matrix, preserved, selections, transfer_, transferred


def test_indices_cover_the_selected_elements_once(family, architecture):
    model = family(architecture)
    parameters = dict(model.named_parameters())
    for mask in (random_mask(model), random_mask(model, share=1.1), random_mask(model, share=0.05)):
        for name, selection in selections(model, mask).items():
            for chunk in (1, 50, 10_000):
                visits = torch.zeros(as_matrix(parameters[name]).shape)
                for index in selection.indices(chunk):
                    assert visits[index].numel()
                    visits[index] += 1
                assert torch.equal(visits, selection.at().float())
            assert int(selection.at().sum()) == selection.size


def test_preserved_restores_after_an_exception_and_leaves_the_rest(family):
    model = family("llama_tied")
    mask, before = random_mask(model, only=("lm_head", "model.embed_tokens")), state_of(model)
    with pytest.raises(RuntimeError), preserved(model, mask):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
        raise RuntimeError
    moving = moving_elements(model, mask)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, torch.where(moving[name], before[name], before[name] + 1)), name


def test_a_forward_in_the_same_autocast_block_sees_what_has_moved(pair, batches):
    def nll():
        return evaluate(target, batches)["nll"].tolist()

    donor, target = pair("llama")
    mask = random_mask(target)
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    with transferred(target, donor, mask, 1.0), autocast():
        moved = nll()
    with autocast():
        before = nll()
        with transferred(target, donor, mask, 1.0):
            assert nll() == moved != before
        assert nll() == before


@pytest.mark.parametrize(
    ("architecture", "given", "own"),
    [
        ("llama_tied", torch.bfloat16, torch.float32),
        ("qwen2_moe", torch.float32, torch.bfloat16),
        ("qwen2_moe", torch.bfloat16, torch.float64),
    ],
)
def test_a_donor_of_another_dtype_gives_what_the_formula_gives(family, architecture, given, own):
    donor, target = family(architecture, 1, given), family(architecture, 0, own)
    mask, before, other = random_mask(target), state_of(target), state_of(donor)
    moving, wide = moving_elements(target, mask), torch.promote_types(own, torch.float32)
    with unchanged(donor, target), transferred(target, donor, mask, 0.7):
        for name, tensor in target.state_dict().items():
            ours, theirs = before[name].to(wide), other[name].to(wide)
            moved = (ours + 0.7 * (theirs - ours)).to(own)
            assert torch.equal(tensor, torch.where(moving[name], moved, before[name])), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
@pytest.mark.parametrize("sides", [("cuda", "cpu"), ("cpu", "cuda"), ("cuda", "cuda")])
@pytest.mark.parametrize("architecture", ["llama_tied", "qwen2_moe"])
def test_a_donor_on_another_device_gives_the_same(pair, architecture, sides):
    donor, target = pair(architecture)
    mask, before = random_mask(target), state_of(target)
    with transferred(target, donor, mask, 0.7):
        expected = state_of(target)
    moved = donor.to(sides[0]), target.to(sides[1])
    with transferred(moved[1], moved[0], mask, 0.7):
        for name, tensor in state_of(target).items():
            assert tensor.device.type == sides[1]
            torch.testing.assert_close(tensor.cpu(), expected[name], rtol=1e-6, atol=1e-7)
    assert same_bits(state_of(target.to("cpu")), before)


def test_refusals_leave_the_target_as_it_was(pair, family):
    donor, target = pair("qwen2")
    before, mask = state_of(target), random_mask(target)
    for other, own_mask, scale, message in (
        (donor, random_mask(family("gpt2")), 0.4, "^the mask is of another model: "),
        (target, mask, 0.4, "^donor and target are the same model"),
        (donor, mask, float("nan"), "scale must be a finite number"),
    ):
        with pytest.raises(ValueError, match=message):
            transfer_(target, other, own_mask, scale)
    with pytest.raises(ValueError, match="another model"), preserved(target, ChannelMask({})):
        pass
    assert same_bits(state_of(target), before)


@pytest.mark.parametrize(("side", "number"), [("donor", torch.nan), ("target", torch.inf)])
def test_a_number_that_is_not_finite_is_named_and_nothing_moves(pair, side, number):
    donor, target = pair("llama")
    name = list(dict(target.named_parameters()))[-1]  # all others would have moved before
    with torch.no_grad():
        dict((donor if side == "donor" else target).named_parameters())[name].fill_(number)
    mask, before = random_mask(target, share=1.1), state_of(target)
    message = f"^{name} of the {side} holds NaN or infinite numbers in the channels to move"
    with pytest.raises(ValueError, match=message):
        transfer_(target, donor, mask)
    for key, tensor in target.state_dict().items():
        assert torch.equal(tensor.nan_to_num(7), before[key].nan_to_num(7)), key


def test_a_scale_that_overflows_is_refused(pair):
    donor, target = pair("llama", torch.float16)
    message = "^scale 1000000.0 makes numbers of model.embed_tokens.weight infinite in float16"
    with unchanged(target), pytest.raises(ValueError, match=message):
        transfer_(target, donor, random_mask(target), 1e6)


def test_numbers_that_do_not_move_and_sums_that_overflow_may_be_anything(pair):
    donor, target = pair("llama")
    with torch.no_grad():
        donor.lm_head.weight.fill_(float("nan"))
    transfer_(target, donor, random_mask(target, only=("model.norm",)))
    assert all(parameter.isfinite().all() for parameter in target.parameters())
    with torch.no_grad():
        donor.lm_head.weight.fill_(3e38)
    transfer_(target, donor, random_mask(target, only=("lm_head",), share=1.1), 1.0)
    assert torch.equal(target.lm_head.weight, donor.lm_head.weight)
