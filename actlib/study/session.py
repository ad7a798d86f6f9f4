"""A study as a notebook sees it: models, questions and scores of one preset, and its results.

    study = Study.open("tiny")
    pair = study.pair(seed=0)
    donor, target = study.models(pair)
    scores = study.scores(pair, study.lost)
    items = study.evaluate(target, study.abilities)

What is missing is built, with a progress bar, and kept under ``artifacts/PRESET``; what is there is
loaded. Nothing is written outside that folder.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    logging,
)

from actlib.analysis import drawing
from actlib.evaluation import evaluate
from actlib.files import write_text
from actlib.loading import load_pretrained
from actlib.norms import weight_differences
from actlib.pairs import require_pair
from actlib.scores import ChannelScores, pool
from actlib.study import cache, families, recipes
from actlib.study.presets import ROOT, Preset, load_preset
from actlib.study.provenance import write_provenance
from actlib.study.questions import Questions, data_digest
from actlib.study.recorded import PARTS, Group, recorded_files


@dataclass
class Study:
    """Models, questions, scores and results of one preset; see the module's own text."""

    preset: Preset
    store: Path
    _loaded: dict = field(default_factory=dict, repr=False)
    _memory: dict = field(default_factory=dict, repr=False)  # scores, and the last group
    _used: dict = field(default_factory=dict, repr=False)  # models, for the results' provenance

    @classmethod
    def open(cls, preset: str = "tiny", *, test_items: int | None = None) -> "Study":
        """Open the study of a preset, a name in ``configs/`` or the path of a YAML file.

        `test_items` takes the place of the preset's number of test questions an ability.

        Raises:
            ValueError: the preset or the number is unknown or wrong.
        """
        loaded = load_preset(preset, test_items)
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if "OMP_NUM_THREADS" in os.environ:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        study = cls(loaded, Path(os.environ.get("ACT_STORE", ROOT / "artifacts")))
        reads = "ACT_READ_COMMITTED" in os.environ
        committed = ROOT / "data/items" / loaded.name if reads else None
        cache.use_folders(study.folder / "cache", committed)
        return study

    @property
    def folder(self) -> Path:
        """Folder of all that belongs to the preset."""
        return self.store / self.preset.name

    @property
    def results(self) -> Path:
        """Folder of figures and tables."""
        return Path(os.environ.get("ACT_RESULTS", self.folder / "results"))

    @property
    def lost(self) -> list[str]:
        """Abilities, ``language-domain``, that the target lost and the donor has."""
        return self.preset.lost

    @property
    def retained(self) -> list[str]:
        """Abilities that the target gained and should keep."""
        return self.preset.retained

    @property
    def abilities(self) -> list[str]:
        """All abilities: the lost, then the retained."""
        return [*self.lost, *self.retained]

    @cached_property
    def cache_key(self) -> dict[str, Any]:
        """What of the preset decides results, besides the models: questions and their numbers."""
        parts = {"lost", "retained", "evaluation", "dtype", "sft"}
        decided = self.preset.model_dump(mode="json", include=parts)
        return {"questions": data_digest(self.preset.data), **decided}

    def describe(self, seeds: Iterable[int] = ()) -> pd.DataFrame:
        """What this run uses: preset, roles, seeds, questions, device, versions."""
        roles = self.preset.roles.model_dump(exclude_none=True)
        rows = {"preset": self.preset.name, "about": self.preset.description}
        rows |= {k: v if isinstance(v, str) else ", ".join(v) for k, v in roles.items()}
        rows["training seeds"] = ", ".join(map(str, seeds)) or "none"
        rows["test questions an ability"] = str(self.preset.evaluation.test_items)
        rows["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        rows |= {package: version(package) for package in ("actlib", "torch", "transformers")}
        return pd.DataFrame({"": rows})

    def group(self, seed: int, *roles: str) -> Group:
        """Some models of one training seed, by role or name, as a value that results depend on.

        Raises:
            ValueError: no model has that name or role.
        """
        names = tuple(self.name_of(role) for role in roles)
        digests = tuple(recipes.content_digest(self.preset, name, seed) for name in names)
        self._used |= {f"{n}, seed {seed}": d for n, d in zip(names, digests, strict=True)}
        self._memory["group"] = Group(seed, names, digests)
        return self._memory["group"]

    def pair(self, seed: int = 0, *, donor: str = "donor", target: str = "target") -> Group:
        """Donor and target of one training seed; see `group`."""
        return self.group(seed, donor, target)

    def models(self, group: Group) -> list[PreTrainedModel]:
        """The models of a group in evaluation mode, built first where they are missing.

        They stay in memory until another group is asked for, so what changes them has to put them
        back, as the context managers of actlib do, or to work on a copy (`copy.deepcopy`).

        Raises:
            ValueError: they do not fit.
        """
        if self._loaded.get("group") != group:
            self._loaded.clear()
            models = [self.model(name, group.seed) for name in group.names]
            for other in models[1:]:
                require_pair(models[0], other)
            self._loaded.update(group=group, models=models)
        return list(self._loaded["models"])

    def model(self, role: str, seed: int = 0) -> PreTrainedModel:
        """One model by role or name, built first where it is missing, in evaluation mode.

        It lies on a GPU if there is one, or where its ``device_map`` puts it, as accelerate does.
        Offloaded models can be recorded and evaluated; channels move between folders only.
        """
        name, dtype = self.name_of(role), getattr(torch, self.preset.dtype)
        device_map = getattr(self.preset.models[name], "device_map", None)
        options = {"revision": self.preset.revision_of(name), "device_map": device_map}
        place = self.place(name, seed)
        model = load_pretrained(AutoModelForCausalLM, place, dtype=dtype, **options)
        return model.cuda() if device_map is None and torch.cuda.is_available() else model

    def place(self, role: str, seed: int = 0) -> Path | str:
        """Folder or Hub id of a model, built first where it is missing."""
        return families.build(self.preset, self.name_of(role), seed, self.store)

    def name_of(self, role: str) -> str:
        """Name in the preset's list of the model that plays a role; a name stays itself.

        Raises:
            ValueError: no model has that name or role.
        """
        name = getattr(self.preset.roles, role, None) or role
        if name not in self.preset.models:
            there = ", ".join([*self.preset.models, "donor", "target", "base"])
            raise ValueError(f"unknown model {role!r}: expected one of {there}")
        return name

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The target's, by which every question is put, whatever model answers."""
        group = self._memory.get("group") or self.pair(self.preset.study.seeds[0])
        options = {"revision": self.preset.revision_of(self.name_of("target"))}
        return load_pretrained(AutoTokenizer, self.place("target", group.seed), **options)

    @cached_property
    def questions(self) -> Questions:
        """The questions by ability and purpose; none serves two purposes."""
        return Questions(self.preset)

    def evaluate(
        self, model: PreTrainedModel, abilities: Iterable[str], purpose: str = "test"
    ) -> pd.DataFrame:
        """Answer NLL and exact match of a model on abilities, for ``test`` or ``validation``.

        Each ability is batched by itself, so an item always has the same neighbors.

        Returns:
            ability, item (unique over abilities), cluster (items that ask the same computation),
            nll (nats per answer token) and exact (0 or 1).
        """
        tables = []
        for ability in abilities:
            inputs, clusters = self.questions.inputs(self.tokenizer, ability, purpose)
            table = evaluate(model, inputs)
            table["cluster"] = [clusters[item] for item in table["item"]]
            table["item"] = ability + "/" + table["item"].astype(str)
            tables.append(table.assign(ability=ability))
        return pd.concat(tables, ignore_index=True)[["ability", "item", "cluster", "nll", "exact"]]

    def scores(
        self,
        pair: Group,
        abilities: str | Iterable[str],
        kind: str = "differences",
        *,
        parts: Iterable[int] = range(PARTS),
        reference: Iterable[str] = (),
    ) -> ChannelScores:
        """Scores of the channels of donor and target on an ability, or pooled over several.

        Each ability is recorded once, in ``PARTS`` portions of its recording items, and kept;
        pooling weighs every answer token alike, so parts give the same scores as one recording.

        Args:
            pair: donor and target; see `pair`.
            abilities: one or several.
            kind: ``differences`` of activations; ``attributions`` of the NLL (ours); ``weights``,
                the L2 norm of each channel's parameter difference, which needs no input.
            parts: portions to pool.
            reference: abilities that the rankings ``relative`` and ``contrast`` compare with; of
                attributions, abilities to retain; weights take none.
        """
        both = abilities, reference
        abilities, reference = ((each,) if isinstance(each, str) else tuple(each) for each in both)
        parts = tuple(parts)
        key = kind, pair, () if kind == "weights" else (abilities, parts, reference)
        if key not in self._memory and kind == "weights":
            self._memory[key] = weight_differences(*self.models(pair))
        elif key not in self._memory:
            paths = recorded_files(self, pair, abilities, parts, kind)
            scores = pool([ChannelScores.load(path) for path in paths])
            if reference:
                relate = scores.relative_to if kind == "differences" else scores.with_retention
                scores = relate(self.scores(pair, reference, kind, parts=parts))
            self._memory[key] = scores
        return self._memory[key]

    def collect(
        self,
        function: Callable[..., pd.DataFrame],
        settings: Iterable[Mapping[str, Any]] = ({},),
        **values: Any,
    ) -> pd.DataFrame:
        """Rows of a cached function for every combination of its arguments, with a progress bar.

        Args:
            function: gives the rows of one setting; see `actlib.study.cache.cached`.
            settings: combinations of arguments that belong together, one mapping each.
            **values: for each other argument a list of values, all of which are combined; what is
                no list is one value.
        """
        lists = {k: [*v] if isinstance(v, list | range) else [v] for k, v in values.items()}
        combined = [dict(zip(lists, each, strict=True)) for each in product(*lists.values())]
        settings = list(settings)
        steps = tqdm([(one, two) for one in combined for two in settings], desc=function.__name__)
        return pd.concat([function(**one, **two) for one, two in steps], ignore_index=True)

    def save_table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Write a table as CSV to the results, with their provenance, and return it."""
        write_text(self.results / f"{name}.csv", table.to_csv(index=False, float_format="%.6g"))
        settings = {"preset": self.preset.name, "questions": self.cache_key["questions"]}
        settings |= {"models": dict(sorted(self._used.items()))}
        notebook = re.match(r"[a-z]+(\d\d)_", name)
        entry = f"notebook{notebook[1]}" if notebook else name
        write_provenance(self.results, entry, {}, **settings)
        return table

    def save_figure(self, figure: Figure, table: pd.DataFrame, name: str) -> None:
        """Write a figure with the table it draws: NAME.pdf, .png, .csv, .json."""
        drawing.save_figure(figure, table, name, self.results)

    def holds(self, condition: Callable[[], Any]) -> None:
        """Hold a sentence of the notebook to the numbers it speaks of, in the kept run alone.

        Elsewhere the condition is not called, and what it names need not be there.

        Raises:
            AssertionError: the condition is false, and the run is the one whose outputs are kept.
        """
        if os.environ.get("ACT_KEPT_RUN") == self.preset.name:
            assert bool(condition()), "a sentence of this notebook no longer fits its numbers"
