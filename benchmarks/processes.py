"""The measuring side: processes that run on demand, whole commands, and their peak memory.

    with Served([sys.executable, "-m", "benchmarks.side", "rankings", "global"]) as side:
        print(side.run("top")["seconds"], side.run_watched("top")["extra_bytes"])

Memory is read from outside, every few milliseconds, off `/proc/PID/status`. Anonymous memory
(RssAnon) is what a process holds for itself; pages of files that it maps can be dropped at any
time and are left out. The whole resident set's high-water mark (VmHWM) has them.
"""

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.serving import ANSWER, NotRunError

ROOT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.003


class Served:
    """A process of `serving.serve`, ready once this object exists.

    Attributes:
        facts: what its environment says of itself, such as versions.
        ways: names of what it can run.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None):
        """Start the process and wait until it has set up.

        Raises:
            NotRunError: the machine lacks what the process needs.
            RuntimeError: the process failed; its own words are on the standard error.
        """
        self._process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=surroundings(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        try:
            ready = self._answer()
        except BaseException:
            self.close()
            raise
        self.facts: dict[str, str] = ready["facts"]
        self.ways: list[str] = ready["ready"]

    def run(self, way: str) -> dict[str, float]:
        """Run a way once; its measures, `seconds` among them."""
        self._ask(way)
        return self._answer()["measures"]

    def run_watched(self, way: str) -> dict[str, float]:
        """Run a way once and watch the memory of the process meanwhile.

        Returns:
            The way's measures, and in bytes `held_bytes`, anonymous memory before the run;
            `peak_bytes`, the most during the run; `extra_bytes`, their difference.
        """
        held = memory(self._process.pid)["RssAnon"]
        peak = held
        self._ask(way)
        while not select.select([self._process.stdout], [], [], POLL_SECONDS)[0]:
            peak = max(peak, memory(self._process.pid)["RssAnon"])
        found = self._answer()["measures"]
        peak = max(peak, memory(self._process.pid)["RssAnon"])
        return {**found, "held_bytes": held, "peak_bytes": peak, "extra_bytes": peak - held}

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> "Served":
        """This process, ended on exit."""
        return self

    def __exit__(self, *_reason: object) -> None:
        """End the process."""
        self.close()

    def _ask(self, way: str) -> None:
        self._process.stdin.write(way + "\n")

    def _answer(self) -> dict:
        answer = {"error": "it ended without an answer"}
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                answer = json.loads(line.removeprefix(ANSWER))
                break
        if "not_run" in answer:
            raise NotRunError(answer["not_run"])
        if "error" in answer:
            raise RuntimeError(f"{' '.join(self._process.args)} failed: {answer['error']}")
        return answer


def run_command(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Run a whole command: `seconds`, `peak_bytes` (anonymous) and `resident_bytes` (VmHWM).

    Raises:
        RuntimeError: the command failed; its last words are told.
    """
    with tempfile.TemporaryFile() as words:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env=surroundings(environment),
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=words,
        )
        peak = resident = 0
        while process.poll() is None:
            found = memory(process.pid)
            peak = max(peak, found.get("RssAnon", 0))
            resident = max(resident, found.get("VmHWM", 0))
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - start
        if process.returncode:
            words.seek(0)
            last = words.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)} failed:\n{last}")
    return {"seconds": seconds, "peak_bytes": peak, "resident_bytes": resident}


def memory(process: int) -> dict[str, int]:
    """Bytes by kind (RssAnon, RssFile, VmRSS, VmHWM …) of a process; empty once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    pairs = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in pairs}


def surroundings(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment, with this folder's parent importable and no way to the Hub."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    told = {"PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}
    told["KINETO_LOG_LEVEL"] = "5"  # The profiler would say when it starts and stops.
    return {**os.environ, **told, **(more or {})}
