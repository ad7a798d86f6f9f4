import math
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM

from actlib.channels import channel_modules
from actlib.masks import ChannelMask

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import __main__ as command
from benchmarks import floors, folders, machine, measuring
from benchmarks.measuring import Options, measure, peer_python
from benchmarks.processes import Served, run_command
from benchmarks.report import fitted, report
from benchmarks.rows import ALL, GROWTHS, ROWS, Aim
from benchmarks.serving import NotRunError, Way
from benchmarks.shapes import random_batches, tiny
from benchmarks.tables import judge, read, write
from benchmarks.timing import exponent, in_turn, ratio

KEPT = Path(command.HERE) / "results"
BY_HAND = {"transfer-mergekit", "recording-transformer-lens", "recording-nnsight"}
SERVER = """
from benchmarks.serving import NotRunError, Way, serve
print("what a library prints is no answer")
def grow(): held.append(b"x" * 50_000_000); return {"size": 5.0}
def refuse(): raise NotRunError("no such thing here")
held = []
serve(lambda: {"grow": Way(grow), "refuse": Way(refuse)}, lambda: {"python": "3"})
"""


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """Every row that needs no other tool, at tiny sizes, in this process."""
    folder = tmp_path_factory.mktemp("benchmarks")
    options = Options(folder / "scratch", quick=True, local=True)
    for name, row in ALL.items():
        write(folder / "results", name, measure(row, options))
    return folder / "results"


@pytest.mark.parametrize("name", [name for name in ALL if name not in BY_HAND])
def test_every_row_runs_at_tiny_sizes(quick, name):
    table = read(quick, name)
    if name == "recording-gpu" and table.not_run("cuda"):
        assert table.not_run("cuda") == "no GPU here"
        return
    row = ALL[name]
    ways = (
        [row.ours, *row.others, *[row.floor] * bool(row.floor)]
        if row in ROWS
        else table.values("way")
    )
    cases = row.cases if hasattr(row, "cases") else table.values("case")
    assert ways and cases
    for case in cases:
        if not table.not_run(case):
            assert all(table.series(case, way, "seconds")[0] > 0 for way in ways)
    assert len(table.values("commit")) == 1 and "" not in table.values("torch")


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_rows_of_other_tools_say_that_these_are_missing(name, monkeypatch, tmp_path):
    tool = ALL[name].peer or "mergekit"
    monkeypatch.delenv(f"ACT_PEER_{tool.upper()}", raising=False)
    records = measure(ALL[name], Options(tmp_path, quick=True, local=True))
    assert {record["measure"] for record in records} == {"not run"}
    assert all(f"{tool} is not installed here" in record["note"] for record in records)
    with pytest.raises(NotRunError, match="gone, which is not there"):
        peer_python(tool, {tool: str(tmp_path / "gone")})


@pytest.mark.parametrize("name", [row.name for row in ROWS if row.peer])
def test_the_floor_beside_another_tool_runs_on_our_side(name, monkeypatch, tmp_path):
    class Side:
        facts: ClassVar = {"peer": "tool"}

        def __init__(self, ways):
            self.ways = ways

        def run(self, way):
            assert way in self.ways
            return {"seconds": 1.0, "peak_bytes": 1.0}

        run_watched = run

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    row = ALL[name]
    ours = [row.ours, *[row.floor] * bool(row.floor)]
    monkeypatch.setattr(measuring, "_ours", lambda *_: Side(ours))
    monkeypatch.setattr(measuring, "_peer", lambda *_: Side(row.others))
    records = measure(row, Options(tmp_path, turns=1))
    assert {each["way"] for each in records if each["measure"] == "peak_bytes"} == {
        *ours,
        *row.others,
    }


def test_the_report_tells_every_row_and_never_a_number_that_was_not_measured(quick):
    text = report(quick)
    for row in ROWS:
        lines = [line for line in text.splitlines() if line.startswith(f"| `{row.name}`")]
        assert len(lines) >= len(row.cases)
        assert all(line.count(" | ") == 8 for line in lines)
        for line in lines if row.name in BY_HAND else ():
            assert "not run" in line and " × [" not in line
    assert report(quick / "nothing").count("not run") >= len(ROWS)


def test_the_kept_report_is_what_the_kept_tables_say():
    assert (KEPT.parent / "RESULTS.md").read_text(encoding="utf-8") == report(KEPT)


def test_the_kept_tables_are_of_rows_that_exist():
    names = {path.stem for path in KEPT.glob("*.csv")}
    assert names <= {*ALL, "growth"}


