"""Run notebooks of a preset through Snakemake, after a look at what would fail later.

    run = plan("mine.yaml", notebooks="01-05")     # refuses a pair that does not fit, few questions
    states = execute(run, cores=2)                 # {"01_concentration": "done", ...}

The Snakefile and the notebooks are those of a clone of the project, wherever it is called from.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TextIO

import papermill
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from actlib.files import write_text
from actlib.loading import empty_model, load_tokenizer
from actlib.pairs import require_pair
from actlib.prompts import drop_long
from actlib.questions import abilities_of
from actlib.study.locking import locked
from actlib.study.presets import ROOT, Preset, choice_of, load_preset
from actlib.study.questions import PURPOSES, Questions
from actlib.study.recorded import PARTS

DONE, FAILED, EARLIER, NOT_REACHED = "done", "failed", "of an earlier run", "not reached"
PATHS = {path.stem[:2]: path for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
"""The notebooks, by number."""
LEAST = {"recording": PARTS, "validation": 1, "test": 1}
"""Questions that an ability must give to each purpose."""


@dataclass(frozen=True)
class Run:
    """What is to be run, and where its results go.

    Attributes:
        preset: what the YAML says, with defaults for the rest.
        choice: the preset's name in ``configs/``, or the absolute path of its YAML.
        notebooks: stems of those to run, such as ``01_concentration``.
        left_out: number of each that was asked for and does not apply -> why.
        store: folder of models, scores and results, of all presets.
        questions: how many each ability gives to each purpose.
    """

    preset: Preset
    choice: str
    notebooks: list[str]
    left_out: dict[str, str]
    store: Path
    questions: dict[str, dict[str, int]]

    @property
    def folder(self) -> Path:
        """Folder of the run: notebooks, results, logs and the report."""
        return self.store / self.preset.name / "study"

    def executed(self, notebook: str) -> Path:
        """Where a notebook lies once it ran."""
        return self.folder / "notebooks" / f"{notebook}.ipynb"

    def log(self, notebook: str) -> Path:
        """What a notebook said as it ran, or ``snakemake``."""
        return self.folder / "logs" / f"{notebook}.log"


def plan(preset: str, notebooks: str = "") -> Run:
    """Check a preset, its models and its questions, and say what a run of it would do.

    Args:
        preset: name in ``configs/``, or path of a YAML.
        notebooks: numbers, such as ``01-05`` or ``01,03``; all that apply if empty.

    Raises:
        ValueError: there is no Snakefile (the package is not a clone of the project), the preset is
            wrong, no notebook has such a number, a model cannot be read or the models do not fit,
            an ability has too few questions or shares one between two purposes, a notebook has no
            parameter of a name that the preset gives, or two have one number. The sentence names
            which.
    """
    if not (ROOT / "Snakefile").is_file():
        raise ValueError(f"a run needs a clone of the project; no Snakefile is in {ROOT}")
    loaded = load_preset(preset)
    asked = _read_numbers(notebooks)
    left_out = {number: why for number, why in loaded.left_out.items() if number in asked}
    chosen = [PATHS[number].stem for number in PATHS if number in {*asked} - {*left_out}]
    if not chosen:
        reasons = "; ".join(f"{number}: {why}" for number, why in left_out.items())
        raise ValueError(f"nothing to run; left out are {reasons}")
    numbers = {name[:2] for name in chosen}
    for number in sorted(numbers):
        if len(twins := sorted(PATHS[number].parent.glob(f"{number}*.ipynb"))) > 1:
            names = " and ".join(path.name for path in twins)
            raise ValueError(f"{names} are both notebook {number}; move one to another folder")
    _require_parameters(loaded)
    least = LEAST | ({"validation": 5} if "02" in numbers else {})  # folds of its probes
    questions = _count_questions(loaded, _require_models(loaded), least)
    store = Path(os.environ.get("ACT_STORE", ROOT / "artifacts")).resolve()
    choice = choice_of(preset)
    run = Run(loaded, choice, chosen, left_out, store, questions)
    note = run.folder.with_name("preset.txt")
    other = note.read_text("utf-8") if note.is_file() else choice
    if other != choice and Path(other).is_file():
        raise ValueError(f"{note.parent} holds what {other} left: give one another `name`")
    return run


def _read_numbers(numbers: str) -> list[str]:
    """Two-digit numbers that words such as ``01-05`` or ``01,03`` stand for; all if empty."""
    asked = []
    for part in (numbers or f"{min(PATHS)}-{max(PATHS)}").split(","):
        match = re.fullmatch(r"\s*(\d{1,2})(?:\s*-\s*(\d{1,2}))?\s*", part)
        if not match:
            raise ValueError(f"notebooks: expected numbers like 01-05 or 01,03, got {numbers!r}")
        first, last = int(match[1]), int(match[2] or match[1])
        asked += [f"{n:02d}" for n in range(first, last + 1)]
    if not asked or not {*asked} <= {*PATHS}:
        raise ValueError(f"notebooks: expected numbers of {', '.join(PATHS)}, got {numbers!r}")
    return asked


def _require_parameters(preset: Preset) -> None:
    """Refuse parameters that a preset gives to notebooks which have none of that name."""
    for section in ("study", "sweep"):
        runs = getattr(preset, section)
        for number, values in runs.parameters.items() if runs else ():
            there = papermill.inspect_notebook(str(PATHS[number])) if number in PATHS else {}
            if unknown := {*values} - {*there} or {number} - {*PATHS}:
                raise ValueError(
                    f"{section}.parameters: notebook {number} has no parameter "
                    f"{', '.join(sorted(unknown))}; it has {', '.join(there) or 'none'}"
                )


def _require_models(preset: Preset) -> PreTrainedTokenizerBase | None:
    """The target's tokenizer, where it is there; refuses what is no model, or no fitting pair.

    Nothing is loaded but configurations and tokenizers.
    """
    models: dict[str, tuple[PreTrainedModel, PreTrainedTokenizerBase | None]] = {}
    for role, spec in preset.loaded.items():
        options = {"revision": preset.revision_of(role)}
        try:
            models[role] = empty_model(spec.load, **options), load_tokenizer(spec.load, **options)
        except ValueError as error:
            remedy = "paths start from the YAML's folder, then from here"
            raise ValueError(f"{role}: {error}; {remedy}") from error
    if {preset.roles.donor, preset.roles.target} <= {*models}:
        (donor, one), (target, other) = models[preset.roles.donor], models[preset.roles.target]
        require_pair(donor, target, one, other)
    return models[preset.roles.target][1] if preset.roles.target in models else None


def _count_questions(
    preset: Preset, tokenizer: PreTrainedTokenizerBase | None, least: dict[str, int]
) -> dict[str, dict[str, int]]:
    """Questions that each ability gives to each purpose; refuses too few.

    With a tokenizer, those longer than ``max_tokens`` are left out.
    """
    questions = Questions(preset)
    counts: dict[str, dict[str, int]] = {ability: {} for ability in preset.abilities}
    there = list(dict.fromkeys(a for p in PURPOSES for a in abilities_of(questions.read(p))))
    if absent := [ability for ability in counts if ability not in there]:
        raise ValueError(f"no question is of {', '.join(absent)}; there are {', '.join(there)}")
    for ability, purpose in product(counts, PURPOSES):
        known = ability in abilities_of(questions.read(purpose))
        rows = questions.items(ability, purpose) if known else []
        if tokenizer is not None:
            rows = drop_long(tokenizer, rows, preset.evaluation.max_tokens)
        counts[ability][purpose] = len(rows)
    for ability, numbers in counts.items():
        if any(numbers[purpose] < count for purpose, count in least.items()):
            raise ValueError(
                f"too few questions of {ability}: {describe_counts(numbers)}, and at least "
                f"{describe_counts(least)} are needed (1 for validation without notebook 02); give "
                f"more, about {6 * PARTS} in one file, or raise the numbers in `evaluation`"
            )
    return counts


def describe_counts(counts: dict[str, int]) -> str:
    """Questions of an ability by purpose, such as ``36 for recording, 8 for validation``."""
    return ", ".join(f"{count} for {purpose}" for purpose, count in counts.items())


def execute(
    run: Run, cores: int | None, profile: Path | None = None, progress: TextIO = sys.stdout
) -> dict[str, str]:
    """Run what is missing or stale, and tell each notebook's state.

    Args:
        run: see `plan`.
        cores: CPU cores to use; what the profile says if None.
        profile: absolute path of a profile of Snakemake, in place of ``profiles/default``.
        progress: gets a line for each job as it starts; the whole goes to a log.

    Returns:
        Notebook -> ``done``, or where something failed: ``failed``, ``of an earlier run`` (not
        executed in this one) or ``not reached`` (what it needs could not be made).

    Raises:
        ValueError: another run works in the preset's folder, or it cannot be written.
    """
    with locked(run.folder.with_name(".lock"), f"running {run.preset.name}", wait=False):
        pass  # Snakemake takes it for the run
    note, log = run.folder.with_name("preset.txt"), run.log("snakemake")
    write_text(note, run.choice)
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(ROOT)] + ["--cores", str(cores)] * (cores is not None)
    command += ["--workflow-profile", str(profile)] * bool(profile)
    # The notebooks come before the settings, which take all words that follow.
    command += [str(run.executed(name)) for name in run.notebooks]
    command += ["--config", f"preset={run.choice}"]
    with (
        log.open("w", encoding="utf-8") as log_file,
        subprocess.Popen(
            command,
            env=os.environ | {"ACT_STORE": str(run.store)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process,
    ):
        for line in process.stdout or ():
            log_file.write(line)
            log_file.flush()
            if message := re.match(r"Job \d+: (.+)|(\d+ of \d+ steps .*done)", line):
                print(message[1] or message[2], file=progress, flush=True)
    if process.returncode == 0:
        return dict.fromkeys(run.notebooks, DONE)
    started, failed, states = note.stat().st_mtime, failures(run), {}
    for name in run.notebooks:
        states[name] = FAILED if name in failed else NOT_REACHED
        if (path := run.executed(name)).is_file():  # Snakemake deletes it before it is made again
            states[name] = DONE if path.stat().st_mtime >= started else EARLIER
    return states


def failures(run: Run) -> dict[str, str]:
    """What failed in the last run -> the last line of its log, and where the log is."""
    said = run.log("snakemake").read_text("utf-8", errors="replace")
    logs = {Path(each) for each in re.findall(r"log: (.+?) \(check log file", said)}
    logs = {log for log in logs if not run.executed(log.stem).is_file()}  # at a second try
    reasons = {}
    for log in sorted(logs) or [run.log("snakemake")]:
        text = log.read_text("utf-8", errors="replace") if log.is_file() else ""
        lines = re.sub(r"\x1b\[[\d;]*m", "", text).strip().splitlines() or ["no word"]
        reasons[log.stem] = f" ({lines[-1].strip()[:300]}); its log: {log}"
    return reasons
