"""Which weights can be compared and moved row by row: plain float tensors, and no others.

    require_float_weights(donor, target)     # before any weight is read or written
    require_unwrapped(model)                 # before activations are read by module

Codes of a quantized weight mean nothing without their scales, and a weight below an adapter or a
parametrization is not the one that the model computes with.
"""

import sys
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from actlib.channels import own_parameters

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of numbers that can be moved."""
# Types in which buffers hold codes; int64 positions and bool masks are none.
_CODES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)


def require_float_weights(*models: nn.Module) -> None:
    """Refuse models that are quantized, wrapped by peft, or parametrized.

    Raises:
        ValueError: names the module and the remedy.
    """
    for fault in filter(None, map(describe_fault, models)):
        raise ValueError(fault)


def require_unwrapped(*models: nn.Module) -> None:
    """Refuse models wrapped by peft: the outputs of the modules inside lack what the adapter adds.

    Raises:
        ValueError: names the module and the remedy.
    """
    for model in models:
        for name, module in model.named_modules():
            if fault := _describe_wrapping(module):
                raise ValueError(f"{_called(name)} {fault}")


def describe_fault(model: nn.Module) -> str | None:
    """Why a model's weights can be neither compared nor moved, and the remedy; None if they can."""
    for name, module in model.named_modules():
        if fault := _describe_wrapping(module):
            return f"{_called(name)} {fault}"
        if codes := _find_codes(module):
            return f"{_called(name)} holds {codes}, {_UNQUANTIZED}"
        if isinstance(module, nn.Linear | nn.Embedding) and "weight" not in own_parameters(module):
            return (
                f"{_called(name)} has a weight that is computed from other parameters (pruning, "
                "weight norm or another parametrization); make it permanent by the remove function "
                "of torch.nn.utils for it"
            )
    # what modules do not show: codes outside of torch's tensors, and on the meta device a model
    # made from the configuration of a quantized one
    method = getattr(model, "is_quantized", False) and getattr(model, "quantization_method", "yes")
    settings = getattr(getattr(model, "config", None), "quantization_config", None)
    if settings and all(parameter.is_meta for parameter in model.parameters()):
        settings = settings if isinstance(settings, Mapping) else settings.to_dict()
        method = settings.get("quant_method", "quantization_config")
    method = getattr(method, "value", method)
    return f"the model is quantized ({method}); {_UNQUANTIZED}" if method else None


_UNQUANTIZED = (
    "expected plain float numbers: load the model without quantization, or dequantize() it where "
    "transformers can"
)


def _called(name: str) -> str:
    return f"module {name}" if name else "the model"


def _describe_wrapping(module: nn.Module) -> str | None:
    """Whoever has a module of peft has imported peft, which takes seconds."""
    peft, layers = (sys.modules.get(name) for name in ("peft", "peft.tuners.tuners_utils"))
    if peft is None or layers is None:
        return None
    if not isinstance(module, (peft.PeftModel, layers.BaseTunerLayer)):
        return None
    return (
        f"is wrapped by peft ({type(module).__name__}), so that its weights are not those that it "
        "computes with; merge the adapter into them by merge_and_unload()"
    )


def _find_codes(module: nn.Module) -> str | None:
    """Tensors of the module itself that hold codes instead of numbers."""
    if ".quantized." in type(module).__module__:  # of torch.ao, packed into no tensor at all
        return f"packed integers ({type(module).__name__})"
    for name, buffer in module._buffers.items():  # where GPTQ and AWQ have their codes
        if buffer is not None and buffer.dtype in _CODES and (buffer.ndim > 1 or name == "weight"):
            return f"{name} as {str(buffer.dtype).removeprefix('torch.')}"
    for name, tensor in own_parameters(module).items():
        if type(tensor) not in (nn.Parameter, Tensor):  # of bitsandbytes, torchao, quanto; DTensor
            return f"{name} as {type(tensor).__name__}"
        if tensor.dtype not in FLOATS:
            return f"{name} as {str(tensor.dtype).removeprefix('torch.')}"
    return None
