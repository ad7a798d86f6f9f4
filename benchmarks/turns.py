"""Ways in turn, the ratio within each turn, and one table of what came out.

runs = in_turns({"record": record, "bare": bare}, turns=5)     # A B A B ...: one row a run
table = summary("bfloat16", runs, against="bare")              # medians, and the ratio to "bare"
save(table, "recording", folder)                               # folder/recording.csv
"""

import datetime
import os
import platform
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Way = Callable[[], object]


def in_turns(
    ways: Mapping[str, Way], turns: int, before: Callable[[], object] = lambda: None
) -> pd.DataFrame:
    """Seconds of each run, and what else it returns; a first round is not counted.

    Rounds over the ways, so that what else the machine does meets each of them.

    Args:
        ways: each runs once; further measures that it returns, a dict by name, are kept.
        turns: rounds that count.
        before: runs before every run, untimed.

    Returns:
        turn (from 1), way, seconds, and a column for each further measure.
    """
    rows = []
    for turn in range(turns + 1):
        for name, run in ways.items():
            before()
            synchronize()
            start = time.perf_counter()
            measures = run()
            synchronize()
            rows.append({"turn": turn, "way": name, "seconds": time.perf_counter() - start})
            rows[-1] |= measures if isinstance(measures, dict) else {}
    return pd.DataFrame(rows).query("turn > 0")


def synchronize() -> None:
    """Wait until the GPU, if there is one, has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summary(case: str, runs: pd.DataFrame, against: str | None = None) -> pd.DataFrame:
    """Median, smallest and largest of each measure, and the ratios of times to one of the ways.

    Args:
        case: what was measured, such as the dtype.
        runs: of `in_turns`.
        against: way by whose seconds those of the others are divided, turn by turn.

    Returns:
        case, way, measure, median, low, high, runs.
    """
    measures = [column for column in runs.columns if column not in ("turn", "way")]
    table = runs.melt(["turn", "way"], measures, var_name="measure").dropna()
    if against is not None:
        seconds = runs.pivot(index="turn", columns="way", values="seconds")
        ratios = seconds.div(seconds[against], axis=0).drop(columns=against)
        ratios = ratios.melt(value_name="value").assign(measure=f"seconds / {against}")
        table = pd.concat([table, ratios])
    found = table.groupby(["way", "measure"], sort=False)["value"]
    found = found.agg(median="median", low="min", high="max", runs="count").reset_index()
    return found.assign(case=case)[["case", "way", "measure", "median", "low", "high", "runs"]]


def save(table: pd.DataFrame, name: str, folder: Path) -> None:
    """Write a table with the machine, the versions, the commit and the date."""
    folder.mkdir(parents=True, exist_ok=True)
    table.assign(**machine()).to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


def machine() -> dict[str, str]:
    """Processor, cores, GPU, versions, commit of the checkout, and date."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    commit = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "transformers": metadata.version("transformers"),
        "commit": commit.stdout.strip() or "unknown",
        "date": datetime.date.today().isoformat(),
    }


def peak_memory(run: Callable[[], object], pid: int | None = None) -> int:
    """Most anonymous bytes of a process above what it held before, while something runs.

    Anonymous memory (RssAnon of Linux, read every 3 ms) is what the process holds for itself,
    without pages of files that it maps, which the system can drop.

    Args:
        run: what is watched, once.
        pid: the process; this one if None.
    """
    status, done = Path(f"/proc/{pid or os.getpid()}/status"), threading.Event()
    first = most = _anonymous(status)

    def watch() -> None:
        nonlocal most
        while not done.wait(0.003):
            most = max(most, _anonymous(status))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return most - first


def _anonymous(status: Path) -> int:
    found = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(found[0].split()[1]) if found else 0  # none once the process has ended
