"""Scores of a study's models, recorded once in disjoint portions and kept.

    paths = recorded_files(study, pair, ["fr-maths"], parts=[0, 1])
    scores = pool([ChannelScores.load(path) for path in paths])

They lie under a digest of all that decides them: models, questions, and the code that asks and
records.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm.auto import tqdm
from transformers import AutoTokenizer

from actlib.attribution import record_attributions
from actlib.loading import load_pretrained
from actlib.pairs import require_pair
from actlib.prompts import batches, drop_long
from actlib.recording import record_differences
from actlib.study.locking import locked
from actlib.study.provenance import write_provenance
from actlib.study.recipes import training_code
from actlib.study.sources import digest_modules, digest_text, syntax_of
from actlib.wording import require_known

if TYPE_CHECKING:
    from actlib.study.session import Study

PARTS = 6
"""Disjoint portions in which the recording items of an ability are recorded."""


RECORDERS = {"differences": "actlib.recording", "attributions": "actlib.attribution"}
"""Kinds of scores that take inputs, and the module that records each."""


def recording_code(kind: str) -> str:
    """Digest of the code that records scores of a kind, and that gives each part its questions.

    Raises:
        ValueError: there is no such kind.
    """
    require_known("kind of scores", [kind], RECORDERS)
    own = syntax_of(Path(__file__).read_text("utf-8"))  # not all that it imports, such as plots
    return digest_text(own, digest_modules([RECORDERS[kind], "actlib.study.questions"]))


@dataclass(frozen=True)
class Group:
    """Some models of one training seed; results that depend on them are cached by its key.

    Attributes:
        seed: training seed.
        names: of the models in the preset, in order.
        digests: of each model's settings and data, or of the content of the folder that it was
            brought in.
    """

    seed: int
    names: tuple[str, ...]
    digests: tuple[str, ...] = field(repr=False)

    @property
    def cache_key(self) -> list[str]:
        """What decides the models' weights, besides the code that trains them."""
        return [*self.digests]

    @property
    def code_key(self) -> str:
        """Digest of the code that trains them."""
        return training_code()


def recorded_files(
    study: "Study", pair: Group, abilities: Iterable[str], parts: Iterable[int], kind: str
) -> list[Path]:
    """Files of the scores of a kind of `RECORDERS`, by ability and part; recorded where missing.

    Raises:
        ValueError: donor and target do not fit, or an ability has too few questions.
    """
    counts = study.preset.evaluation.model_dump_json(exclude={"test_items", "validation_items"})
    settings = [str(study.cache_key["questions"]), counts, study.preset.dtype]
    digest = digest_text(*pair.digests, pair.code_key, *settings, recording_code(kind))
    name = f"seed{pair.seed}-{'-'.join(pair.names)}-{digest[:10]}"
    folder = study.folder / "scores" / kind / name
    files = {(a, n): folder / f"{a}-{n}.safetensors" for a in abilities for n in range(PARTS)}
    if not all(path.is_file() for path in files.values()):
        with locked(folder.with_name(f".{name}.lock"), f"recording {name}"):
            missing = {key: path for key, path in files.items() if not path.is_file()}
            if missing:
                _record(study, pair, missing, folder, kind)
    chosen = set(parts)
    return [path for (_, part), path in files.items() if part in chosen]


def batches_of_part(study: "Study", ability: str, part: int) -> list[dict]:
    """Token batches of one of the ``PARTS`` disjoint portions of an ability's recording items.

    Every task of the ability has its share of each portion.

    Raises:
        ValueError: a portion would be empty.
    """
    settings = study.preset.evaluation
    rows = study.questions.items(ability, "recording")
    rows = drop_long(study.tokenizer, rows, settings.max_tokens)
    rows = sorted(rows, key=lambda row: row.get("task") or "")  # so each portion has all tasks
    if len(rows) < PARTS:
        raise ValueError(
            f"{ability!r} has {len(rows)} recording items within max_tokens="
            f"{settings.max_tokens}, and {PARTS} parts need one each"
        )
    return batches(study.tokenizer, rows[part::PARTS], settings.batch_size)


def _record(
    study: "Study", pair: Group, files: Mapping[tuple[str, int], Path], folder: Path, kind: str
) -> None:
    donor, target = study.models(pair)
    sources = [study.place(name, pair.seed) for name in pair.names]
    tokenizers = [
        load_pretrained(AutoTokenizer, source, revision=study.preset.revision_of(name))
        for name, source in zip(pair.names, sources, strict=True)
    ]
    require_pair(donor, target, *tokenizers)
    for (ability, part), path in tqdm(files.items(), desc=f"recording {kind}, {folder.name}"):
        chunk = batches_of_part(study, ability, part)
        origin = {"ability": ability}
        if kind == "differences":
            scores = record_differences(donor, target, chunk, moments=True, metadata=origin)
        else:
            scores = record_attributions(donor, target, chunk, metadata=origin)
        scores.save(path)
    inputs = dict(zip(pair.names, sources, strict=True))
    write_provenance(folder, "scores", inputs, seeds=[pair.seed])
