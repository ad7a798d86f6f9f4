import pytest
import torch

from actlib.masks import ChannelMask, random_like

SIZES = {"zebra": 40, "apple": 100, "mango": 60}


def mask_of(seed, share=0.3, sizes=SIZES):
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.rand(size, generator=generator) < share for name, size in sizes.items()}
    return ChannelMask(drawn, {"ability": "maths"})


def as_set(mask):
    return {(name, int(i)) for name, chosen in mask.channels.items() for i in chosen.nonzero()}


def test_set_operations_agree_with_python_sets():
    a, b = mask_of(1), mask_of(2)
    assert as_set(a | b) == as_set(a) | as_set(b)
    assert as_set(a & b) == as_set(a) & as_set(b)
    assert as_set(a - b) == as_set(a) - as_set(b)
    assert a.jaccard(b) == len(as_set(a) & as_set(b)) / len(as_set(a) | as_set(b))
    assert (a.count, a.total, a.percent) == (len(as_set(a)), 200, len(as_set(a)) / 2)
    empty = a - a
    assert (a.jaccard(a), a.jaccard(empty), empty.jaccard(empty)) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__", "jaccard"])
def test_masks_of_different_models_do_not_combine(operation):
    a = mask_of(1)
    with pytest.raises(ValueError, match="apple has 99 channels instead of 100"):
        getattr(a, operation)(mask_of(1, sizes=SIZES | {"apple": 99}))
    for sizes, words in (
        ({"zebra": 40, "apple": 100}, "mango has no channels instead of 60"),
        (SIZES | {"kiwi": 60}, "kiwi has 60 channels instead of none"),
    ):
        with pytest.raises(ValueError, match=f"^the masks are of different models: {words}"):
            getattr(a, operation)(mask_of(1, sizes=sizes))


def test_a_mask_shows_its_size_and_its_origin():
    mask = ChannelMask({"a": torch.arange(9) < 3}, {"ranking": "global", "percent": "33.3"})
    assert "3 among 9 channels, 33.3 %" in repr(mask) and "ranking global" in repr(mask)
    assert len(repr(mask).splitlines()) <= 3 and "of unknown origin" in repr(ChannelMask({}))


def test_a_combined_mask_says_what_is_true_of_it():
    stated = [{"donor": "d", "ability": "maths"}, {"donor": "d", "ability": "french", "seed": "7"}]
    a, b = (ChannelMask(mask_of(n).channels, each) for n, each in enumerate(stated))
    assert (a | b).metadata == {"donor": "d", "combined": "union"}
    assert (a & b).metadata == {"donor": "d", "combined": "intersection"}
    assert (a - b).metadata == {**stated[0], "combined": "difference"}
    assert "control" not in (a - random_like(a, 0)).metadata
    a, b = (  # what neither mask was ranked with
        ChannelMask(mask_of(n).channels, {"unranked": left_out})
        for n, left_out in enumerate(["zebra,apple", "zebra"])
    )
    assert (a | b).metadata["unranked"] == (b - a).metadata["unranked"] == "zebra"
    assert {*(a & b).metadata["unranked"].split(",")} == {"zebra", "apple"}
    whole = ChannelMask(b.channels)
    assert "unranked" not in (a | whole).metadata | (whole - a).metadata


@pytest.mark.parametrize("per_module", [True, False])
def test_random_controls_match_the_count_and_follow_the_seed(per_module):
    mask = mask_of(1)
    controls = [random_like(mask, seed, per_module) for seed in range(20)]
    assert all(control.count == mask.count for control in controls)
    origin = {"control": "random per module" if per_module else "random uniform", "seed": "3"}
    assert controls[3].metadata == mask.metadata | origin
    assert not per_module or controls[3].digest == random_like(mask, 3).digest  # the default
    assert as_set(controls[0]) == as_set(random_like(mask, 0, per_module))
    assert len({control.digest for control in controls}) == 20
    matched = [
        all(int(c.channels[n].sum()) == int(m.sum()) for n, m in mask.channels.items())
        for c in controls
    ]
    assert all(matched) if per_module else not all(matched)


@pytest.mark.parametrize("per_module", [True, False])
def test_random_controls_leave_out_what_was_not_ranked(per_module):
    channels = {name: torch.arange(40) < 12 for name in ("a", "b", "head", "norm")}
    channels["head"], channels["norm"] = (torch.zeros(40, dtype=torch.bool) for _ in range(2))
    mask = ChannelMask(channels, {"without": "head,norm", "unranked": "head,norm"})
    drawn = random_like(mask, 0, per_module)
    assert list(drawn.channels) == list(channels) and drawn.count == mask.count
    assert not drawn.channels["head"].any() and not drawn.channels["norm"].any()
    channels["norm"] = ~channels["norm"]  # of another mask, by a union
    assert random_like(mask, 0, per_module).channels["norm"].any()


def test_round_trip_keeps_channels_order_and_metadata(tmp_path):
    mask = mask_of(1)
    mask.save(tmp_path / "deep" / "mask.safetensors")
    loaded = ChannelMask.load(tmp_path / "deep" / "mask.safetensors")
    assert list(loaded.channels) == list(SIZES)
    assert as_set(loaded) == as_set(mask)
    assert loaded.metadata == mask.metadata
    assert loaded.digest == mask.digest != mask_of(2).digest
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mask.safetensors"]
    with pytest.raises(ValueError, match="channels of a must be bool, got torch.float32"):
        ChannelMask({"a": torch.full((3,), 0.5)})
    whole = torch.arange(6) % 2 == 0  # views of one tensor
    mask = ChannelMask({"a": whole[:4], "b": whole[4:], "c": whole[::2]})
    mask.save(tmp_path / "mask")
    assert as_set(ChannelMask.load(tmp_path / "mask")) == as_set(mask)