def test_tables_keep_what_was_measured(tmp_path):
    told = {"case": "a", "note": "", **dict.fromkeys(machine.COLUMNS, "x")}
    records = [
        {**told, "way": way, "measure": "seconds", "turn": turn, "value": turn * factor}
        for turn in (2, 1)
        for way, factor in (("ours", 1.5), ("other", 0.125))
    ]
    write(tmp_path, "some", records)
    table = read(tmp_path, "some")
    assert table.series("a", "ours", "seconds") == [1.5, 3.0]
    assert table.series("a", "other", "seconds") == [0.125, 0.25]
    assert table.series("a", "other", "peak_bytes") == []
    assert (table.not_run("a"), table.not_run("b")) == ("", "no record")
    assert read(tmp_path, "absent") is None


def test_ratios_are_of_runs_of_one_turn():
    # The machine slows down tenfold in the middle; each turn's ratio stays what it is.
    found = ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0])
    assert (found.median, found.low, found.high, found.runs) == (2.0, 2.0, 2.2, 3)
    for sides in (([], []), ([1.0], [1.0, 2.0])):
        with pytest.raises(ValueError, match="as many runs of both sides"):
            ratio(*sides)


@pytest.mark.parametrize(
    ("kind", "limit", "ours", "other", "median", "held", "always"),
    [
        ("times", 1.5, [1.4, 1.4, 1.6], [1, 1, 1], 1.4, True, False),
        ("times", 1.5, [1.4, 1.6, 1.6], [1, 1, 1], 1.6, False, False),
        ("times", 1.5, [1.5, 1.2, 1.2], [1, 1, 1], 1.2, True, True),
        ("fold", 3.0, [1, 1, 1], [2.9, 3.1, 4.0], 3.1, True, False),
        ("fold", 3.0, [1, 1, 1], [2.9, 2.8, 4.0], 2.9, False, False),
        ("above", 1.0, [5, 6, 7], [4.5, 5.5, 5.5], 0.5, True, False),
        ("above", 1.0, [5, 6, 7], [3, 3, 3], 3, False, False),
    ],
)
def test_aims_are_judged_by_the_median(kind, limit, ours, other, median, held, always):
    verdict = judge(Aim("seconds", kind, limit), ours, other)
    assert verdict.found.median == pytest.approx(median)
    assert (verdict.held, verdict.always) == (held, always)


def test_exponents_of_exact_powers_have_no_width():
    sizes = [1, 2, 4, 8, 16]
    found = exponent(sizes, [3 * size**1.5 for size in sizes])
    assert (found.value, found.factor) == pytest.approx((1.5, 3.0))
    assert found.half_width == pytest.approx(0, abs=1e-6)


def test_the_interval_of_an_exponent_is_that_of_a_regression():
    from scipy import stats

    sizes = [1, 2, 4, 8, 16, 32]
    values = [1.1, 1.8, 4.4, 7.5, 17.0, 30.0]
    line = stats.linregress([math.log(x) for x in sizes], [math.log(y) for y in values])
    found = exponent(sizes, values)
    assert found.value == pytest.approx(line.slope)
    assert found.half_width == pytest.approx(stats.t.ppf(0.975, 4) * line.stderr, rel=1e-3)
    with pytest.raises(ValueError, match="at least 3 points"):
        exponent([1, 2], [1, 2])


