"""Loads models, tokenizers and configurations, and runs no code that comes with them.

    model = load_pretrained(AutoModelForCausalLM, "target/", dtype=torch.bfloat16)
    empty = empty_model("target/")               # on the meta device: shapes without numbers
    tokenizer = load_tokenizer("target/")

Weights come from safetensors files alone, since a pickled file runs code when it is read. Code of a
model's own (`auto_map`) is never run and there is no switch for it: who trusts it loads the model
with transformers, and hands the loaded model over.
"""

import filecmp
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actlib.stored import INDEX, SINGLE, require_no_adapter, stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What a model has beside its weights: configuration, tokenizer, templates, texts. All else in a
# folder is another format of the weights, or left by a training, or private.
_CARRIED = (
    *("*.json", "*.jinja", "*.txt", "*.md", "*.py", "*.model", "*.tiktoken", "*.bpe", "*.spm"),
    *("tokenizer*", "*.codes", "LICENSE*", "NOTICE*", "additional_chat_templates/*.jinja"),
)
_NOT_CARRIED = (
    *("*.index.json", "trainer_state.json", "*_results.json", "params.json", "zero_to_fp32.py"),
    *(".*", "*.safetensors", "*.bin", "*.pt", "*.pth"),
    "built.json",  # of a study's model, which says how that one was trained
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_OF_TOKENIZERS = ("*token*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "*.bpe")
# Pattern of an error that names no remedy, in lower case, and the remedy.
_REMEDIES = {
    "repo id must": "there is no such folder here, and this is no id of the Hub",
    "couldn't connect": "there is no such folder here, and for a Hub id go online (unset "
    "HF_HUB_OFFLINE)",
    "trust_remote_code": "code of its own (auto_map) is never run here: take a model of a family "
    "that transformers knows, or load it and hand it over",
    "unrecognized configuration class": "load both models by their own class, and hand them over",
    "ignore_mismatched_sizes": "its weights have other shapes than its config.json says",
    r"memoryerror\(|allocate memory": "take a smaller dtype, a larger device, or "
    'device_map="auto", which offloads',
}


def load_pretrained(kind: Any, source: Path | str, **options: Any) -> Any:
    """``kind.from_pretrained(source)``, and one sentence where there is nothing to load.

    Args:
        kind: class of transformers. With ``AutoModelForCausalLM``, models that take images beside
            text are loaded whole by the class that they have in transformers.
        source: a folder, or the id of a model on the Hub.
        **options: of `from_pretrained`.

    Raises:
        ValueError: it is neither a model's folder nor to be had from the Hub, its weights are in no
            safetensors files or in some outside the folder, it holds an adapter, something in it
            is damaged or missing, it could only be loaded by running its own code, or it does
            not fit into memory.
    """
    from transformers import AutoConfig

    # a class of models, or an Auto class that picks one
    is_model = hasattr(kind, "can_generate") or hasattr(kind, "_model_mapping")
    folder = Path(source)
    if is_model and folder.is_dir():  # before transformers follows what leads elsewhere
        stored_tensors(folder)
    if getattr(kind, "__name__", "") == "AutoModelForCausalLM":
        kind = _class_of(load_pretrained(AutoConfig, source, revision=options.get("revision")))
    if is_model:
        options = {"use_safetensors": True, "output_loading_info": True, **options}
    try:
        loaded = kind.from_pretrained(source, **{**options, "trust_remote_code": False})
    except Exception as error:  # damaged files make the libraries raise almost anything
        what = "the tokenizer of " if getattr(kind, "__name__", "") == "AutoTokenizer" else ""
        raise ValueError(_load_failure(what, source, error)) from error
    if not is_model:
        return loaded
    model, info = loaded
    if info["missing_keys"]:  # transformers fills them with random numbers
        raise ValueError(f"the files of {source} {describe_absent(info['missing_keys'], model)}")
    return model


def empty_model(source: Path | str, **options: Any) -> "PreTrainedModel":
    """The model that a source's configuration describes, on the meta device: without its weights.

    Raises:
        ValueError: there is no configuration, or it is of no language model.
    """
    import torch
    from transformers import AutoConfig

    folder = Path(source)
    if folder.is_dir():
        require_no_adapter(folder)
    config = load_pretrained(AutoConfig, source, **options)
    kind = _class_of(config)
    try:
        with torch.device("meta"):
            return kind.from_config(config, trust_remote_code=False)
    except Exception as error:
        what = f"a causal language model of the type {config.model_type!r} from "
        raise ValueError(_load_failure(what, source, error)) from error


def describe_absent(names: Iterable[str], model: "PreTrainedModel") -> str:
    """The rest of the sentence "the files ...", for files that lack parameters."""
    return (
        f"hold no tensor {min(names)} of {type(model).__name__}; copy or download them again, or "
        "save the model from inside its wrapper (torch.compile, DDP, peft), the language model of "
        "a classifier, a quantized one as it was before or after dequantize(); where embedding and "
        "head are one, set tie_word_embeddings to true in config.json"
    )


def load_tokenizer(source: Path | str, **options: Any) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of a folder or of a model on the Hub; None for a folder without one.

    Raises:
        ValueError: as `load_pretrained`.
    """
    from transformers import AutoTokenizer

    folder = Path(source)
    if folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    return load_pretrained(AutoTokenizer, source, **options)


def local_folder(source: Path | str) -> Path:
    """The folder of a model: the source itself, or where a model of the Hub is kept once fetched.

    Raises:
        ValueError: there is no such folder, and the Hub has no such model or is not to be reached.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    patterns = [*_CARRIED, "model*.safetensors"]
    try:
        folder = snapshot_download(str(source), allow_patterns=patterns, ignore_patterns="*/*")
    except Exception as error:
        raise ValueError(_load_failure("", source, error)) from error
    return Path(folder)


def public_name(model: str | os.PathLike) -> str:
    """What to call a model in a file that is shared: no path of the machine.

    A folder in the Hub's cache has the name of its model there; a name on the Hub stays.
    """
    path = Path(model)
    if not path.exists() and is_hub_name(str(model)):
        return str(model)
    path = path.resolve()
    cached = path.parent.parent.name
    if path.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/")
    return path.name


def is_hub_name(name: str) -> bool:
    """Whether a text has the form OWNER/NAME of a model on the Hub."""
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except ValueError:
        return False
    return "/" in name


def split_files(folder: Path, weights: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files that belong to a model beside its weights, and the names of all that does not.

    Raises:
        ValueError: a file that belongs is a link to one outside the folder.
    """
    roots = [folder.resolve()]
    if roots[0].parent.name == "snapshots":  # in the Hub's cache files are links
        roots.append(roots[0].parents[1] / "blobs")
    index = folder / INDEX
    carried = {index} if index.is_file() and SINGLE not in weights else set()
    found = {path for pattern in _CARRIED for path in folder.glob(pattern) if path.is_file()}
    carried |= {path for path in found if not any(map(path.match, _NOT_CARRIED))}
    for path in carried:
        if not any(map(path.resolve().is_relative_to, roots)):
            raise ValueError(
                f"{path} is a link to a file outside its folder, which would be copied along; put "
                "the file itself there, or remove the link"
            )
    used = {path.relative_to(folder).parts[0] for path in carried}
    used |= {Path(file).parts[0] for file in weights}
    skipped = [
        path.name + ("/" if path.is_dir() else "")
        for path in sorted(folder.iterdir())
        if path.name not in used and not path.name.startswith(".")
    ]
    return sorted(carried), skipped


def have_same_tokenizer(one: Path, other: Path) -> bool:
    """Whether two folders hold the same bytes, or no file, under each name of a tokenizer's."""
    paths = [each for kind in _OF_TOKENIZERS for part in (one, other) for each in part.glob(kind)]
    _, *others = filecmp.cmpfiles(one, other, {path.name for path in paths}, shallow=False)
    return not any(others)


def _class_of(config: Any) -> Any:
    """The class that loads a language model, whether or not it takes images beside text.

    Raises:
        ValueError: it has an encoder of text.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    with_images = AutoModelForImageTextToText._model_mapping
    is_plain = type(config) in AutoModelForCausalLM._model_mapping
    if not is_plain and hasattr(config, "text_config") and type(config) in with_images:
        return AutoModelForImageTextToText
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{config.name_or_path!r} is an encoder-decoder model ({config.model_type}), which is "
            "not supported; take a decoder-only language model"
        )
    return AutoModelForCausalLM


def _load_failure(what: str, source: Path | str, error: Exception) -> str:
    """What could not be loaded, why by the first line of the error, and what can be done."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    error_text = f"{error!r} {error.__cause__!r}".lower()
    remedies = (text for pattern, text in _REMEDIES.items() if re.search(pattern, error_text))
    remedy = next((f"; {text}" for text in remedies), "")
    if not remedy and Path(source).is_dir():
        remedy = "; look at these files, or copy or download the folder again"
    return f"cannot load {what}{str(source)!r}: {reason.rstrip('.')}{remedy}"
