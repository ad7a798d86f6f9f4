"""Checks that two models can exchange channels, and names each reason why not.

for mismatch in check_pair(donor, target, donor_tokenizer, target_tokenizer):
    print(mismatch)
"""

from torch import nn
from transformers import PreTrainedTokenizerBase

from actlib.channels import channel_modules, tied_modules
from actlib.masks import shortened

# Settings that change what a channel means without changing a shape. The rotary base is left out on
# purpose: Qwen2.5 and Qwen2.5-Math, a pair of the paper, differ in it.
_SETTINGS = ("model_type", "vocab_size", "num_attention_heads", "num_key_value_heads", "hidden_act")


def check_pair(
    donor: nn.Module,
    target: nn.Module,
    donor_tokenizer: PreTrainedTokenizerBase | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[str]:
    """Mismatches between two models, one clause each; an empty list means that they fit.

    Compared are architecture, settings, modules with channels, the shape of each parameter, tied
    tensors, and the tokenizers where both are given. Names and weights may differ.
    """
    mismatches = _settings(donor, target) + _modules(donor, target)
    if donor_tokenizer is not None and target_tokenizer is not None:
        mismatches += _tokenizers(donor_tokenizer, target_tokenizer)
    return mismatches


def require_pair(
    donor: nn.Module,
    target: nn.Module,
    donor_tokenizer: PreTrainedTokenizerBase | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Refuse models that cannot exchange channels.

    Raises:
        ValueError: names each mismatch, up to five of them.
    """
    mismatches = check_pair(donor, target, donor_tokenizer, target_tokenizer)
    if mismatches:
        raise ValueError(f"donor and target do not fit: {shortened(mismatches)}")


def _settings(donor: nn.Module, target: nn.Module) -> list[str]:
    mismatches = []
    if type(donor).__name__ != type(target).__name__:
        mismatches.append(f"architecture {type(donor).__name__} against {type(target).__name__}")
    configs = [getattr(model, "config", None) for model in (donor, target)]
    for setting in _SETTINGS:
        ours, theirs = (getattr(config, setting, None) for config in configs)
        if ours != theirs:
            mismatches.append(f"{setting} {ours} against {theirs}")
    return mismatches


def _modules(donor: nn.Module, target: nn.Module) -> list[str]:
    ours, theirs = channel_modules(donor), channel_modules(target)
    mismatches = [f"module {name} only in the donor" for name in ours if name not in theirs]
    mismatches += [f"module {name} only in the target" for name in theirs if name not in ours]
    for name in (name for name in ours if name in theirs):
        shapes = [
            {key: tuple(parameter.shape) for key, (parameter, _) in module.parameters().items()}
            for module in (ours[name], theirs[name])
        ]
        for key in dict.fromkeys([*shapes[0], *shapes[1]]):
            sides = [_shape(shape.get(key)) for shape in shapes]
            if sides[0] != sides[1]:
                mismatches.append(f"{name}.{key} {sides[0]} against {sides[1]}")
    ties = [tied_modules(model) for model in (donor, target)]
    if ties[0] != ties[1]:
        mismatches.append(f"tied modules {ties[0] or 'none'} against {ties[1] or 'none'}")
    return mismatches


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape))


def _tokenizers(donor: PreTrainedTokenizerBase, target: PreTrainedTokenizerBase) -> list[str]:
    mismatches = []
    ours, theirs = donor.get_vocab(), target.get_vocab()
    if len(ours) != len(theirs):
        mismatches.append(f"tokenizer vocabulary of {len(ours)} against {len(theirs)} tokens")
    elif ours != theirs:
        differing = sum(theirs.get(token) != index for token, index in ours.items())
        mismatches.append(f"tokenizer vocabulary with {differing} tokens under other ids")
    # The padding token never reaches a score, and pairs often differ in it.
    special = [
        {role: token for role, token in tokenizer.special_tokens_map.items() if role != "pad_token"}
        for tokenizer in (donor, target)
    ]
    for role in dict.fromkeys([*special[0], *special[1]]):
        sides = [roles.get(role) for roles in special]
        if sides[0] != sides[1]:
            mismatches.append(f"{role} {sides[0]} against {sides[1]}")
    return mismatches
