"""Kill a study twenty times at random moments, let it finish, and compare it with one left alone.

    python tools/kill_test.py /tmp/killed --preset tiny --kills 20 --seed 0

Each round starts the runner anew on the same folders, waits for what this round is to hit (a
training, a recording, a cell of a sweep, a notebook, the writing of a table or figure), then a
random time, and ends the process group by SIGKILL; every other round also the children that lead
groups of their own, as kernels do. What is no longer to be seen is waited for in vain, and what
runs then is killed. Where all was done before the kill came, what the round is to hit and all that
follows from it is removed, and the round begins again: every kill counted hit a live run. After the
last one the runner must end well, and leave the tables, figures, weights and scores of an
uninterrupted run, bit for bit but for columns of times.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[1]
# How each shows, in words of a process or a hidden file, and the most seconds to wait after that.
HITS = {
    "training": ("step build", 60.0),
    "recording": ("step record", 20.0),
    "sweep": ("step sweep", 60.0),
    "notebook": ("step notebook", 80.0),
    "figure": (r"\.(fig|tab)\d\d_", 0.02),
}
EARLY = ("training",) * 5 + ("recording",) * 3
LATE = ("sweep",) * 3 + ("notebook",) * 5 + ("figure",) * 4
PATIENCE = 30.0
"""Seconds after a notebook shows for which anything else is still waited for."""
LEFT = ("figures", "notebooks", "sweep")
MADE = {"training": ("store", *LEFT), "recording": ("scores", *LEFT)}
"""Folders of what a round is to hit and what follows from it; of the others those of `LEFT`."""
TIMES = re.compile(r"(^|_)(seconds|minutes|time)(_|$)")
CELL_BUNDLE = "sweep_transfer_rankings_seed0"


def main() -> int:
    """Run the test; 1 where the killed run differs from the other, or does not end."""
    given = _parser().parse_args()
    killed, whole = (given.folder / name for name in ("killed", "whole"))
    random.seed(given.seed)
    rounds = -(-given.kills // len(EARLY + LATE))
    mix = (*EARLY * rounds, *random.sample(LATE * rounds, len(LATE) * rounds))[: given.kills]
    log = []
    for number, wanted in enumerate(mix):
        hit = kill_once(given, killed, wanted, number % 2 == 1)
        while hit["ended_before"] is not None:
            if hit["ended_before"]:
                print(f"the run ended by itself with status {hit['ended_before']}")
                return 1
            undo(killed, wanted)
            hit = kill_once(given, killed, wanted, number % 2 == 1)
        log.append(hit)
        print(json.dumps(hit), flush=True)
    for folder in (killed, whole):
        began = time.monotonic()
        code = start(given, folder).wait()
        print(
            f"{folder.name}: exit status {code} after {time.monotonic() - began:.0f} s", flush=True
        )
        if code:
            return 1
    mine, other = contents(killed), contents(whole)
    different = sorted(
        name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name)
    )
    left = leftovers(killed)
    result = {"kills": log, "compared": len(other), "different": different, "left": left}
    (given.folder / "result.json").write_text(json.dumps(result, indent=1))
    print(f"{len(other)} results compared, {len(different)} differ: {', '.join(different[:20])}")
    print(f"{len(left)} partial files left: {', '.join(left[:20])}")
    return int(bool(different or left))


def start(given: argparse.Namespace, folder: Path) -> subprocess.Popen:
    """The runner, as `make study` calls it, in a process group of its own."""
    command = [sys.executable, "-m", "snakemake", "all", CELL_BUNDLE, "--cores", str(given.cores)]
    command += ["--config", f"preset={given.preset}", f"figures={folder / 'figures'}"]
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"ACT_STORE": str(folder / "store")}
    with (folder / "run.log").open("a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
        )


def undo(folder: Path, wanted: str) -> None:
    """Remove what a round is to hit, and what follows from it."""
    for name in MADE.get(wanted, LEFT):
        for path in (folder / name, *folder.glob(f"store/*/{name}")):
            shutil.rmtree(path, ignore_errors=True)


def kill_once(
    given: argparse.Namespace, folder: Path, wanted: str, also_kernels: bool
) -> dict[str, object]:
    """One round; tells what was to be hit, what ran when the kill came, and what it left behind."""
    process = start(given, folder)
    began, (sign, most) = time.monotonic(), HITS[wanted]
    seen, later = False, None
    while not seen and process.poll() is None:
        time.sleep(0.005 if wanted == "figure" else 0.1)
        seen = _shows(sign, process.pid, folder / "figures", wanted == "figure")
        if _shows(HITS["notebook"][0], process.pid, folder, False):
            later = later or time.monotonic()
            if time.monotonic() - later > PATIENCE:
                break
    time.sleep(random.uniform(0, most))
    family = descendants(process.pid)
    running = sorted({found[0] for pid in family if (found := re.findall(_JOB, words_of(pid)))})
    ended = process.poll()
    for group in {process.pid, *(family if also_kernels else [])}:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
    told = {"wanted": wanted, "seen": seen, "running": running, "ended_before": ended}
    told |= {"seconds": round(time.monotonic() - began, 1), "kernels_too": also_kernels}
    return told | {"partial": [Path(name).name for name in leftovers(folder)]}


_JOB = r"step (?:build|record|sweep|notebook) .*?(?:--model \S+ --seed \d|--seed \d|\d\d_\w+)"


def _shows(sign: str, pid: int, figures: Path, is_file: bool) -> bool:
    if is_file:
        return figures.is_dir() and any(re.match(sign, name) for name in os.listdir(figures))
    return any(sign in words_of(each) for each in descendants(pid))


def descendants(pid: int) -> list[int]:
    """Processes below one, itself not among them."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(path.name))
    below, found = list(parents.get(pid, [])), []
    while below:
        found.append(below.pop())
        below += parents.get(found[-1], [])
    return found


def words_of(pid: int) -> str:
    """Command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def leftovers(folder: Path) -> list[str]:
    """Hidden partial files and folders that a run left."""
    return [
        str(path) for path in folder.rglob(".*") if re.search(r"\.partial$|\.training$", path.name)
    ]


def contents(folder: Path) -> dict[str, str]:
    """Hash of each result by its path: tables without times, figures, weights, scores, cells."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".csv" or path.suffix == ".parquet":
            csv = path.suffix == ".csv"
            table = pd.read_csv(path, dtype=str) if csv else pd.read_parquet(path)
            kept = [column for column in table if not TIMES.search(str(column))]
            data = (
                path.read_bytes()
                if csv and len(kept) == table.shape[1]
                else (table[kept].to_csv(index=False).encode())
            )
        elif path.suffix == ".safetensors":
            data = tensors_of(path)
        elif path.suffix in (".png", ".pdf") and "figures" in path.parts:
            data = path.read_bytes()
        else:
            continue
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def tensors_of(path: Path) -> bytes:
    """Names, shapes and bytes of a file's tensors."""
    import torch

    told = hashlib.sha256()
    with safe_open(path, framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            told.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            told.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return told.digest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=lambda text: Path(text).resolve(), help="of both runs")
    parser.add_argument("--preset", default="tiny", help="name in configs/")
    parser.add_argument("--kills", type=int, default=20, help="rounds")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--cores", type=int, default=2, help="of the runner")
    return parser


if __name__ == "__main__":
    sys.exit(main())
