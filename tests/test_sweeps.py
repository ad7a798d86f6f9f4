"""The sweep: every cell is kept, none runs twice, and the tables hold what was measured."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from actlib.study import sweeps
from actlib.study.presets import ROOT, load_preset
from actlib.study.provenance import FILE
from actlib.study.recipes import recipe
from actlib.study.sweep_parts import PARTS, transfer_cells

SHIPPED = sorted((ROOT / "data" / "sweeps").glob("*/*.parquet"))
BUNDLES = [(part, bundle) for part, found in PARTS.items() for bundle in found.bundles]


@pytest.fixture(scope="module")
def swept(small_preset, small_store, tmp_path_factory):
    """The small study with its whole sweep run, and the folder of its kept tables."""
    patch = pytest.MonkeyPatch()
    patch.setenv("ACT_STORE", str(small_store))
    patch.setattr(sweeps, "KEPT", tmp_path_factory.mktemp("kept"))
    study = sweeps.open_sweep(small_preset)
    for part, bundle in BUNDLES:
        sweeps.run(study, part, bundle, 0)
    sweeps.collect(study)
    yield study
    patch.undo()


def scores_of(table, **labels):
    rows = table
    for name, value in labels.items():
        rows = rows[rows[name] == value]
    assert len(rows), labels
    return rows.set_index(["purpose", "item"])["nll"].sort_index()


def test_each_cell_holds_every_item_once(swept):
    for part in PARTS:
        table = sweeps.kept("small", part)
        if part == "channels":  # statistics, not items
            continue
        settings = [name for name in sweeps.FIRST if name in table]
        settings += [name for name in ("model",) if name in table]
        counts = table.groupby([*settings, "purpose", "item"], dropna=False).size()
        assert (counts == 1).all(), part
        assert np.isfinite(table["nll"]).all() and (table["seconds"] > 0).all()


def test_transfer_has_every_method_and_equal_trials(swept):
    table = sweeps.kept("small", "transfer")
    methods = {method for bundle in PARTS["transfer"].bundles.values() for method in bundle}
    assert set(table["method"]) == methods - {"ends"} | {"donor", "target"}
    moved = table[table["top_percent"].notna()]
    trials = moved.drop_duplicates(["method", "top_percent", "scale"]).groupby("method").size()
    assert (trials == 4).all(), trials
    draws = moved[(moved["scale"] == 1) & (moved["method"] == "random_matched")]["draw"]
    assert set(draws) == {0, 1}


def test_a_cell_is_what_a_fresh_transfer_gives(swept):
    from actlib.transfer import transfer_

    table = sweeps.kept("small", "transfer")
    donor, target = swept.model("donor", 0), swept.model("target", 0)
    transfer_(target, donor, swept.scores(swept.lost, 0).top(50), 0.5)
    fresh = swept.judge(target, swept.cells, "validation", "test")
    expected = fresh.set_index(["purpose", "item"])["nll"].sort_index()
    found = scores_of(table, method="act_global", top_percent=50, scale=0.5)
    pd.testing.assert_series_equal(found, expected)


def test_entries_hold_as_many_parameters_as_the_paper_s_mask(swept):
    table = sweeps.kept("small", "transfer")
    held = table.groupby(["method", "top_percent"])["parameters_percent"].first()
    for percent in (5, 50):
        assert held["task_vector", percent] == pytest.approx(held["act_global", percent])


def test_arms_start_where_they_say(swept):
    sft = sweeps.kept("small", "sft")
    transfer = sweeps.kept("small", "transfer")
    ends = transfer[transfer["purpose"] == "test"]
    start = sft[sft["steps"] == 0]
    for arm, end in (("sft_only", "target"), ("sft_only_lora", "target"), ("donor_sft", "donor")):
        found = scores_of(start, method=arm)
        np.testing.assert_allclose(found, scores_of(ends, method=end), atol=1e-4)
    assert set(sft["steps"]) == {0, 2}
    for arm in set(sft["method"]):
        arms = sft[sft["method"] == arm].pivot(index="item", columns="steps", values="nll")
        assert (arms[0] != arms[2]).any(), arm


def test_interventions_change_outputs_and_full_patching_would_give_the_donor(swept):
    table = sweeps.kept("small", "causality")
    ends = {name: scores_of(table, method=name) for name in ("donor", "target")}
    assert set(table["how"].dropna()) == {"patch", "zero", "mean", "resample"}
    for how, end in (("patch", "target"), ("zero", "donor"), ("mean", "donor")):
        found = scores_of(table, method="act_global", how=how)
        assert (found != ends[end]).any()


def test_merging_judges_two_and_three_specialists(swept):
    table = sweeps.kept("small", "merging")
    assert set(table["specialists"]) == {2, 3}
    assert set(table[table["method"] == "layer_swap"]["specialists"]) == {2}
    ends = table[(table["method"] == "ends") & (table["specialists"] == 3)]
    assert set(ends["model"]) == {"base", "multilingual", "maths", "forgetful"}


def test_statistics_of_channels_have_every_pair_and_ranking(swept):
    table = sweeps.kept("small", "channels")
    overlaps = table[(table["method"] == "overlap") & (table["null"] == "matched")]
    pairs = overlaps.drop_duplicates(["ability_a", "ability_b"])
    assert len(pairs) == 3 and (overlaps.groupby("ranking").size() == 3).all()
    halves = table[table["method"] == "halves"]
    assert (
        halves["jaccard"].between(0, 1).all() and len(halves) == 3 * overlaps["ranking"].nunique()
    )
    assert set(table[table["method"] == "concentration"]["ranking"]) == {"raw", "scaled"}


def test_kept_rows_are_read_only_where_they_are_of_these_models(swept, capsys):
    fallback = pd.DataFrame({"seed": [0]})
    table = sweeps.kept_or(swept, "transfer", fallback)
    pd.testing.assert_frame_equal(table, sweeps.kept("small", "transfer"))
    assert "kept sweep" in capsys.readouterr().out
    models = {**swept.preset.models}
    models["forgetful"] = models["forgetful"].model_copy(update={"steps": 99})
    other = replace(swept, preset=swept.preset.model_copy(update={"models": models}))
    assert sweeps.kept_or(other, "transfer", fallback) is fallback
    assert "make sweep PRESET=small" in capsys.readouterr().out


def test_cells_measured_at_once_equal_those_of_the_sweep(swept):
    cells = [{"method": "act_global", "how": "zero", "top_percent": 5, "draw": 0}]
    now = sweeps.measured(swept, "causality", cells, [0])
    then = sweeps.kept("small", "causality")
    np.testing.assert_allclose(
        scores_of(now, how="zero"), scores_of(then, how="zero", method="act_global"), atol=1e-6
    )


def test_nothing_is_measured_twice_and_a_missing_cell_alone_is_made_again(swept, monkeypatch):
    calls = []
    part = PARTS["transfer"]

    def counted(study, seed, method, cells):
        calls.extend(cells)
        yield from part.measure(study, seed, method, cells)

    monkeypatch.setitem(
        sweeps.PARTS,
        "transfer",
        type(part)(part.bundles, part.models, part.cells, counted),
    )
    note = sweeps.run(swept, "transfer", "random", 0)
    assert not calls
    listed = json.loads(note.read_text())
    lost = note.parent / listed[3].pop("file")
    before = pd.read_parquet(lost)
    lost.unlink()
    with pytest.raises(ValueError, match="1 of .* cells of the part 'transfer' are missing"):
        sweeps.collect(swept)
    sweeps.run(swept, "transfer", "random", 0)
    assert calls == [listed[3]]
    after = pd.read_parquet(lost)
    columns = [name for name in before if name != "seconds"]
    pd.testing.assert_frame_equal(before[columns], after[columns])


def test_a_cell_s_digest_follows_what_decides_it(swept):
    preset = swept.preset
    cell = transfer_cells(preset.sweep, "act_global")[0]
    first = sweeps.digest_of(swept, "transfer", 0, cell)
    assert first == sweeps.digest_of(swept, "transfer", 0, dict(cell))
    assert first != sweeps.digest_of(swept, "transfer", 1, cell)
    assert first != sweeps.digest_of(swept, "transfer", 0, {**cell, "scale": 0.25})


def test_kept_tables_and_bundles_say_where_they_come_from(swept):
    kept = json.loads((sweeps.KEPT / "small" / FILE).read_text())
    assert set(kept) == set(PARTS) and kept["transfer"]["seeds"] == [0]
    measured = json.loads((swept.store / "small" / "sweep" / FILE).read_text())
    entry = measured["transfer-random-seed0"]
    assert entry["data_sha256"] == kept["transfer"]["data_sha256"]
    inputs = {role: each["sha256"] for role, each in entry["inputs"].items()}
    assert any(role.startswith("model ") for role in inputs) and all(inputs.values())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_shipped_tables_say_where_they_come_from(path):
    entry = json.loads(path.with_name(FILE).read_text())[path.stem]
    assert entry["seeds"] == sorted(set(pd.read_parquet(path)["seed"])) and entry["commit"]


def test_the_tables_tell_what_they_were_made_from(swept):
    origin = sweeps.kept("small", "transfer").attrs["actlib"]
    assert set(origin["recipes"]) == {"multilingual-seed0", "forgetful-seed0"}
    assert origin["measuring"] == sweeps.MEASURING


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_shipped_tables_are_of_the_presets_models_seeds_and_methods(path):
    preset, table = load_preset(path.parent.name), pd.read_parquet(path)
    origin = table.attrs["actlib"]
    assert origin["measuring"] == sweeps.MEASURING
    for model, digest in origin["recipes"].items():
        name, _, seed = model.rpartition("-seed")
        assert recipe(preset, name, int(seed)) == digest, model
    assert sorted(table["seed"].unique()) == preset.sweep.seeds
    part = PARTS[path.stem]
    methods = {m for bundle in part.bundles.values() for m in bundle if part.cells(preset.sweep, m)}
    assert methods - {"ends"} <= set(table["method"])


def test_the_sweeps_of_both_families_are_shipped():
    assert {path.stem for path in SHIPPED} == set(PARTS)
    assert {path.parent.name for path in SHIPPED} == {"smol", "tiny"}


def test_a_preset_without_a_sweep_and_unknown_names_are_refused(swept, tmp_path):
    with pytest.raises(ValueError, match="'qwen2.5-7b' has no section 'sweep'"):
        sweeps.require_sweep(load_preset("qwen2.5-7b"))
    with pytest.raises(ValueError, match="no sweep of the preset 'mine' is kept"):
        sweeps.kept("mine", "transfer")
    with pytest.raises(ValueError, match="unknown part 'transfer' 'magic'"):
        sweeps.run(swept, "transfer", "magic", 0)
