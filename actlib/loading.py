"""Loads models, tokenizers and configurations, and runs no code that comes with them.

    model = load_pretrained(AutoModelForCausalLM, "target/", dtype=torch.bfloat16)
    empty = empty_model("target/")               # on the meta device: shapes without numbers
    tokenizer = load_tokenizer("target/")

Weights come from safetensors files alone, since a pickled file runs code when it is read. Code of a
model's own (`auto_map`) is never run and there is no switch for it: who trusts it loads the model
with transformers, and hands the loaded model over.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from actlib.stored import stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ADAPTER = "adapter_config.json"
SAFE = {"trust_remote_code": False}
"""Options of every load."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
_FETCHED = ("*.json", "*.model", "*.txt", "*.jinja", "*.safetensors")


def load_pretrained(kind: Any, place: Path | str, **options: Any) -> Any:
    """``kind.from_pretrained(place)``, and one sentence where there is nothing to load.

    Args:
        kind: class of transformers, such as ``AutoModelForCausalLM``.
        place: a folder, or the id of a model on the Hub.
        **options: of `from_pretrained`.

    Raises:
        ValueError: it is neither a model's folder nor to be had from the Hub, its weights are in no
            safetensors files or in some outside the folder, it holds an adapter, something in it
            is damaged, it could only be loaded by running code of its own, or it does not fit into
            memory.
    """
    if getattr(kind, "__name__", "") == "AutoModelForCausalLM":
        options = {"use_safetensors": True, **options}
        folder = Path(place)
        if folder.is_dir():  # before transformers follows what leads elsewhere
            _require_no_adapter(folder)
            if (folder / "config.json").is_file():
                stored_tensors(folder)
    try:
        return kind.from_pretrained(place, **{**options, **SAFE})
    except Exception as error:  # damaged files make the libraries raise almost anything
        what = "the tokenizer of " if getattr(kind, "__name__", "") == "AutoTokenizer" else ""
        raise ValueError(_sentence(what, place, error)) from error


def empty_model(place: Path | str, **options: Any) -> "PreTrainedModel":
    """The model that a place's configuration describes, on the meta device: without its weights.

    Raises:
        ValueError: there is no configuration, or it is of no causal language model.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = Path(place)
    if folder.is_dir():
        _require_no_adapter(folder)
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"the model folder {folder} lacks config.json; save_pretrained writes one"
            )
    config = load_pretrained(AutoConfig, place, **options)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, **SAFE)
    except Exception as error:
        if type(config) not in AutoModelForCausalLM._model_mapping and not hasattr(
            config, "auto_map"
        ):
            raise ValueError(_other_kind(place, config)) from error
        what = f"a causal language model of the type {config.model_type!r} from "
        raise ValueError(_sentence(what, place, error)) from error


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

    patterns = [each for each in _FETCHED if weights or not each.endswith("safetensors")]
    try:
        return Path(snapshot_download(str(place), allow_patterns=patterns))
    except Exception as error:
        raise ValueError(_sentence("", place, error)) from error


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
    if Path(place).is_dir():
        remedy = "look at these files, or copy or download the folder again"
    where = "" if what else " from a folder or the Hub"
    return f"cannot load {what}{str(place)!r}{where}: {reason.rstrip('.')}; {remedy}"


def _other_kind(place: Path | str, config: Any) -> str:
    """A sentence on a model that transformers does not offer as a causal language model."""
    classes = ", ".join(getattr(config, "architectures", None) or []) or config.model_type
    return (
        f"{str(place)!r} holds {classes} ({config.model_type}), which is no causal language model "
        "of transformers; load both models by a class that fits, and hand the loaded models to "
        "record_differences and transfer_, which take any model"
    )


def _require_no_adapter(folder: Path) -> None:
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"the model folder {folder} holds an adapter ({ADAPTER}), which names a model "
            "elsewhere; merge the two with merge_and_unload of peft, and save the result"
        )
