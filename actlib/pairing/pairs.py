"""Checks that two models can exchange channels, and names each reason why not.

for mismatch in check_pair(donor, target, donor_tokenizer, target_tokenizer):
    print(mismatch)

Quick, since it never reads a weight; `actlib.pairing.reports` tells more, for people to read.
"""

from typing import TYPE_CHECKING

from torch import nn

from actlib.channels import channel_modules, tied_modules
from actlib.masks import shortened
from actlib.pairing.settings import settings_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def check_pair(
    donor: nn.Module,
    target: nn.Module,
    donor_tokenizer: "PreTrainedTokenizerBase | None" = None,
    target_tokenizer: "PreTrainedTokenizerBase | None" = None,
) -> list[str]:
    """Mismatches between two models, one clause each; an empty list means that they fit.

    Compared are architecture, settings (`actlib.pairing.settings`), modules with channels, the
    shape of each parameter, tied tensors, and the tokenizers where both are given. Names and
    weights may differ, and so may what a report only warns of, such as the rotary base.
    """
    mismatches = _settings(donor, target) + shape_mismatches(donor, target)
    ties = [tied_modules(model) for model in (donor, target)]
    if ties[0] != ties[1]:
        mismatches.append(f"tied modules {ties[0] or 'none'} against {ties[1] or 'none'}")
    if donor_tokenizer is not None and target_tokenizer is not None:
        mismatches += vocabulary_mismatches(donor_tokenizer, target_tokenizer)
        mismatches += special_token_mismatches(donor_tokenizer, target_tokenizer)
    return mismatches


def require_pair(
    donor: nn.Module,
    target: nn.Module,
    donor_tokenizer: "PreTrainedTokenizerBase | None" = None,
    target_tokenizer: "PreTrainedTokenizerBase | None" = None,
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
    ours, theirs = settings_of(donor), settings_of(target)
    return mismatches + [
        f"{setting} {ours.get(setting)} against {theirs.get(setting)}"
        for setting in dict.fromkeys([*ours, *theirs])
        if ours.get(setting) != theirs.get(setting)
    ]


def shape_mismatches(donor: nn.Module, target: nn.Module) -> list[str]:
    """Modules with channels that only one model has, and parameters whose shapes differ.

    Parameters that belong to no channel, such as experts with biases, are compared too: they never
    move, but models that differ in them do not compute the same things in their channels.
    """
    ours, theirs = channel_modules(donor), channel_modules(target)
    mismatches = [f"module {name} only in the donor" for name in ours if name not in theirs]
    mismatches += [f"module {name} only in the target" for name in theirs if name not in ours]
    told = ours.keys() ^ theirs.keys()
    shapes = [
        {
            name: tuple(parameter.shape)
            for name, parameter in model.named_parameters(remove_duplicate=False)
            # The owner of packed experts goes by the name of their parameter.
            if name not in told and name.rpartition(".")[0] not in told
        }
        for model in (donor, target)
    ]
    return mismatches + _differing(*shapes)


def _differing(donor: dict[str, tuple[int, ...]], target: dict[str, tuple[int, ...]]) -> list[str]:
    return [
        f"{name} {_shape(donor.get(name))} against {_shape(target.get(name))}"
        for name in dict.fromkeys([*donor, *target])
        if donor.get(name) != target.get(name)
    ]


def _shape(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else " x ".join(map(str, shape))


def vocabulary_mismatches(
    donor: "PreTrainedTokenizerBase", target: "PreTrainedTokenizerBase"
) -> list[str]:
    """In how many tokens, or in the ids of how many, two tokenizers differ; empty if in none."""
    ours, theirs = donor.get_vocab(), target.get_vocab()
    if len(ours) != len(theirs):
        return [f"tokenizer vocabulary of {len(ours)} against {len(theirs)} tokens"]
    differing = sum(theirs.get(token) != index for token, index in ours.items())
    return [f"tokenizer vocabulary with {differing} tokens under other ids"] if differing else []


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, object]:
    """A tokenizer's special tokens by role, without the one that pads.

    The padding token never reaches a score, and pairs often differ in it.
    """
    return {
        role: token for role, token in tokenizer.special_tokens_map.items() if role != "pad_token"
    }


def special_token_mismatches(
    donor: "PreTrainedTokenizerBase", target: "PreTrainedTokenizerBase"
) -> list[str]:
    """Roles in which the special tokens of two tokenizers differ, each with both tokens."""
    ours, theirs = special_tokens(donor), special_tokens(target)
    return [
        f"{role} {ours.get(role)} against {theirs.get(role)}"
        for role in dict.fromkeys([*ours, *theirs])
        if ours.get(role) != theirs.get(role)
    ]
