"""Loads models, tokenizers and configurations, and runs no code that comes with them.

    model = load_pretrained(AutoModelForCausalLM, "target/", dtype=torch.bfloat16)
    empty = empty_model("target/")               # on the meta device: shapes without numbers
    tokenizer = load_tokenizer("target/")

Weights come from safetensors files alone, since a pickled file runs code when it is read. Code of a
model's own (`auto_map`) is never run and there is no switch for it: who trusts it loads the model
with transformers, and hands the loaded model over.
"""

import filecmp
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actlib.stored import INDEX, SINGLE, require_no_adapter, stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SAFE = {"trust_remote_code": False}
"""Options of every load."""
_WHERE = ("revision", "subfolder", "token", "cache_dir", "local_files_only")
# What a model has beside its weights: configuration, tokenizer, templates, texts. All else in a
# folder is another format of the weights, or left by a training, or private.
_CARRIED = (
    *("*.json", "*.jinja", "*.txt", "*.md", "*.py", "*.model", "*.tiktoken", "*.bpe", "*.spm"),
    *("tokenizer*", "*.codes", "LICENSE*", "NOTICE*", "additional_chat_templates/*.jinja"),
)
_NOT_CARRIED = (
    *("*.index.json", "trainer_state.json", "*_results.json", "params.json", "zero_to_fp32.py"),
    *("*.safetensors", "*.bin", "*.pt", "*.pth"),
)
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_OF_TOKENIZERS = ("*token*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "*.bpe")


def load_pretrained(kind: Any, place: Path | str, **options: Any) -> Any:
    """``kind.from_pretrained(place)``, and one sentence where there is nothing to load.

    Args:
        kind: class of transformers. With ``AutoModelForCausalLM``, models that take images beside
            text are loaded whole by the class that they have in transformers.
        place: a folder, or the id of a model on the Hub.
        **options: of `from_pretrained`.

    Raises:
        ValueError: it is neither a model's folder nor to be had from the Hub, its weights are in no
            safetensors files or in some outside the folder, it holds an adapter, something in it
            is damaged or missing, it could only be loaded by running code of its own, or it does
            not fit into memory.
    """
    from transformers import AutoConfig

    is_model = getattr(kind, "__name__", "") == "AutoModelForCausalLM"
    folder = Path(place)
    if is_model and folder.is_dir():  # before transformers follows what leads elsewhere
        stored_tensors(folder)
    if is_model:
        where = {key: options[key] for key in _WHERE if key in options}
        kind = _class_of(load_pretrained(AutoConfig, place, **where))
        options = {"use_safetensors": True, "output_loading_info": True, **options}
    try:
        loaded = kind.from_pretrained(place, **{**options, **SAFE})
    except Exception as error:  # damaged files make the libraries raise almost anything
        what = "the tokenizer of " if getattr(kind, "__name__", "") == "AutoTokenizer" else ""
        raise ValueError(_sentence(what, place, error)) from error
    if not is_model:
        return loaded
    model, info = loaded
    if info["missing_keys"]:  # transformers fills them with random numbers
        absent = describe_absent(info["missing_keys"], model, info["unexpected_keys"])
        raise ValueError(f"the files of {place} {absent}")
    return model


def empty_model(place: Path | str, **options: Any) -> "PreTrainedModel":
    """The model that a place's configuration describes, on the meta device: without its weights.

    Raises:
        ValueError: there is no configuration, or it is of no language model.
    """
    import torch
    from transformers import AutoConfig

    folder = Path(place)
    if folder.is_dir():
        require_no_adapter(folder)
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"the model folder {folder} lacks config.json; save_pretrained writes one"
            )
    config = load_pretrained(AutoConfig, place, **options)
    kind = _class_of(config)
    try:
        with torch.device("meta"):
            return kind.from_config(config, **SAFE)
    except Exception as error:
        if type(config) not in kind._model_mapping and not hasattr(config, "auto_map"):
            raise ValueError(_describe_kind(place, config)) from error
        what = f"a causal language model of the type {config.model_type!r} from "
        raise ValueError(_sentence(what, place, error)) from error


def describe_absent(names: Iterable[str], model: "PreTrainedModel", stored: Iterable[str]) -> str:
    """Why files lack parameters of a model, and what to do: what "the files ..." go on with.

    Args:
        names: of the parameters.
        model: whose they are.
        stored: names of what the files hold.
    """
    absent = sorted(names)
    name = absent[0]
    for other in stored:
        if inner := next((each for each in absent if other.endswith(f".{each}")), None):
            return (
                f"hold no tensor {inner} but {other}, as in a wrapper (torch.compile, DDP, peft); "
                "unwrap the model, and save it again"
            )
    classes = getattr(model.config, "architectures", None) or [type(model).__name__]
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    is_end = model.get_submodule(name.rpartition(".")[0]) in ends
    remedy = "copy or download them again"
    if type(model).__name__ not in classes:
        remedy = f"they are of {', '.join(classes)}, so take the language model itself"
    elif is_end and not model.config.get_text_config(decoder=True).tie_word_embeddings:
        remedy = "if embedding and head are one, set tie_word_embeddings to true in config.json"
    return f"hold no tensor {name}; {remedy}"


