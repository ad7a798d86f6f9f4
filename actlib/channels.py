"""Finds the channels of a model: which modules have them, how many, and where they are stored.

A channel is one output dimension of a trainable module: a linear layer, a norm, the embedding, the
LM head, the router of a mixture of experts. Modules are found by type, whatever the family; nothing
else in the package knows how they store their channels. A fused projection (qkv, gate_up) is one
module whose channels are all its rows, and so is a projection of all experts that is packed into
one tensor: its channels come expert by expert.

    for name, each in channel_modules(model).items():
        print(name, each.role, kind_of(name), layer_of(name), each.channels)
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

ROLES = ("embedding", "head", "linear", "norm", "router", "expert")
"""What a module is to its model; a linear layer that is none of the others is "linear"."""


@dataclass(frozen=True)
class ChannelModule:
    """A module with output channels.

    Attributes:
        name: in `named_modules()`; of a packed projection of experts, in `named_parameters()`.
        module: which holds the parameters.
        channels: how many there are.
        dimension: of the weight, along which channels lie: 1 for columns, of embeddings [tokens,
            channels] and of Conv1D [inputs, channels], else 0, for rows or for entries of norms.
        role: one of `ROLES`, by what the module is, not by its name: the model says which is its LM
            head, every lookup table is an embedding, and a router is of a class that says so. A
            shared expert, which sees every token, is "linear".
        is_packed: whether it is a projection of all experts in one tensor, [experts, channels of
            each, inputs], whose first two dimensions count together as dimension 0.
    """

    name: str
    module: nn.Module
    channels: int
    dimension: int
    role: str = "linear"
    is_packed: bool = False

    @property
    def weight(self) -> nn.Parameter:
        """The parameter that has all of the channels."""
        return getattr(self.module, self.name.rpartition(".")[2] if self.is_packed else "weight")

    def parameters(self) -> dict[str, tuple[nn.Parameter, int]]:
        """Own parameters by name, each with the dimension along which its channels lie."""
        if self.is_packed:
            return {self.name.rpartition(".")[2]: (self.weight, 0)}
        return {
            name: (parameter, self.dimension if parameter.ndim > 1 else 0)
            for name, parameter in own_parameters(self.module).items()
        }


def channel_modules(model: nn.Module) -> dict[str, ChannelModule]:
    """Every module of the model that has channels, by name, in the order of `named_modules()`."""
    model = unwrapped(model)
    modules, head = {}, end_of(model, "output")
    for name, module in model.named_modules():
        for own, packed in packed_projections(module).items():
            full = f"{name}.{own}" if name else own
            channels = packed.shape[0] * packed.shape[1]
            modules[full] = ChannelModule(full, module, channels, 0, "expert", is_packed=True)
        if (described := _describe(module)) is not None:
            channels, dimension, role = described
            role = "head" if module is head else role
            modules[name] = ChannelModule(name, module, channels, dimension, role)
    return modules


def channel_sizes(modules: Mapping[str, ChannelModule]) -> dict[str, int]:
    """Parameters that each channel of a module has; empty where weights are packed integers."""
    own = {name: [p for p, _ in each.parameters().values()] for name, each in modules.items()}
    if not all(p.is_floating_point() for parameters in own.values() for p in parameters):
        return {}
    return {n: sum(p.numel() for p in each) // modules[n].channels for n, each in own.items()}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside what `torch.compile` or a data-parallel wrapper makes of it, if any.

    Such a wrapper computes the same, but every name within has a prefix.
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while isinstance(model, parallel) or hasattr(model, "_orig_mod"):
        model = model.get_submodule("module" if isinstance(model, parallel) else "_orig_mod")
    return model


def tied_modules(model: nn.Module) -> list[tuple[str, ...]]:
    """Groups of module names that share one weight tensor, such as a tied embedding and LM head.

    Offloading puts a separate parameter on the meta device for each name; there, what the model
    of transformers declares as tied counts.
    """
    declared = getattr(model, "all_tied_weights_keys", None) or {}
    groups: dict[int, list[str]] = {}
    for name, module in channel_modules(model).items():
        weight = module.weight
        if weight.is_meta and f"{name}.weight" in declared:
            weight = model.get_parameter(declared[f"{name}.weight"])
        groups.setdefault(id(weight), []).append(name)
    return [tuple(names) for names in groups.values() if len(names) > 1]


def uncovered_parameters(model: nn.Module) -> list[str]:
    """Names of parameters and stored buffers of no channel, such as the biases of a router."""
    modules = channel_modules(model).values()
    covered = {id(parameter) for each in modules for parameter, _ in each.parameters().values()}
    stored = model.state_dict(keep_vars=True)  # of a tensor with several names, all of them
    return [name for name, tensor in stored.items() if id(tensor) not in covered]


def end_of(model: nn.Module, end: str) -> nn.Module | None:
    """The "input" (embedding) or "output" (head) of a model of transformers, None without one."""
    try:
        return getattr(model, f"get_{end}_embeddings")()
    except (AttributeError, NotImplementedError):  # of another library, or it cannot tell
        return None


def packed_projections(module: nn.Module) -> dict[str, nn.Parameter]:
    """Projections of all experts in one tensor each, by name; empty for any other module.

    These are ``gate_up_proj`` (or ``up_proj``) and ``down_proj`` of the experts of transformers,
    [experts, outputs, inputs]. Experts that are stored transposed, with biases or with a norm of
    their own are left out: their parameters belong to no channel (see `uncovered_parameters`).
    """
    own = own_parameters(module)
    first = "gate_up_proj" if "gate_up_proj" in own else "up_proj"
    if own.keys() != {first, "down_proj"} or any(each.ndim != 3 for each in own.values()):
        return {}
    # What the decorator of transformers says of the experts that it wraps.
    plain = getattr(module, "is_transposed", None) is False and not (
        module.has_bias or module.has_post_expert_norm
    )
    return {name: own[name] for name in (first, "down_proj")} if plain else {}


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """As `named_parameters(recurse=False)`, which takes five times as long over a whole model."""
    return {name: each for name, each in module._parameters.items() if each is not None}


def layer_of(name: str) -> int:
    """Layer index of a module name, or -1 for one outside the layers of the language model."""
    for part in name.split("."):
        if any(word in part for word in ("vision", "visual", "audio")):
            return -1  # of a tower, which counts its own
        if part.isdecimal():
            return int(part)
    return -1


def kind_of(name: str) -> str:
    """Module name without its layer index and the prefix before it; other indices are dropped.

    `model.layers.3.self_attn.q_proj` is of kind `self_attn.q_proj`, `model.embed_tokens` of kind
    `embed_tokens`.
    """
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdecimal()), len(parts) - 2)
    return ".".join(part for part in parts[first + 1 :] if not part.isdecimal())


def _describe(module: nn.Module) -> tuple[int, int, str] | None:
    """Number of channels, their dimension and role by type of a module; None without channels."""
    own, name = own_parameters(module), type(module).__name__.lower()
    linear = "router" if "router" in name else "linear"
    if isinstance(module, nn.Linear):
        return module.out_features, 0, linear
    if isinstance(module, nn.Embedding):
        return module.embedding_dim, 1, "embedding"
    if type(module).__name__ == "Conv1D":  # of transformers; that of torch is Conv1d
        return own["weight"].shape[1] if "weight" in own else vars(module)["nf"], 1, linear
    if next(module.children(), None) or not {"weight"} <= own.keys() <= {"weight", "bias"}:
        return None
    # each family has its own class of RMSNorm, and of router
    if "norm" in name and all(each.ndim == 1 for each in own.values()):
        return own["weight"].numel(), 0, "norm"
    if "router" in name and own["weight"].ndim == 2:
        return len(own["weight"]), 0, "router"
    return None
