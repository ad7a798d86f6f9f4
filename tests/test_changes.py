import math
import weakref

import pytest
import torch

import actlib.pairing.changes
from actlib.pairing.changes import parameter_changes


def tensors(donor, target):
    theirs = dict(target.named_parameters())
    return [(name, value, theirs[name]) for name, value in donor.named_parameters()]


def norm(values):
    return float(torch.cat([each.detach().double().flatten() for each in values]).norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_are_those_of_all_entries_at_once(pair, architecture, dtype, monkeypatch):
    monkeypatch.setattr(actlib.pairing.changes, "_PIECE", 7)  # so that tensors come in many pieces
    rows = tensors(*pair(architecture, dtype))
    found = parameter_changes(iter(rows))
    expected = norm([a.float() - b.float() for _, a, b in rows]) / norm([b for *_, b in rows])
    assert found.overall == pytest.approx(expected, rel=1e-5)
    assert sum(each.parameters for each in found.kinds) == sum(b.numel() for *_, b in rows)
    assert found.not_finite == ()


def test_only_the_kind_that_changed_has_a_change(family):
    donor, target = family("llama"), family("llama")
    with torch.no_grad():
        for layer in donor.model.layers:
            layer.mlp.up_proj.weight *= 1.25
    table = parameter_changes(tensors(donor, target)).table().set_index("kind")["relative_norm"]
    assert table["mlp.up_proj"] == pytest.approx(0.25, rel=1e-5)
    assert 0 < table["overall"] < 0.25
    assert (table.drop(["mlp.up_proj", "overall"]) == 0).all()


def test_one_pair_of_tensors_is_held_at_a_time():
    held = []

    def fresh():
        for index in range(3):
            assert not any(reference() is not None for reference in held)
            made = [torch.ones(4), torch.zeros(4)]
            held.extend(weakref.ref(each) for each in made)
            yield (f"h.{index}.a.weight", made.pop(0), made.pop())

    parameter_changes(fresh())
    assert len(held) == 6


def test_unrelated_weights_of_one_size_are_sqrt_2_apart():
    generator = torch.Generator().manual_seed(0)
    donor, target = torch.randn(2, 40_000, generator=generator)
    assert parameter_changes([("a", donor, target)]).overall == pytest.approx(2**0.5, rel=0.02)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_tensor_that_is_not_finite_is_named(value):
    good, bad = torch.ones(3), torch.tensor([1.0, value, 2.0])
    found = parameter_changes([("h.0.a.weight", bad, good), ("h.0.b.weight", good, bad)])
    assert found.not_finite == ("donor's h.0.a.weight", "target's h.0.b.weight")
    assert not math.isfinite(found.overall)


def test_zero_targets_are_no_division_by_zero():
    zero, one = torch.zeros(2), torch.ones(2)
    found = parameter_changes([("a.weight", zero, zero), ("b.weight", one, zero)])
    assert [each.relative_norm for each in found.kinds] == [0.0, math.inf]


def test_no_tensors_are_an_empty_table():
    found = parameter_changes([])
    assert found.table().empty and list(found.table()) == ["kind", "parameters", "relative_norm"]


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="a.weight is expected in one shape"):
        parameter_changes([("a.weight", torch.ones(2), torch.ones(3))])


def test_packed_experts_are_a_kind_for_each_projection(pair):
    kinds = [each.kind for each in parameter_changes(tensors(*pair("mixtral"))).kinds]
    assert {"mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate"} <= set(kinds)
    assert len(kinds) == len(set(kinds))


def test_a_parameter_that_is_neither_weight_nor_bias_is_a_kind_of_its_own():
    one = torch.ones(2)
    names = ("h.0.attn.sinks", "h.1.attn.sinks", "h.0.attn.weight", "h.0.attn.bias", "scale")
    kinds = parameter_changes((name, one, one) for name in names).kinds
    assert [(each.kind, each.parameters) for each in kinds] == [
        ("attn.sinks", 4),
        ("attn", 4),
        ("scale", 2),
    ]
