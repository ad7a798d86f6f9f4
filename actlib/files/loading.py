"""Loads models, tokenizers and configurations, and runs no code that comes with them.

    model = load_pretrained(AutoModelForCausalLM, "target/", dtype=torch.bfloat16)

Weights come from safetensors files alone, since a pickled file runs code when it is read. Code of a
model's own (`auto_map`) is never run and there is no switch for it: who trusts it loads the model
with transformers, and hands the loaded model over.
"""

from pathlib import Path
from typing import Any

from actlib.files.headers import stored_tensors

ADAPTER = "adapter_config.json"
SAFE = {"trust_remote_code": False}
"""Options of every load."""


def load_pretrained(kind: Any, place: Path | str, **options: Any) -> Any:
    """``kind.from_pretrained(place)``, and one sentence where there is nothing to load.

    Raises:
        ValueError: it is neither a model's folder nor to be had from the Hub, its weights are in no
            safetensors files or in some outside the folder, it holds an adapter, or it could only
            be loaded by running code of its own.
    """
    if getattr(kind, "__name__", "") == "AutoModelForCausalLM":
        options = {"use_safetensors": True, **options}
        if Path(place).is_dir():
            _require_whole(Path(place))
    try:
        return kind.from_pretrained(place, **{**options, **SAFE})
    except OSError as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"cannot load {str(place)!r} from a folder or the Hub: {reason}"
        ) from error
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{str(place)!r} asks to run code of its own (auto_map), which is never done here; "
            "take a model of a family that transformers knows, or load it and hand it over"
        ) from error


def _require_whole(folder: Path) -> None:
    """Refuse a folder whose weights would come from elsewhere, before transformers follows."""
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"the model folder {folder} holds an adapter ({ADAPTER}), which names a model "
            "elsewhere; merge the two with merge_and_unload of peft, and save the result"
        )
    if (folder / "config.json").is_file():
        stored_tensors(folder)
