"""Which weights can be compared and moved row by row: plain float tensors in memory, and no others.

    require_unwrapped(model)                 # before activations are read by module
    require_float_weights(model)             # before any weight is read
    require_in_memory(donor, target)
    require_writable(target)                 # before any weight is written
    copied(model)                            # instead of copy.deepcopy

Codes of a quantized weight mean nothing without their scales, and a weight below an adapter or a
parametrization is not the one that the model computes with.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Mapping
from types import FunctionType

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from actlib.channels import channel_modules, own_parameters, unwrapped

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of numbers that can be moved."""
# Types in which buffers hold codes. Those of int64 do beside scales, where there is no weight, and
# else hold positions, indices, counts or masks.
_CODES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.float8_e4m3fn, torch.float8_e5m2)
_QUANTIZATION = re.compile("scale|absmax|codebook|centroid|pack|weight", re.IGNORECASE)
_ADAPTER = (
    "is wrapped by peft ({}), so that its weights are not those that it computes with; merge the "
    "adapter into them by peft.PeftModel.from_pretrained(model, adapter).merge_and_unload() (the "
    "model loaded with tie_word_embeddings=False and its head a copy, if a tied one is adapted), "
    "or of a learned prompt, which no channel holds, take get_base_model()"
)
_SHARDED = "is sharded over processes ({}); load the whole model in each process"
_WRAPPERS = {  # by package and class
    "peft.PeftModel": _ADAPTER,
    "peft.PeftMixedModel": _ADAPTER,
    "peft.BaseTunerLayer": _ADAPTER,
    "torch.OptimizedModule": "is compiled apart from the rest of the model ({}), which changes the "
    "names within; compile it in place by its method compile()",
    "torch.FullyShardedDataParallel": _SHARDED,
    "torch.FSDPModule": _SHARDED,
}
_UNQUANTIZED = (
    "expected plain float numbers: load the model without quantization, or dequantize() it where "
    "transformers can"
)


def require_float_weights(model: nn.Module) -> None:
    """Raise ValueError for a model whose weights are no plain numbers, see `describe_fault`."""
    if fault := describe_fault(model):
        raise ValueError(fault)


def require_unwrapped(model: nn.Module) -> None:
    """Raise ValueError for a module that gives less than the model computes with."""
    for name, module in unwrapped(model).named_modules():
        if fault := _describe_wrapping(module):
            raise ValueError(f"{_called(name)} {fault}")


def require_in_memory(*models: nn.Module) -> None:
    """Raise ValueError for weights that are not there to be read or written between forwards."""
    for model in models:
        for name, parameter in model.named_parameters():
            if parameter.is_meta:
                raise ValueError(
                    f"parameter {name} is offloaded (on the meta device); its weights can be read "
                    "and changed in its folder only, as transfer_checkpoint and apply_patch do"
                )


def require_writable(model: nn.Module) -> None:
    """Raise ValueError for a model of which a parameter could not be set, before the first is."""
    require_float_weights(model)
    require_in_memory(model)
    for name, parameter in model.named_parameters():
        if parameter.is_inference() and not torch.is_inference_mode_enabled():
            raise ValueError(
                f"parameter {name} was made in inference mode and cannot be changed outside of it; "
                "change the model under torch.inference_mode(), or load it outside"
            )


def copied(model: nn.Module) -> nn.Module:
    """A deep copy that runs its own weights.

    Raises:
        ValueError: a module's forward was replaced by a function that runs the module itself, such
            as `torch.compile` of it gives, since such functions are not copied.
    """
    for name, module in unwrapped(model).named_modules():
        for attribute in ("forward", "_old_forward"):  # the second is accelerate's
            forward = vars(module).get(attribute)
            method = getattr(forward, "__func__", getattr(forward, "func", None))  # or of a partial
            if isinstance(forward, FunctionType) or _holds_module(method):
                raise ValueError(
                    f"the forward of {_called(name)} was replaced by a function that a copy would "
                    "share; take it away (del module.forward), and compile by module.compile()"
                )
    model_copy = copy.deepcopy(model)
    for name in ("to", "cuda"):  # of accelerate, which move the original
        vars(unwrapped(model_copy)).pop(name, None)
    return model_copy


def _holds_module(function: object) -> bool:
    """Whether a module or its method is in the closure or the defaults of a function, or below."""
    visited = [function]
    for each in visited:  # which grows meanwhile
        if isinstance(each, FunctionType):
            new = [cell.cell_contents for cell in each.__closure__ or ()]
            new += [*(each.__defaults__ or ()), *(each.__kwdefaults__ or {}).values()]
            visited += [value for value in new if not any(value is old for old in visited)]
    return any(isinstance(getattr(each, "__self__", each), nn.Module) for each in visited)


