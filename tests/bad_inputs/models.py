"""Folders of models: weights, index, configuration, tokenizer."""

import shutil
from pathlib import Path

from actlib.stored import SINGLE
from bad_inputs.mistakes import (
    DONOR,
    MERGE,
    RECORD,
    TRANSFER,
    Case,
    config,
    cut,
    gpt2,
    removed,
    rows,
    sharded,
    tensors,
    tokenizer,
    write,
)

WEIGHTS = [
    Case(
        "weights cut in their numbers", TRANSFER, (str(DONOR), "damaged", "copy"), cut(DONOR, 0.5)
    ),
    Case("weights of cut folder, recorded", RECORD, ("donor", "copy"), cut(DONOR, 0.5)),
    Case("no weights", TRANSFER, ("donor", SINGLE, "save_pretrained"), removed(str(DONOR))),
    Case(
        "pickled weights",
        TRANSFER,
        ("donor", "pytorch_model.bin", "save_pretrained"),
        lambda: DONOR.rename("donor/pytorch_model.bin"),
    ),
    Case(
        "index of another file",
        TRANSFER,
        ("model-9.safetensors", "copy"),
        sharded(lambda c: c["weight_map"].update({"lm_head.weight": "model-9.safetensors"})),
    ),
    Case(
        "shard that is not there",
        TRANSFER,
        ("donor", "model-00002-of-00002.safetensors", "copy"),
        lambda: (sharded(lambda c: 0)(), removed("donor/model-00002-of-00002.safetensors")()),
    ),
    Case(
        "NaN in the donor's weights, moved",
        TRANSFER,
        ("donor", "model.embed_tokens.weight", "NaN", "actlib check"),
        tensors(DONOR, model__embed_tokens__weight=float("nan")),
    ),
    Case(
        "NaN in the donor's activations",
        RECORD,
        ("donor", "model.embed_tokens", "NaN", "actlib check"),
        tensors(DONOR, model__embed_tokens__weight=float("nan")),
    ),
    Case(
        "weights of other shapes",
        TRANSFER,
        ("donor and target do not fit", "architecture"),
        lambda: gpt2("donor")(),
    ),
    Case(
        "both configurations of other sizes than the weights",
        TRANSFER,
        ("mask", "48 channels", "64"),
        lambda: (config("donor", intermediate_size=64)(), config("target", intermediate_size=64)()),
    ),
    Case(
        "configuration of other sizes, recorded",
        RECORD,
        ("donor",),
        config("donor", intermediate_size=64),
    ),
    Case(
        "no configuration",
        TRANSFER,
        ("donor", "config.json", "save_pretrained"),
        removed("donor/config.json"),
    ),
    Case(
        "configuration that is no JSON",
        TRANSFER,
        ("donor", "config.json"),
        write("donor/config.json", "{]"),
    ),
    Case(
        "configuration of an unknown model",
        "check donor target",
        ("donor", "sonnet9"),
        config("donor", model_type="sonnet9"),
    ),
    Case(
        "configuration of a model that writes no text",
        "check donor target",
        ("donor", "vit"),
        config("donor", model_type="vit"),
    ),
    Case(
        "configuration with text for a number",
        "check donor target",
        ("donor", "hidden_size"),
        config("donor", hidden_size="many"),
    ),
    Case(
        "a file for a model folder",
        TRANSFER,
        ("donor", "folder"),
        lambda: (removed("donor")(), Path("own.jsonl").rename("donor")) and None,
    ),
    Case("no model folder", TRANSFER.replace("donor donor", "donor nowhere"), ("nowhere",)),
    Case(
        "a Hub id without network",
        RECORD.replace("donor donor", "donor owner/model"),
        ("owner/model", "HF_HUB_OFFLINE"),
    ),
    Case(
        "a Hub id where only folders go",
        TRANSFER.replace("donor donor", "donor owner/model"),
        ("owner/model", "download"),
    ),
    Case("a Hub id that none can be", "check 'owner/mo del!' target", ("owner/mo del!",)),
    Case(
        "donor that is the target",
        TRANSFER.replace("donor donor", "donor target"),
        ("target", "same"),
    ),
    Case(
        "donor that is the target, recorded",
        RECORD.replace("donor donor", "donor target/."),
        ("target", "same"),
    ),
    Case("donor that is the base", MERGE.replace("give donor", "give base"), ("base", "same")),
    Case(
        "donor with the target's weights",
        RECORD,
        ("donor", "target", "same"),
        lambda: shutil.copy("target/model.safetensors", DONOR),
    ),
]

TOKENIZERS = [
    Case("tokenizer without an end", RECORD, ("target", "eos_token"), tokenizer(eos_token=None)),
    Case(
        "no tokenizer",
        RECORD,
        ("target", "tokenizer"),
        lambda: [removed(f"target/{n}")() for n in ("tokenizer.json", "tokenizer_config.json")],
    ),
    Case(
        "tokenizer that is no JSON",
        RECORD,
        ("target", "tokenizer"),
        write("target/tokenizer.json", "{"),
    ),
    Case(
        "template that is none", RECORD, ("target", "template"), tokenizer(chat_template="{% for")
    ),
    Case(
        "template without the question",
        RECORD,
        ("target", "template"),
        tokenizer(chat_template="hello"),
    ),
    Case(
        "tokenizer of another model",
        RECORD,
        ("token 3", "61", "tokenizer"),
        gpt2("donor", "target"),
    ),
    Case(
        "answer longer than the context",
        RECORD,
        ("own.jsonl", "own-0002", "64"),
        lambda: (
            gpt2("donor", "target")(),
            rows({"question": "a", "answer": "b"}, {"question": "what", "answer": "ab " * 99})(),
        ),
    ),
]
