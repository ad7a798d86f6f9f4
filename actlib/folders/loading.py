"""Loads models, tokenizers and configurations, and runs no code that comes with them.

    model = load_pretrained(AutoModelForCausalLM, "target/", dtype=torch.bfloat16)

Weights come from safetensors files alone, since a pickled file runs code when it is read. Code of a
model's own (`auto_map`) is never run and there is no switch for it: who trusts it loads the model
with transformers, and hands the loaded model over.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actlib.folders.headers import stored_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter_config.json"
SAFE = {"trust_remote_code": False}
"""Options of every load."""


def load_pretrained(kind: Any, place: Path | str, **options: Any) -> Any:
    """``kind.from_pretrained(place)``, and one sentence where there is nothing to load.

    Raises:
        ValueError: it is neither a model's folder nor to be had from the Hub, its weights are in no
            safetensors files or in some outside the folder, it holds an adapter, something in it
            is damaged, or it could only be loaded by running code of its own.
    """
    if getattr(kind, "__name__", "") == "AutoModelForCausalLM":
        options = {"use_safetensors": True, **options}
        if Path(place).is_dir():
            _require_whole(Path(place))
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
    folder = Path(place)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ValueError(f"the model folder {folder} lacks config.json; save_pretrained writes one")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = load_pretrained(AutoConfig, place, **options)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, **SAFE)
    except Exception as error:
        what = f"a causal language model of the type {config.model_type!r} from "
        raise ValueError(_sentence(what, place, error)) from error


def _sentence(what: str, place: Path | str, error: Exception) -> str:
    """What was to be loaded, why that failed, and what can be done."""
    told = str(error)
    if "trust_remote_code" in told:
        return (
            f"{str(place)!r} asks to run code of its own (auto_map), which is never done here; "
            "take a model of a family that transformers knows, or load it and hand it over"
        )
    lines = [line.strip() for line in told.splitlines() if line.strip()] or [type(error).__name__]
    reason = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    if "ignore_mismatched_sizes" in told:
        reason = "its weights have other shapes than its config.json says"
    offline = os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "on", "yes", "true")
    online = "unset HF_HUB_OFFLINE and go online" if offline else "go online"
    remedy = (
        "look at these files, or copy or download the folder anew"
        if Path(place).is_dir()
        else f"there is no such folder here, and for a Hub id {online}"
    )
    where = "" if what else " from a folder or the Hub"
    return f"cannot load {what}{str(place)!r}{where}: {reason.rstrip('.')}; {remedy}"


def _require_whole(folder: Path) -> None:
    """Refuse a folder whose weights would come from elsewhere, before transformers follows."""
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"the model folder {folder} holds an adapter ({ADAPTER}), which names a model "
            "elsewhere; merge the two with merge_and_unload of peft, and save the result"
        )
    if (folder / "config.json").is_file():
        stored_tensors(folder)
