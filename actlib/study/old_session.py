"""A study as a notebook sees it: models, questions, scores and results of one preset.

    study = Study.open("smol")
    donor, target = study.model("donor"), study.model("target")
    scores = study.scores("fr-maths")

What is missing is built, with a progress bar, and kept under ``artifacts/``; what is there is
loaded. Tables and figures go to ``figures/PRESET``.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from actlib.files import write_text
from actlib.pairs import require_pair
from actlib.prompts import batches, drop_long
from actlib.recording import record_differences
from actlib.scores import ChannelScores, pool
from actlib.study.families import build, load_model, load_pretrained
from actlib.study.locking import locked
from actlib.study.presets import ROOT, LoadedModel, Preset, TunedModel, load_preset, require_place
from actlib.study.provenance import write_provenance
from actlib.study.questions import ItemSet, Questions, cluster_of, data_digest, data_folder
from actlib.study.recipes import recipe
from actlib.vocabulary import fit_vocabulary_

PARTS = 6
RECORDING = 3  # raised when scores hold something new, so that those kept before are recorded anew


@dataclass
class Study:
    """Models, questions, scores and results of one preset; see the module's own text."""

    preset: Preset
    figures: Path
    store: Path
    _tokenizers: dict = field(default_factory=dict, repr=False)
    _item_sets: dict = field(default_factory=dict, repr=False)
    _read: dict = field(default_factory=dict, repr=False)  # inputs of results, for their provenance

    @classmethod
    def open(
        cls,
        preset: str = "smol",
        *,
        donor: str = "",
        target: str = "",
        base: str = "",
        data: str = "",
        figures: str = "",
    ) -> "Study":
        """Open the study of a preset.

        Args:
            preset: name in ``configs/`` or path of a YAML file.
            donor: model folder or Hub id in place of the preset's donor; likewise the next two.
            target: in place of the preset's target.
            base: in place of the preset's base.
            data: file or folder of questions in place of the preset's.
            figures: folder of figures and tables; ``figures/PRESET`` if empty.

        Raises:
            ValueError: the preset is unknown or wrong, or a model folder does not exist.
        """
        loaded = load_preset(preset, donor=donor, target=target, base=base, data=data)
        for spec in loaded.models.values():
            if isinstance(spec, LoadedModel):
                require_place(spec.load)
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        if "OMP_NUM_THREADS" in os.environ:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        folder = Path(figures) if figures else ROOT / "figures" / loaded.name
        return cls(loaded, folder, Path(os.environ.get("ACT_STORE", ROOT / "artifacts")))

    def write_provenance(self, folder: Path, name: str, **settings) -> None:
        """Add to the folder's `provenance.json` what was read so far, seeds and settings."""
        data = data_folder(self.preset.data)
        inputs = self._read | ({"questions": data} if data is not None else {})
        settings = {"preset": self.preset.name, "seeds": self.seeds, **settings}
        digest = data_digest(self.preset.data)
        write_provenance(folder, name, inputs, data_sha256=digest, **settings)

    def reads(self, role: str, path: Path | str) -> None:
        """Note that results from now on are made from a file, a folder or a model of the Hub."""
        self._read[role] = path

    def describe(self) -> pd.DataFrame:
        """What this run used: preset, roles, device, versions of the libraries that matter."""
        roles = self.preset.roles.model_dump(exclude_none=True)
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
        rows = {"preset": self.preset.name, "about": self.preset.description}
        rows |= {
            role: ", ".join([name] if isinstance(name, str) else name)
            for role, name in roles.items()
        }
        rows |= {"training seeds": ", ".join(map(str, self.seeds)), "device": device}
        rows |= {package: version(package) for package in ("actlib", "torch", "transformers")}
        return pd.DataFrame({"": rows})

    @property
    def seeds(self) -> list[int]:
        """Training seeds of the family; models that are loaded, not trained, have one."""
        return self.preset.seeds

    @property
    def lost(self) -> list[str]:
        """Abilities, ``language-domain``, that the target lost and the donor has."""
        return self.preset.lost

    @property
    def retained(self) -> list[str]:
        """Abilities that the target gained and should keep."""
        return self.preset.retained

    @property
    def cells(self) -> list[str]:
        """All abilities: the lost, then the retained."""
        return self.preset.cells

    def name_of(self, role: str) -> str:
        """Name in the preset's list of the model that plays a role; a name stays itself.

        Raises:
            ValueError: no model has that name or role.
        """
        name = getattr(self.preset.roles, role, None) or role
        if name not in self.preset.models:
            known = [*self.preset.models, "donor", "target", "base"]
            there = ", ".join(dict.fromkeys(known))
            raise ValueError(f"unknown model {role!r}: expected one of {there}")
        return name

    def model(self, role: str, seed: int | None = None, dtype: str = "") -> PreTrainedModel:
        """A model by role or name, built first where it is missing, in evaluation mode.

        Args:
            role: ``donor``, ``target``, ``base``, ``second_donor``, or a name of the preset.
            seed: training seed; the first of the preset if None.
            dtype: of the weights; the preset's if empty.
        """
        place = self.folder(role, seed)
        wanted = getattr(torch, dtype or self.preset.dtype)
        return load_model(self.preset, self.name_of(role), place, wanted)

    def folder(self, role: str, seed: int | None = None) -> Path | str:
        """Folder or Hub id of a model, built first where it is missing."""
        seed = self.seeds[0] if seed is None else seed
        name = self.name_of(role)
        place = build(self.preset, name, seed, self.store)
        self.reads(f"model {name}, seed {seed}", place)
        return place

    def tokenizer(self, seed: int | None = None) -> PreTrainedTokenizerBase:
        """The tokenizer that the family shares (the target's)."""
        place = self.folder("target", seed)
        if place not in self._tokenizers:
            self._tokenizers[place] = load_pretrained(AutoTokenizer, place)
        return self._tokenizers[place]

    def items(self, cell: str, purpose: str = "test") -> list[dict]:
        """Questions of an ability for a purpose; see `Questions.items`."""
        return self._questions.items(cell, purpose)

    def elsewhere(self, cell: str, count: int, folder: str = "") -> tuple[str, list[dict]]:
        """Questions of an ability that were not recorded; see `Questions.elsewhere`."""
        return self._questions.elsewhere(cell, count, folder)

    def training(self, cells: Iterable[str], seed: int) -> list[dict]:
        """Items to fine-tune on, shuffled; see `Questions.training`."""
        return self._questions.training(cells, seed)

    @cached_property
    def _questions(self) -> Questions:
        return Questions(self.preset)

    def abilities_of(self, name: str) -> list[str]:
        """Abilities judged that a specialist stands for.

        Those it was trained on; of a loaded model, the lost ones if it is the donor, the retained
        ones if it is the target, otherwise all.
        """
        spec = self.preset.models[self.name_of(name)]
        if isinstance(spec, TunedModel):
            return [cell for cell in self.cells if cell in spec.abilities]
        roles = {self.name_of("donor"): self.lost, self.name_of("target"): self.retained}
        return roles.get(self.name_of(name), self.cells)

    def batches(self, cell: str, purpose: str = "test", part: int | None = None) -> list[dict]:
        """Token batches of an ability; with ``part``, of one of the ``PARTS`` disjoint portions."""
        settings = self.preset.evaluation
        items = drop_long(self.tokenizer(), self.items(cell, purpose), settings.max_tokens)
        if part is not None and len(items) < PARTS:
            raise ValueError(
                f"{cell!r} has {len(items)} {purpose} items within max_tokens="
                f"{settings.max_tokens}, and {PARTS} parts need one each"
            )
        chosen = items if part is None else items[part::PARTS]
        return batches(self.tokenizer(), chosen, settings.batch_size)

    def scores(
        self,
        cells: str | Iterable[str],
        seed: int | None = None,
        *,
        donor: str = "donor",
        target: str = "target",
        parts: Iterable[int] = range(PARTS),
        off: Iterable[str] = (),
    ) -> ChannelScores:
        """Activation differences of donor and target on an ability, or pooled over several.

        With ``off``, other abilities of the same pair, the rankings ``relative`` and ``contrast``
        have what they compare with.

        Each ability is recorded once, in ``PARTS`` portions of its recording items, and kept;
        pooling weighs every answer token alike, so parts give the same scores as one recording.
        """
        seed = self.seeds[0] if seed is None else seed
        cells = [cells] if isinstance(cells, str) else list(cells)
        folder = self.recorded(cells, seed, donor, target)
        parts = list(parts)
        paths = [folder / f"{cell}-{part}.safetensors" for cell in cells for part in parts]
        scores = pool([ChannelScores.load(path) for path in paths])
        if not (off := list(off)):
            return scores
        return scores.relative_to(self.scores(off, seed, donor=donor, target=target))

    def recorded(
        self,
        cells: Iterable[str],
        seed: int,
        donor: str = "donor",
        target: str = "target",
    ) -> Path:
        """Folder that holds the scores of abilities by part, recorded first where missing."""
        names = [self.name_of(donor), self.name_of(target)]
        told = [recipe(self.preset, name, seed) for name in names]
        counts = self.preset.evaluation
        told += [f"{counts.recording_items} {counts.max_tokens} {RECORDING}"]
        told += [data_digest(self.preset.data)]
        digest = hashlib.sha256("\n".join(told).encode()).hexdigest()[:10]
        folder = (
            self.store / self.preset.name / "scores" / f"seed{seed}" / "-".join([*names, digest])
        )
        files = {
            (cell, part): folder / f"{cell}-{part}.safetensors"
            for cell in cells
            for part in range(PARTS)
        }
        if not all(path.is_file() for path in files.values()):
            lock = folder.with_name(f".{folder.name}.lock")
            with locked(lock, f"recording {names[0]} against {names[1]}"):
                self._record(names, seed, folder, files)
        self.reads(f"scores of {names[0]} against {names[1]}, seed {seed}", folder)
        return folder

    def _record(
        self, names: list[str], seed: int, folder: Path, files: dict[tuple[str, int], Path]
    ) -> None:
        missing = [(*key, path) for key, path in files.items() if not path.is_file()]
        if missing:
            chunks = [self.batches(cell, "recording", part) for cell, part, _ in missing]
            ours, theirs = (self.model(name, seed) for name in names)
            places = [self.folder(name, seed) for name in names]
            tokenizers = [load_pretrained(AutoTokenizer, place) for place in places]
            require_pair(ours, theirs, *tokenizers)
            fit_vocabulary_(ours, theirs, *tokenizers)
            steps = tqdm(missing, desc=f"recording {names[0]} against {names[1]}")
            for (cell, _, path), chunk in zip(steps, chunks, strict=True):
                scores = record_differences(
                    ours, theirs, chunk, moments=True, metadata={"ability": cell}
                )
                scores.save(path)
            inputs, digest = dict(zip(names, places, strict=True)), data_digest(self.preset.data)
            write_provenance(folder, "scores", inputs, seeds=[seed], data_sha256=digest)

    def item_set(self, cells: Iterable[str], *purposes: str) -> ItemSet:
        """Questions of abilities, tokenized once; kept, so that asking again costs nothing.

        Its ``about`` holds cell, purpose, item (unique over cells) and cluster: items of one
        cluster ask the same computation, in other words or another language.
        """
        key = (*cells, "", *purposes)
        if key not in self._item_sets:
            rows, about = [], []
            for purpose in purposes:
                for cell in key[: key.index("")]:
                    found = self.items(cell, purpose)
                    rows += found
                    about += [
                        (cell, purpose, f"{cell}/{n}", cluster_of(row))
                        for n, row in enumerate(found)
                    ]
            settings = self.preset.evaluation
            told = pd.DataFrame(about, columns=["cell", "purpose", "item", "cluster"])
            self._item_sets[key] = ItemSet.of(
                self.tokenizer(), rows, told, settings.batch_size, settings.max_tokens
            )
        return self._item_sets[key]

    def judge(
        self, model: PreTrainedModel, cells: Iterable[str], /, *purposes: str, **labels
    ) -> pd.DataFrame:
        """Answer NLL and exact match of a model on abilities, one row an item.

        Args:
            model: any model of the family.
            cells: abilities to judge.
            *purposes: ``validation``, ``test`` or both; ``test`` if none is named.
            **labels: columns to add.

        Returns:
            cell, purpose, item (unique over cells), cluster (see `item_set`), nll (nats per answer
            token), exact (0 or 1), and the labels.
        """
        wide = self.preset.dtype == "bfloat16" and model.dtype == torch.float32
        items = self.item_set(tuple(cells), *(purposes or ("test",)))
        table = items.evaluate(model, mixed_precision=wide)
        return table.sort_values("item", kind="stable", ignore_index=True).assign(**labels)

    def save_table(self, table: pd.DataFrame, name: str) -> pd.DataFrame:
        """Keep a table as CSV beside the figures, and return it."""
        text = table.to_csv(index=False, float_format="%.6g")
        path = self.figures / f"{name}.csv"
        write_text(path, text)
        number = re.match(r"[a-z]+(\d\d)_", name)
        self.write_provenance(self.figures, f"notebook{number[1]}" if number else name)
        return table