def test_growth_is_fitted_through_every_run(tmp_path):
    told = {"note": "", "way": "ours", "measure": "seconds", **dict.fromkeys(machine.COLUMNS, "x")}
    records = [
        {**told, "case": str(size), "turn": turn, "value": size**2 * 1.01**turn}
        for size in (1, 2, 4)
        for turn in (1, 2)
    ]
    write(tmp_path, GROWTHS[0].name, records)
    (found,) = fitted(tmp_path)
    assert found["exponent"] == pytest.approx(2) and found["runs"] == 6
    assert "2.00 ± 0.0" in report(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"), [("patch-apply", "3 × [3, 3], n = 2"), ("recording-cpu", "0.333 × [0.333, ")]
)
def test_the_report_tells_what_no_implementation_can_pass(name, said, tmp_path):
    row = ALL[name]
    floor = 4 if name == "patch-apply" else 0.25  # as many times as fast, or of the time
    told = {"case": row.cases[0], "measure": "seconds", **dict.fromkeys(machine.COLUMNS, "x")}
    seconds = {row.ours: 2.0, row.floor: 1.5, **dict(zip(row.others, (6.0, 9.0), strict=False))}
    records = [
        {**told, "way": way, "turn": turn, "value": value * turn, "note": ""}
        for way, value in seconds.items()
        for turn in (1, 2)
    ]
    write(tmp_path, row.name, records)
    line = next(line for line in report(tmp_path).splitlines() if f"`{row.name}`" in line)
    assert said in line and f"; {row.floor}: {floor} ×" in line
    write(tmp_path, row.name, [each for each in records if each["way"] != row.floor])
    assert row.floor not in report(tmp_path)


def test_patched_bytes_count_whole_cache_lines():
    model = AutoModelForCausalLM.from_config(tiny())
    sizes = {name: each.channels for name, each in channel_modules(model).items()}
    none = {name: torch.zeros(size, dtype=torch.bool) for name, size in sizes.items()}
    for name, lines in (("model.embed_tokens", 128 * 64), ("lm_head", 128), ("model.norm", 2)):
        channels = {key: value.clone() for key, value in none.items()}
        channels[name][5] = True
        held = {"model.embed_tokens": 128, "lm_head": 64, "model.norm": 1}[name]
        found = floors.patched_bytes(model, ChannelMask(channels))
        assert found == 2 * lines + 2 * 2 * held


def test_runs_go_in_turn_and_the_first_round_does_not_count():
    called = []
    ways = {name: lambda name=name: called.append(name) or {"seconds": 1.0} for name in "ab"}
    found = in_turn(ways, 2)
    assert "".join(called) == "ababab"
    assert [(turn, name) for turn, name, _ in found] == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
    with pytest.raises(ValueError, match="at least 1"):
        in_turn(ways, 0)


def test_what_comes_before_and_after_a_run_is_not_timed():
    import time

    way = Way(lambda: {"own": 2.0}, lambda: time.sleep(0.05), lambda: time.sleep(0.05))
    measures = way.measure()
    assert measures["own"] == 2.0 and measures["seconds"] < 0.05


def test_a_served_process_answers_and_its_memory_is_seen():
    with Served([sys.executable, "-c", SERVER]) as side:
        assert (side.ways, side.facts) == (["grow", "refuse"], {"python": "3"})
        assert side.run("grow")["size"] == 5.0
        watched = side.run_watched("grow")
        assert 50e6 <= watched["peak_bytes"] - watched["held_bytes"] + 1e6 < 70e6
        with pytest.raises(NotRunError, match="no such thing here"):
            side.run("refuse")
    with pytest.raises(RuntimeError, match="without an answer"):
        Served([sys.executable, "-c", "pass"])


def test_a_whole_command_is_timed_and_its_memory_seen():
    script = "import time; held = b'x' * 60_000_000; time.sleep(0.1)"
    found = run_command([sys.executable, "-c", script])
    assert found["seconds"] > 0.1 and 60e6 < found["peak_bytes"] < 90e6
    assert found["resident_bytes"] >= found["peak_bytes"]
    with pytest.raises(RuntimeError, match="some word"):
        run_command([sys.executable, "-c", "raise SystemExit('some word')"])


def test_made_folders_load_and_masks_have_their_percent(tmp_path):
    donor, target, mask = folders.made_pair(tmp_path, tiny(), shards=3)
    assert len(list(target.glob("*.safetensors"))) == 3
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (donor, target)]
    pairs = list(zip(*(model.parameters() for model in models), strict=True))
    assert all((ours != theirs).any() for ours, theirs in pairs)
    assert mask.count == int(0.05 * mask.total)
    assert folders.made_pair(tmp_path, tiny(), shards=3)[1] == target


def test_the_page_cache_is_seen(tmp_path):
    path = tmp_path / "some.safetensors"
    path.write_bytes(bytes(1 << 20))
    assert folders.cached_share(path) == 1.0
    assert 0 <= folders.cool(tmp_path) <= 1
    folders.warm(tmp_path)
    assert folders.cached_share(path) == 1.0


def test_answers_end_their_items():
    (batch,) = random_batches(tiny(), batches=1, items=4, tokens=20, answer=6)
    assert (batch["answer_mask"] <= batch["attention_mask"]).all()
    assert batch["answer_mask"].sum(dim=1).tolist() == [6] * 4
    assert batch["attention_mask"].sum(dim=1).tolist() == [20, 15, 20, 15]
    with pytest.raises(ValueError, match="16 answer tokens do not fit into 15"):
        random_batches(tiny(), batches=1, items=4, tokens=20, answer=16)


def test_tiny_sizes_never_reach_the_kept_tables(capsys):
    assert command.main(["--quick", "rankings"]) == 1
    assert "--results" in capsys.readouterr().out


def test_the_command_writes_tables_a_report_and_the_figure(tmp_path, capsys):
    words = ["--quick", "--local", "--scratch", str(tmp_path / "scratch")]
    words += ["--results", str(tmp_path / "results"), "rankings", "growth-layers"]
    assert command.main(words) == 0
    text = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert text == report(tmp_path / "results") and text in capsys.readouterr().out
    made = {path.name for path in (tmp_path / "results").iterdir()}
    assert made == {
        *(f"growth.{suffix}" for suffix in ("pdf", "png", "csv")),
        *("rankings.csv", "growth-layers.csv"),
    }
    with pytest.raises(SystemExit):
        command.main(["no-such-row"])
