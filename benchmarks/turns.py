"""Ways in turn, the ratio within each turn, and one table of what came out.

runs = in_turns({"record": record, "bare": bare}, turns=5)     # A B A B ...: one row a run
table = summary("bfloat16", runs, "bare")                      # medians, and the ratio to "bare"
save([table], "recording", folder)                             # folder/recording.csv
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path.append(str(ROOT))  # for actlib
Way = Callable[[], object]


def in_turns(
    ways: Mapping[str, Way], turns: int, before: Callable[[], object] = lambda: None
) -> pd.DataFrame:
    """A row for each run: turn, way, seconds, and the measures that the way returns, a dict.

    Rounds over the ways, so that what else the machine does meets all; a first does not count.
    `before` runs before every run, untimed. On a GPU the peak of its memory is a measure too.
    """
    rows, on_gpu = [], torch.cuda.is_available()
    for turn in range(turns + 1):
        for name, run in ways.items():
            before()
            if on_gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            measures = run()
            if on_gpu:
                torch.cuda.synchronize()
            rows.append({"turn": turn, "way": name, "seconds": time.perf_counter() - start})
            rows[-1] |= measures if isinstance(measures, dict) else {}
            if on_gpu:
                rows[-1]["GPU peak GiB"] = torch.cuda.max_memory_allocated() / 2**30
    return pd.DataFrame(rows).query("turn > 0")


def summary(case: str, runs: pd.DataFrame, against: str = "") -> pd.DataFrame:
    """Median, low and high of each measure; seconds divided by those `against`, turn by turn."""
    measures = [column for column in runs.columns if column not in ("turn", "way")]
    table = runs.melt(["turn", "way"], measures, var_name="measure").dropna()
    if against:
        seconds = runs.pivot(index="turn", columns="way", values="seconds")
        ratios = seconds.div(seconds[against], axis=0).drop(columns=against)
        ratios = ratios.melt(value_name="value").assign(measure=f"seconds / {against}")
        table = pd.concat([table, ratios])
    statistics = table.groupby(["way", "measure"], sort=False)["value"]
    statistics = statistics.agg(median="median", low="min", high="max", runs="count").reset_index()
    return statistics.assign(case=case)[["case", "way", "measure", "median", "low", "high", "runs"]]


def options(about: str | None, **further: str) -> argparse.Namespace:
    """The options of a script, and further words by name with their help, "" if not given."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=about, formatter_class=formatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to try the script")
    parser.add_argument("--turns", type=int, default=5, help="counted runs of each way")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the table")
    for name, text in (further | {"serve": "for a process of the script's own"}).items():
        parser.add_argument(f"--{name}", default="", help=text)
    chosen = parser.parse_args()
    if chosen.tiny and chosen.results == RESULTS and not chosen.serve:
        parser.error("--tiny needs --results FOLDER, since its numbers mean nothing")
    return chosen


def save(tables: Sequence[pd.DataFrame], name: str, folder: Path) -> None:
    """Write all tables as one, with machine, versions, commit and date; print the last of them."""
    print(tables[-1].to_string(index=False, float_format="{:.4g}".format), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    table = pd.concat(tables).assign(**machine())
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


def machine() -> dict[str, str]:
    """Processor, cores, GPU, versions, commit of the checkout, and date."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "processor": f"{names[0]}, {len(os.sched_getaffinity(0))} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "versions": f"torch {torch.__version__}, transformers {metadata.version('transformers')}",
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.date.today().isoformat(),
    }


def peak_memory(run: Callable[[], object], pid: int) -> float:
    """Most anonymous GiB (RssAnon, every 3 ms) of a process while something runs.

    That is what it holds for itself, without pages of mapped files, which the system can drop.
    """
    status, done, sizes = Path(f"/proc/{pid}/status"), threading.Event(), [0]

    def watch() -> None:
        while status.exists():
            lines = [each for each in status.read_text().splitlines() if each.startswith("RssAnon")]
            sizes.extend(int(line.split()[1]) for line in lines)
            if done.wait(0.003):
                break

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(sizes) / 2**20


class Worker:
    """A process, maybe of another environment, that sets up ways once and runs one when asked."""

    def __init__(self, served: str, python: str = sys.executable) -> None:
        """Start this script once more, to `serve` the ways of that name."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([python, *sys.argv, "--serve", served], **pipes)
        self.ways = {way: partial(self.run, way) for way in self._answer()}
        self.size = peak_memory(lambda: None, self.process.pid)

    def run(self, way: str) -> dict[str, float]:
        """Run a way once: its measures, and its memory above what the process held before all."""
        print(way, file=self.process.stdin, flush=True)
        measures: dict[str, float] = {}
        peak = peak_memory(lambda: measures.update(self._answer()), self.process.pid)
        return measures | {"extra memory GiB": peak - self.size}

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args} ended with status {self.process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """Let the process end."""
        self.process.communicate()


def serve(ways: Mapping[str, Way]) -> None:
    """Run the ways that a `Worker` names on standard input, until it is closed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    print(json.dumps(list(ways)), file=answers)
    for line in sys.stdin:
        measures = ways[line.strip()]()
        print(json.dumps(measures if isinstance(measures, dict) else {}), file=answers)
