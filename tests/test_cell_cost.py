import importlib.util
from pathlib import Path

import pandas as pd
import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "cell_cost.py"


@pytest.fixture(scope="module")
def cell_cost():
    spec = importlib.util.spec_from_file_location("cell_cost", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_way_is_timed_as_often_as_asked(cell_cost, study):
    table = cell_cost.cell_costs(study, repeats=2)
    ways = {stage: set(rows["way"]) for stage, rows in table.groupby("stage")}
    moved = {"copy", "transferred", "walk"}
    assert ways == {"setting": {"copy", "walk"}, "moving": moved, "moving, new scale": moved}
    assert (table["runs"] == 2).all()
    assert (table["settings"] == len(study.preset.grids.percents)).all()
    assert (table["min"] > 0).all()
    assert (table["min"] <= table["median"]).all() and (table["median"] <= table["max"]).all()
    with pytest.raises(ValueError, match="at least 1 run"):
        cell_cost.cell_costs(study, repeats=0)


def test_both_ways_judge_the_same_and_leave_the_models(cell_cost, study, models, scores):
    donor, target = models
    before = [p.detach().clone() for model in models for p in model.parameters()]
    settings = [(scores.top(percent), scale) for percent in (5, 50) for scale in (0.4, 1.0)]
    ways = cell_cost.judging_ways(study, models, settings)
    tables = [run() for run in ways.values()]
    assert tables[0].equals(tables[1])
    assert len(tables[0]) == len(settings) * len(study.items(study.lost[0], "test"))
    for run in cell_cost.moving_ways(models, settings).values():
        run()
    after = [p for model in models for p in model.parameters()]
    assert all(map(torch.equal, before, after))


def test_ways_that_disagree_are_refused(cell_cost, study, models, scores, monkeypatch):
    monkeypatch.setattr(cell_cost, "transfer_", lambda *arguments: None)
    with pytest.raises(ValueError, match="they differ"):
        cell_cost.judging_ways(study, models, [(scores.top(50), 1.0)])


def test_runs_go_in_turn_and_the_first_round_does_not_count(cell_cost):
    called = []
    ways = {name: lambda name=name: called.append(name) for name in "ab"}
    seconds = cell_cost.times_in_turn(ways, 2)
    assert "".join(called) == "ababab"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("save", [True, False])
def test_the_table_is_written_only_when_asked(
    cell_cost, study, small_preset, tmp_path, capsys, save
):
    folder = tmp_path / "tables"
    arguments = ["--preset", small_preset, "--repeats", "1", "--figures", str(folder)]
    cell_cost.main([*arguments, *(["--save"] if save else [])])
    assert "transferred" in capsys.readouterr().out
    kept = folder / "tab_cell_cost.csv"
    assert kept.is_file() == save
    if save:
        assert list(pd.read_csv(kept)["way"]).count("walk") == 3