def load_tokenizer(place: Path | str) -> "PreTrainedTokenizerBase | None":
    """The tokenizer of a folder or of a model on the Hub; None for a folder without one.

    Raises:
        ValueError: as `load_pretrained`.
    """
    from transformers import AutoTokenizer

    folder = Path(place)
    if folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZER_FILES):
        return None
    return load_pretrained(AutoTokenizer, place)


def local_folder(place: Path | str, *, weights: bool = True) -> Path:
    """The folder of a model: the place itself, or where the files of a model of the Hub are kept.

    Args:
        place: a folder, or the id of a model on the Hub, whose files are fetched.
        weights: fetch the safetensors files, too, and not only the small ones.

    Raises:
        ValueError: there is no such folder, and the Hub has no such model or is not to be reached.
    """
    if Path(place).is_dir():
        return Path(place)
    from huggingface_hub import snapshot_download

    patterns = [*_CARRIED, "model*.safetensors"] if weights else [*_CARRIED]
    try:
        folder = snapshot_download(str(place), allow_patterns=patterns, ignore_patterns="*/*")
    except Exception as error:
        raise ValueError(_sentence("", place, error)) from error
    return Path(folder)


def split_files(folder: Path, weights: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files that belong to a model beside its weights, and the names of all that does not.

    Raises:
        ValueError: a file that belongs is a link to one outside the folder.
    """
    homes = [folder.resolve()]
    if homes[0].parent.name == "snapshots":  # in the Hub's cache files are links into `blobs`
        homes.append(homes[0].parents[1] / "blobs")
    index = folder / INDEX
    carried = {index} if index.is_file() and SINGLE not in weights else set()
    for path in (path for pattern in _CARRIED for path in folder.glob(pattern)):
        if path.is_file() and not path.name.startswith("."):
            if not any(map(path.match, _NOT_CARRIED)):
                carried.add(path)
    for path in carried:
        if not any(map(path.resolve().is_relative_to, homes)):
            raise ValueError(
                f"{path} is a link to a file outside its folder, which would be copied along; put "
                "the file itself there, or remove the link"
            )
    used = {path.relative_to(folder).parts[0] for path in carried}
    used |= {Path(file).parts[0] for file in weights}
    left = [
        path.name + ("/" if path.is_dir() else "")
        for path in sorted(folder.iterdir())
        if path.name not in used and not path.name.startswith(".")
    ]
    return sorted(carried), left


def have_same_tokenizer(one: Path, other: Path) -> bool:
    """Whether two folders hold the same bytes, or no file, under each name of a tokenizer's."""
    paths = [each for kind in _OF_TOKENIZERS for part in (one, other) for each in part.glob(kind)]
    pairs = [(one / name, other / name) for name in {path.name for path in paths}]
    return all(a.is_file() and b.is_file() and filecmp.cmp(a, b, False) for a, b in pairs)


def _class_of(config: Any) -> Any:
    """The class that loads a language model, whether or not it takes images beside text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    with_images = AutoModelForImageTextToText._model_mapping
    is_plain = type(config) in AutoModelForCausalLM._model_mapping
    if not is_plain and hasattr(config, "text_config") and type(config) in with_images:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


def _sentence(what: str, place: Path | str, error: Exception) -> str:
    """What was to be loaded, why that failed, and what can be done."""
    message, words = str(error), f"{error} {error.__cause__}".lower()
    no_room = ("out of memory", "can't allocate memory", "not enough memory")
    if isinstance(error, MemoryError) or any(each in words for each in no_room):
        return (
            f"there is not enough memory to load {what}{str(place)!r}; take a smaller dtype, a "
            'larger device, or device_map="auto", which offloads what does not fit'
        )
    if "trust_remote_code" in message:
        return (
            f"{str(place)!r} asks to run code of its own (auto_map), which is never done here; "
            "take a model of a family that transformers knows, or load it and hand it over"
        )
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if "ignore_mismatched_sizes" in message:
        reason = "its weights have other shapes than its config.json says"
    remedy = "there is no such folder here, and for a Hub id go online (unset HF_HUB_OFFLINE)"
    if isinstance(error, ImportError):
        remedy = "install that package, or take a model that needs none"
    elif Path(place).is_dir():
        remedy = "look at these files, or copy or download the folder again"
    where = "" if what else " from a folder or the Hub"
    return f"cannot load {what}{str(place)!r}{where}: {reason.rstrip('.')}; {remedy}"


def _describe_kind(place: Path | str, config: Any) -> str:
    """A sentence on a model that transformers does not offer as a language model."""
    classes = ", ".join(getattr(config, "architectures", None) or []) or config.model_type
    return (
        f"{str(place)!r} holds {classes} ({config.model_type}), which is no causal language model "
        "of transformers; load both models by a class that fits, and hand the loaded models to "
        "record_differences and transfer_, which take any model"
    )
