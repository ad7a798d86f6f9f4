import pytest
import torch

from actlib.masks import ChannelMask, mark_best, random_like, save_tensors

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


def test_a_mask_shows_its_size_its_largest_modules_and_its_origin():
    channels = {
        name: torch.arange(9) < count
        for name, count in {"a": 0, "b": 2, "c": 9, "d": 1, "e": 3}.items()
    }
    assert repr(ChannelMask(channels, {"ranking": "global", "percent": "33.3"})) == (
        "ChannelMask of 15 among 45 channels, 33.3 %\n"
        "  most in c (9), e (3), b (2)\n"
        "  percent 33.3, ranking global"
    )
    assert repr(ChannelMask({})).splitlines()[1:] == ["  most in no module", "  of unknown origin"]


def test_a_combined_mask_says_what_is_true_of_it():
    stated = [{"donor": "d", "ability": "maths"}, {"donor": "d", "ability": "french", "seed": "7"}]
    a, b = (ChannelMask(mask_of(n).channels, each) for n, each in enumerate(stated))
    assert (a | b).metadata == {"donor": "d", "combined": "union"}
    assert (a & b).metadata == {"donor": "d", "combined": "intersection"}
    assert (a - b).metadata == {**stated[0], "combined": "difference"}
    assert "control" not in (a - random_like(a, 0)).metadata


@pytest.mark.parametrize(("first", "left_out"), [({}, False), ({"unranked": "zebra"}, True)])
def test_the_control_of_a_difference_leaves_out_what_the_first_mask_was_ranked_without(
    first, left_out
):
    channels = {name: torch.arange(size) < 10 * (name != "zebra") for name, size in SIZES.items()}
    empty = {name: torch.zeros(size, dtype=torch.bool) for name, size in SIZES.items()}
    difference = ChannelMask(channels, first) - ChannelMask(empty, {"unranked": "zebra,apple"})
    drawn = random_like(difference, 0, per_module=False)
    assert drawn.channels["apple"].any() and drawn.channels["zebra"].any() != left_out


def test_a_combined_mask_was_ranked_without_what_its_masks_were_not_ranked_with():
    a, b = (
        ChannelMask(mask_of(n).channels, {"unranked": left_out})
        for n, left_out in enumerate(["zebra,apple", "zebra"])
    )
    assert (a | b).metadata["unranked"] == "zebra"
    assert {*(a & b).metadata["unranked"].split(",")} == {"zebra", "apple"}
    assert "unranked" not in (a | ChannelMask(b.channels)).metadata


def test_jaccard_extremes():
    a = mask_of(1)
    empty = a - a
    assert (a.jaccard(a), a.jaccard(empty), empty.jaccard(empty)) == (1.0, 0.0, 1.0)


@pytest.mark.parametrize("operation", ["__or__", "__and__", "__sub__", "jaccard"])
def test_masks_of_different_models_do_not_combine(operation):
    a = mask_of(1)
    with pytest.raises(ValueError, match="apple has 99 channels instead of 100"):
        getattr(a, operation)(mask_of(1, sizes=SIZES | {"apple": 99}))
    with pytest.raises(
        ValueError, match="^the masks are of different models: no module mango; unk"
    ):
        getattr(a, operation)(mask_of(1, sizes={"zebra": 40, "apple": 100, "kiwi": 60}))


def test_round_trip_keeps_channels_order_and_metadata(tmp_path):
    mask = mask_of(1)
    mask.save(tmp_path / "very" / "deep" / "mask.safetensors")
    loaded = ChannelMask.load(tmp_path / "very" / "deep" / "mask.safetensors")
    assert list(loaded.channels) == list(SIZES)
    assert as_set(loaded) == as_set(mask)
    assert loaded.metadata == mask.metadata
    assert loaded.digest == mask.digest != mask_of(2).digest
    assert [path.name for path in (tmp_path / "very" / "deep").iterdir()] == ["mask.safetensors"]


@pytest.mark.parametrize("tensor", [torch.ones(3), torch.ones(2, 2, dtype=torch.bool)])
def test_a_mask_holds_rows_of_yes_and_no(tmp_path, tensor):
    save_tensors(tmp_path / "mask", "ChannelMask", {"a": tensor}, {})
    with pytest.raises(ValueError, match="is a damaged ChannelMask file: expected rows of yes"):
        ChannelMask.load(tmp_path / "mask")


def test_a_module_that_json_lists_twice_is_refused(tmp_path):
    one, other = (f'"a": {{"channels": 3, "masked": [{number}]}}' for number in (0, 1))
    (tmp_path / "mask.json").write_text(f'{{"modules": {{{one}, {other}}}}}')
    with pytest.raises(ValueError, match="is no mask in JSON: a is listed twice"):
        ChannelMask.load(tmp_path / "mask.json")


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


def test_random_controls_are_near_the_expected_overlap():
    mask = mask_of(1)
    overlaps = [(mask & random_like(mask, seed, per_module=False)).count for seed in range(300)]
    expected = mask.count**2 / mask.total
    assert abs(sum(overlaps) / 300 - expected) < 1.0


@pytest.mark.parametrize("per_module", [True, False])
def test_random_controls_leave_out_what_was_not_ranked(per_module):
    channels = {name: torch.arange(40) < 12 for name in ("a", "b", "head", "norm")}
    channels["head"], channels["norm"] = (torch.zeros(40, dtype=torch.bool) for _ in range(2))
    mask = ChannelMask(channels, {"without": "head,norm", "unranked": "head,norm"})
    drawn = random_like(mask, 0, per_module)
    assert list(drawn.channels) == list(channels) and drawn.count == mask.count
    assert {own.dtype for own in drawn.channels.values()} == {torch.bool}
    assert not drawn.channels["head"].any() and not drawn.channels["norm"].any()
    channels["norm"] = ~channels["norm"]  # of another mask, by a union
    assert random_like(mask, 0, per_module).channels["norm"].any()


def test_channels_are_marked_on_the_device_of_their_scores():
    scores = {name: torch.empty(size, device="meta") for name, size in SIZES.items()}
    for per_module in (True, False):
        marked = mark_best(scores, 50, highest=True, per_module=per_module)
        assert {own.device.type for own in marked.values()} == {"meta"}


def test_views_of_one_tensor_can_be_saved(tmp_path):
    whole = torch.arange(6) % 2 == 0
    mask = ChannelMask({"a": whole[:4], "b": whole[4:], "c": whole[::2]})
    mask.save(tmp_path / "mask")
    assert as_set(ChannelMask.load(tmp_path / "mask")) == as_set(mask)
