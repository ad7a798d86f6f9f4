"""Where a model's parts lie: on several devices, or offloaded to CPU or disk by accelerate.

ids = ids.to(input_device(model))
require_in_memory(donor, target)         # before weights are read or written
"""

from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def input_device(model: nn.Module) -> torch.device:
    """Device on which a model takes its inputs: its embedding's.

    The parts of a model may lie on several devices. Of an embedding that accelerate keeps elsewhere
    between forwards (CPU or disk offload), it is the device on which accelerate runs it.

    Raises:
        ValueError: the embedding is on the meta device and nothing brings it in.
    """
    try:
        embedding = cast("PreTrainedModel", model).get_input_embeddings()
    except (AttributeError, NotImplementedError):  # no model of transformers, or one without
        embedding = None
    module = model if embedding is None else embedding
    device = next(module.parameters()).device
    if device.type != "meta":
        return device
    hook = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        if getattr(each, "execution_device", None) is not None:
            return torch.device(each.execution_device)
    raise ValueError("the model is on the meta device; load its weights, or offload by accelerate")


def require_in_memory(*models: nn.Module) -> None:
    """Refuse models whose weights are not there to be read or written between two forwards.

    Raises:
        ValueError: names the first such parameter.
    """
    for model in models:
        for name, parameter in model.named_parameters():
            if parameter.is_meta:
                raise ValueError(
                    f"parameter {name} is offloaded (on the meta device); its weights can be read "
                    "and changed in the model's folder only, by transfer_checkpoint"
                )
