"""Run notebooks of a preset through Snakemake, after a look at what would fail later.

    run = plan("mine.yaml", notebooks="01-05")     # refuses a pair that does not fit, few questions
    states = run.execute(cores=2)                  # {"01_concentration": "done", ...}

The Snakefile and the notebooks are those of a clone of the project, wherever it is called from.
"""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TextIO

from transformers import PreTrainedModel

from actlib.loading import empty_model, load_tokenizer
from actlib.pairs import require_pair
from actlib.questions import abilities_of, load_questions, normalize_text
from actlib.study.locking import claim
from actlib.study.old_session import PARTS
from actlib.study.presets import (
    CONFIGS,
    ROOT,
    LoadedModel,
    Preset,
    load_preset,
    preset_file,
    require_place,
)
from actlib.study.questions import PURPOSES, Questions, data_folder, of_ability, partition

DONE, FAILED, NOT_REACHED = "done", "failed", "not reached"


@dataclass(frozen=True)
class Run:
    """What is to be run, and where its results go.

    Attributes:
        preset: what the YAML says.
        choice: the preset's name in ``configs/``, or the absolute path of its YAML.
        notebooks: stems of those to run, such as ``01_concentration``.
        left_out: number of each notebook that was asked for and does not apply -> why.
        figures: folder of figures and tables.
        store: folder of models, scores and executed notebooks, of all presets.
    """

    preset: Preset
    choice: str
    notebooks: list[str]
    left_out: dict[str, str]
    figures: Path
    store: Path

    @property
    def folder(self) -> Path:
        """Folder of the preset in the store."""
        return self.store / self.preset.name

    def executed(self, notebook: str) -> Path:
        """Where a notebook lies once it ran."""
        return self.folder / "notebooks" / f"{notebook}.ipynb"

    def log(self, notebook: str) -> Path:
        """What a notebook said as it ran."""
        return self.folder / "logs" / f"{notebook[:2]}.log"

    def execute(
        self, cores: int | None, output: TextIO | None = None, profile: str = ""
    ) -> dict[str, str]:
        """Run what is missing or stale, and tell each notebook's state.

        A notebook that fails does not keep the others from running.

        Args:
            cores: CPU cores to use; what the profile says if None.
            output: file that Snakemake's words go to; standard output if None.
            profile: folder of a profile of Snakemake, in place of ``profiles/default``.

        Returns:
            Notebook -> ``done``, ``failed`` (its log tells why) or ``not reached`` (what it needs
            could not be made).

        Raises:
            ValueError: another run works in the preset's folder, or it cannot be written.
        """
        claim(self.folder / ".lock", f"run of {self.preset.name}").release()
        started = time.time() - 1  # some file systems keep whole seconds
        options = ["--cores", str(cores)] if cores is not None else []
        options += ["--workflow-profile", profile] if profile else []
        ended = self._snakemake(*options, "--keep-going", stdout=output)
        states = dict.fromkeys(self.notebooks, DONE)
        if ended.returncode == 0:
            return states
        # What a dry run would still do was not done; what is there may be of an earlier run.
        left = self._snakemake("--dry-run", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for name in self.notebooks:
            if f"notebook_{name}" in left.stdout or not self.executed(name).is_file():
                log = self.log(name)
                fresh = log.is_file() and log.stat().st_mtime >= started
                states[name] = FAILED if fresh else NOT_REACHED
        return states

    def _snakemake(self, *options: str, **settings) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        # The notebooks come before the settings, which take all words that follow.
        command += ["--directory", str(ROOT), *options, *map("notebook_{}".format, self.notebooks)]
        command += ["--config", f"preset={self.choice}", f"figures={self.figures}"]
        environment = os.environ | {"ACT_STORE": str(self.store)}
        return subprocess.run(command, env=environment, text=True, check=False, **settings)


def plan(preset: str, notebooks: str = "", figures: str = "") -> Run:
    """Check a preset, its models and its questions, and say what a run of it would do.

    Args:
        preset: name in ``configs/``, or path of a YAML.
        notebooks: numbers, such as ``01-05`` or ``01,03``; all that apply if empty.
        figures: folder of figures and tables; beside the executed notebooks if empty, or
            ``figures/NAME`` for a preset of ``configs/``.

    Raises:
        ValueError: there is no Snakefile (the package is not a clone of the project), the preset is
            wrong, the models do not fit, or an ability has too few questions.
    """
    if not (ROOT / "Snakefile").is_file():
        raise ValueError(
            f"a run needs a clone of the project and its notebooks; no Snakefile is in {ROOT}"
        )
    loaded = load_preset(preset)
    shipped = preset_file(preset).resolve().parent == CONFIGS
    wanted = chosen_notebooks(loaded, notebooks)
    asked = asked_numbers(notebooks)
    left_out = {number: why for number, why in loaded.left_out.items() if number in asked}
    require_models(loaded)
    require_questions(loaded)
    store = Path(os.environ.get("ACT_STORE", ROOT / "artifacts")).resolve()
    default = ROOT / "figures" / loaded.name if shipped else store / loaded.name / "figures"
    choice = loaded.name if shipped else str(preset_file(preset).resolve())
    place = Path(figures).resolve() if figures else default
    return Run(loaded, choice, wanted, left_out, place, store)


def profile_folder(profile: str) -> str:
    """Absolute path of a profile of Snakemake, from here or else from the project's folder.

    Raises:
        ValueError: no such folder holds a ``config.yaml``.
    """
    for folder in (Path(profile).expanduser().resolve(), ROOT / profile):
        if (folder / "config.yaml").is_file():
            return str(folder)
    raise ValueError(
        f"profile: expected a folder with a config.yaml, such as profiles/slurm, got {profile!r}"
    )


def chosen_notebooks(preset: Preset, numbers: str = "") -> list[str]:
    """Stems of the notebooks with these numbers that have something to say of a preset.

    Raises:
        ValueError: the numbers are not like ``01-05`` or ``01,03``, no notebook has one of them, or
            none of them applies.
    """
    there, asked = _notebooks(), asked_numbers(numbers)
    kept = [there[number] for number in there if number in asked and number not in preset.left_out]
    if not kept:
        reasons = [f"{number}: {preset.left_out[number]}" for number in dict.fromkeys(asked)]
        raise ValueError(f"nothing to run; left out are {'; '.join(reasons)}")
    return kept


def asked_numbers(numbers: str = "") -> list[str]:
    """Two-digit numbers that words such as ``01-05`` or ``01,03`` stand for; all if empty.

    Raises:
        ValueError: the numbers are not like that, or no notebook has one of them.
    """
    there, asked = _notebooks(), []
    for part in (numbers or f"{min(there)}-{max(there)}").split(","):
        found = re.fullmatch(r"\s*(\d{1,2})(?:\s*-\s*(\d{1,2}))?\s*", part)
        if not found:
            raise ValueError(f"notebooks: expected numbers like 01-05 or 01,03, got {numbers!r}")
        first, last = int(found[1]), int(found[2] or found[1])
        asked += [f"{n:02d}" for n in range(first, last + 1)]
    unknown = [number for number in asked if number not in there]
    if unknown or not asked:
        raise ValueError(f"notebooks: expected numbers of {', '.join(there)}, got {numbers!r}")
    return asked


def _notebooks() -> dict[str, str]:
    """Number of each notebook -> its stem."""
    return {path.stem[:2]: path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}


def require_models(preset: Preset) -> None:
    """Refuse what is no model, in a folder or on the Hub, and a donor and target that do not fit.

    Nothing is loaded but configurations and tokenizers.

    Raises:
        ValueError: the sentence names the model, or what does not fit.
    """
    models: dict[str, tuple[PreTrainedModel, str]] = {}
    for role, spec in preset.models.items():
        if isinstance(spec, LoadedModel):
            try:
                require_place(spec.load)
                models[role] = empty_model(spec.load), spec.load
            except ValueError as error:
                told = "paths start from the YAML's folder, then from here"
                raise ValueError(f"{role}: {error}; {told}") from error
    roles = preset.roles
    if roles.donor in models and roles.target in models:
        (donor, donor_place), (target, target_place) = models[roles.donor], models[roles.target]
        require_pair(donor, target, load_tokenizer(donor_place), load_tokenizer(target_place))


def question_counts(preset: Preset) -> dict[str, dict[str, int]]:
    """Questions that each ability gives to each purpose, at most as many as the preset asks for."""
    questions = Questions(preset)
    return {
        cell: {purpose: len(questions.items(cell, purpose)) for purpose in PURPOSES}
        for cell in preset.cells
    }


def require_questions(preset: Preset) -> None:
    """Refuse questions that lack an ability, have too few of it, or serve two purposes.

    Raises:
        ValueError: the sentence names the ability, and what there is.
    """
    questions, path = Questions(preset), data_folder(preset.data)
    if path is not None and not (path / "train").is_dir():
        items = load_questions(path)
        absent = [cell for cell in preset.cells if cell not in abilities_of(items)]
        if absent:
            there = ", ".join(abilities_of(items))
            raise ValueError(f"no question is of {', '.join(absent)}; there are {there}")
        least = {"recording": PARTS, "validation": 1, "test": 1}
        for cell in preset.cells:
            own = of_ability(items, cell)
            found = {purpose: len(partition(own, purpose)) for purpose in PURPOSES}
            if any(found[purpose] < least[purpose] for purpose in PURPOSES):
                told = ", ".join(f"{count} for {purpose}" for purpose, count in found.items())
                raise ValueError(
                    f"too few questions of {cell}: by their text {told}, and at least {PARTS}, 1 "
                    f"and 1 are needed; about {6 * PARTS} questions of each ability are enough"
                )
    else:
        purposes: dict[str, str] = {}
        for purpose, cell in product(PURPOSES, preset.cells):
            for row in questions.items(cell, purpose):
                other = purposes.setdefault(normalize_text(row["question"]), purpose)
                if other != purpose:
                    raise ValueError(
                        f"the question {row['id']} of {cell} serves {other} and {purpose}; keep it "
                        "in one split"
                    )