def describe_fault(model: nn.Module) -> str | None:
    """Why a model's weights can be neither compared nor moved, and the remedy; None if they can."""
    model = unwrapped(model)
    for name, module in model.named_modules():
        if fault := _describe_wrapping(module) or _describe_tensors(module):
            return f"{_called(name)} {fault}"
    for name, each in channel_modules(model).items():
        own = own_parameters(each.module).keys()
        buffers = {key for key, tensor in each.module._buffers.items() if tensor is not None}
        scales = {key for key in buffers if key.startswith("weight_scale")}
        if "weight" in own and (more := sorted(scales | own - {"weight", "bias"})):
            return (
                f"{_called(name)} computes with {more[0]} beside its weight and bias, so that a "
                "row of the weight alone says nothing; fold it into the weight"
            )
    if fault := _describe_overlap(model):
        return fault
    # what modules do not show: codes outside of torch's tensors, and on the meta device a model
    # made from the configuration of a quantized one
    method = getattr(model, "is_quantized", False) and getattr(model, "quantization_method", "yes")
    settings = getattr(getattr(model, "config", None), "quantization_config", None)
    if settings and all(parameter.is_meta for parameter in model.parameters()):
        settings = settings if isinstance(settings, Mapping) else settings.to_dict()
        method = settings.get("quant_method", "quantization_config")
    method = getattr(method, "value", method)
    return f"the model is quantized ({method}); {_UNQUANTIZED}" if method else None


def _called(name: str) -> str:
    return f"module {name}" if name else "the model"


def _describe_wrapping(module: nn.Module) -> str | None:
    for kind in type(module).__mro__:
        fault = _WRAPPERS.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
        if fault:
            return fault.format(type(module).__name__)
    return None


def _describe_tensors(module: nn.Module) -> str | None:
    """What a module's own tensors hold instead of numbers of which a row stands for itself."""
    own = own_parameters(module)
    if ".quantized." in type(module).__module__:  # of torch.ao, packed into no tensor at all
        return f"holds packed integers ({type(module).__name__}), {_UNQUANTIZED}"
    # codes are in buffers (GPTQ, AWQ), in a parameter of a class of its own (bitsandbytes, torchao,
    # quanto) or in one of integers or of 8 bits (HQQ, FP8)
    buffers = {name: tensor for name, tensor in module._buffers.items() if tensor is not None}
    lasting = buffers.keys() - module._non_persistent_buffers_set
    is_quantized = "weight" not in own and any(map(_QUANTIZATION.search, [*own, *lasting]))
    codes = {
        name: tensor
        for name, tensor in buffers.items()
        if (tensor.dtype in _CODES and (tensor.ndim > 1 or name == "weight"))
        or (
            is_quantized
            and name in lasting
            and (tensor.dtype == torch.int64 and tensor.ndim > 1 and len(tensor) > 1)
        )
    }
    for name, tensor in {**own, **codes}.items():
        kind, is_plain = type(tensor).__name__, type(tensor) in (nn.Parameter, Tensor)
        if hasattr(tensor, "full_tensor") or hasattr(tensor, "ds_id") or kind == "FlatParameter":
            return _SHARDED.format(kind)
        if not is_plain or tensor.dtype not in FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.") if is_plain else kind
            return f"holds {name} as {kind}, {_UNQUANTIZED}"
    name = type(module).__name__
    has_weight = isinstance(module, nn.Linear | nn.Embedding) or name == "Conv1D"
    has_channels = has_weight or any(part in name.lower() for part in ("norm", "router"))
    if has_weight and "weight" not in own or has_channels and is_parametrized(module):
        return (
            "has a weight that is computed from other parameters (pruning, weight norm or another "
            "parametrization); make it permanent by the remove function of torch.nn.utils for it"
        )
    return None


def _describe_overlap(model: nn.Module) -> str | None:
    """That two parameters lie in the same memory, or one covers itself; tied ones are one."""
    by_storage = defaultdict[tuple[torch.device, int], list](list)
    for name, p in model.named_parameters():
        if p.numel() and not p.is_meta:
            first = p.storage_offset() * p.element_size()
            by_storage[p.device, p.untyped_storage().data_ptr()].append((first, name, p))
    for parameters in by_storage.values():
        end, before = 0, parameters[0][1]
        for first, name, p in sorted(parameters, key=lambda each: each[:2]):
            extent = 1 + sum((n - 1) * step for n, step in zip(p.shape, p.stride(), strict=True))
            if first < end or extent < p.numel():
                return f"parameters {before} and {name} share memory; clone() one"
            end, before = first + extent * p.element_size(), name
    return None
