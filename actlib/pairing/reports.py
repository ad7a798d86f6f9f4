"""Tells people whether two models can exchange channels, and what to look at if they can.

    report = pair_report(donor, target, donor_tokenizer, target_tokenizer)
    report = pair_report_of("path/to/donor", "path/to/target")  # loads neither
    print(report)
    report.fits, report.table(), report.changes

`pairs.check_pair` is the quick check of the same mismatches that runs before every transfer.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from actlib.channels import channel_modules, layer_of, tied_modules, tower_of, uncovered_parameters
from actlib.folders.stored import StoredWeights, stored_weights, structure, tokenizer_of
from actlib.masks import shortened
from actlib.pairing.changes import ParameterChanges, parameter_changes
from actlib.pairing.pairs import (
    shape_mismatches,
    special_token_mismatches,
    special_tokens,
    vocabulary_mismatches,
)
from actlib.pairing.report_rows import MISMATCH, OK, WARNING, PairCheck, PairReport
from actlib.pairing.settings import doubtful_of, settings_of, text_config

FAR = 0.5
"""Relative change of all parameters from which on a pair is warned of, unless told otherwise.

It rests on the few pairs of this study and on nothing else. Unrelated matrices of one size are
sqrt(2) apart, since their inner product is near zero; at 0.5 the cosine between two models of one
norm is 1 - 0.5**2 / 2 = 0.875. SmolLM2-135M fine-tuned on two mixtures is 0.008 apart, the small
models trained from scratch and then fine-tuned 0.26, and two of those trained from scratch from
other seeds 1.13 (their norms agree, which holds the sum below sqrt(2)). Any threshold between 0.26
and 1.13 would part these; no pair between was measured, nor was any model of billions of
parameters. Long continued pretraining may exceed it and still work, so that it is a warning and no
mismatch. Whoever knows the distances in a family of models should pass one's own.
"""


_DOUBTS = {
    "rotary base": "positions are turned by other angles; activations then differ for that too",
    "sliding window": "beyond the shorter window the models see other tokens",
    "norm epsilon": "activations near zero are scaled otherwise",
}


def pair_report(
    donor: nn.Module,
    target: nn.Module,
    donor_tokenizer: PreTrainedTokenizerBase | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    far: float = FAR,
) -> PairReport:
    """Compare two models in memory, check by check.

    A mismatch is whatever `pairs.check_pair` names, and weights that are not finite or are packed
    by quantization. The weights are read only where nothing else is a mismatch.

    Warned of are: tokenizers that were not given, other chat templates, dtypes, rotary bases,
    sliding windows and epsilons of norms, trainable parameters that belong to no channel, identical
    models, and models farther apart than `far`.

    Args:
        donor: the model that has the ability.
        target: the model that is to get it.
        donor_tokenizer: its tokenizer; without one, vocabularies are not compared.
        target_tokenizer: as the donor's.
        far: ||donor - target|| / ||target|| over all parameters, above which the pair is warned of;
            the default rests on few pairs (see `FAR`).

    Raises:
        ValueError: `far` is not above 0.
    """
    _require_far(far)
    models = (donor, target)
    dtypes = [{name: p.dtype for name, p in model.named_parameters()} for model in models]
    rows = [*_structure(models, (donor_tokenizer, target_tokenizer)), _dtype(dtypes)]
    if not PairReport(tuple(rows)).fits:
        return PairReport(tuple(rows))
    if any(parameter.is_meta for model in models for parameter in model.parameters()):
        note = "a model on the meta device holds no weights"
        return PairReport((*rows, PairCheck("parameter change", "-", "-", WARNING, note)))
    ours = dict(donor.named_parameters(remove_duplicate=False))
    changes = parameter_changes((n, ours[n], theirs) for n, theirs in target.named_parameters())
    return PairReport((*rows, *_changes(changes, dtypes, far)), changes)


def pair_report_of(donor: str | Path, target: str | Path, *, far: float = FAR) -> PairReport:
    """Compare two models in their files, check by check, without loading them.

    The checks are those of `pair_report`. Configurations and tokenizers come first, and where
    these are a mismatch no weight is read (nor fetched, from the Hub); else the tensors are read
    pair by pair, so that models larger than memory can be compared.

    Args:
        donor: folder with safetensors weights, or Hub id.
        target: such a place.
        far: as in `pair_report`.

    Raises:
        ValueError: a place holds no model, or no usable safetensors files, or `far` is not above 0.
    """
    _require_far(far)
    places = (donor, target)
    models = [structure(place) for place in places]
    rows = _structure(models, [tokenizer_of(place) for place in places])
    if not PairReport(tuple(rows)).fits:
        return PairReport(tuple(rows))
    found = [stored_weights(*pair) for pair in zip(places, models, strict=True)]
    dtypes = [each.dtypes for each in found]
    rows += [_stored(found), _dtype(dtypes)]
    if not PairReport(tuple(rows)).fits:
        return PairReport(tuple(rows))
    ours, theirs = found
    shared = [name for name in theirs.tensors if name in ours.tensors]
    changes = parameter_changes((name, ours.open(name), theirs.open(name)) for name in shared)
    return PairReport((*rows, *_changes(changes, dtypes, far)), changes)


def _require_far(far: float) -> None:
    if not far > 0:
        raise ValueError(f"far must be above 0, a relative change of the parameters, got {far}")


def _structure(
    models: Sequence[nn.Module], tokenizers: Sequence[PreTrainedTokenizerBase | None]
) -> list[PairCheck]:
    """What can be told of donor and target without reading a weight."""
    rows = [_equal("architecture", [type(model).__name__ for model in models])]
    settings = [settings_of(model) for model in models]
    rows += [
        _equal(setting, [side.get(setting) for side in settings])
        for setting in dict.fromkeys([*settings[0], *settings[1]])
    ]
    hidden = [getattr(text_config(model), "hidden_size", None) for model in models]
    rows[2:2] = [
        _equal("layers", [_layers(model) for model in models]),
        _equal("hidden_size", hidden),
    ]
    wrong = shape_mismatches(*models)
    rows.append(_row("parameters", [_size(model) for model in models], MISMATCH, shortened(wrong)))
    ties = ["; ".join(" = ".join(tie) for tie in tied_modules(model)) for model in models]
    rows.append(_equal("tied weights", [tie or "none" for tie in ties]))
    doubtful = [doubtful_of(model) for model in models]
    rows += [
        _equal(name, [side[name] for side in doubtful], WARNING, note)
        for name, note in _DOUBTS.items()
        if any(side[name] is not None for side in doubtful)
    ]
    rows.append(_uncovered(models))
    return rows + _tokenizers(*tokenizers)


def _row(check: str, sides: Sequence[object], bad: str, note: str) -> PairCheck:
    """A row that is `bad` where there is a note, and ok where there is none."""
    donor, target = ("-" if side is None else str(side) for side in sides)
    return PairCheck(check, donor, target, bad if note else OK, note)


def _equal(check: str, sides: Sequence[object], bad: str = MISMATCH, note: str = "") -> PairCheck:
    """A row that is `bad` where the two sides are not equal."""
    note = note or f"{sides[0]} against {sides[1]}"
    return _row(check, sides, bad, note if sides[0] != sides[1] else "")


def _layers(model: nn.Module) -> int:
    """Layers of the language model."""
    return len({layer_of(name) for name in channel_modules(model) if not tower_of(name)} - {-1})


def _size(model: nn.Module) -> str:
    numbers = [parameter.numel() for parameter in model.parameters()]
    return f"{sum(numbers):,} in {len(numbers)} tensors"


def _uncovered(models: Sequence[nn.Module]) -> PairCheck:
    found = [uncovered_parameters(model) for model in models]
    example = next((name for names in found for name in names), None)
    note = f"they never move; one is {example}" if example else ""
    return _row("trainable parameters of no channel", list(map(len, found)), WARNING, note)


def _tokenizers(
    donor: PreTrainedTokenizerBase | None, target: PreTrainedTokenizerBase | None
) -> list[PairCheck]:
    if donor is None or target is None:
        given = ["not given" if each is None else "given" for each in (donor, target)]
        return [_row("tokenizers", given, WARNING, "vocabularies and templates were not compared")]
    both = (donor, target)
    words = [f"{len(each.get_vocab())} tokens" for each in both]
    special = [
        ", ".join(f"{role} {token}" for role, token in special_tokens(each).items()) or "none"
        for each in both
    ]
    templates = [getattr(each, "chat_template", None) for each in both]
    shown = [_template(template) for template in templates]
    other = "the same question is put in other words; say which template serves both models"
    return [
        _row("tokenizer vocabulary", words, MISMATCH, shortened(vocabulary_mismatches(*both))),
        _row("special tokens", special, MISMATCH, shortened(special_token_mismatches(*both))),
        _row("chat template", shown, WARNING, "" if templates[0] == templates[1] else other),
    ]


def _template(template: object) -> str:
    """A template is long: its length and the start of its digest tell templates apart."""
    if template is None:
        return "none"
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return f"{len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _stored(found: Sequence[StoredWeights]) -> PairCheck:
    shown = [f"{len(each.tensors)} parameters found" for each in found]
    wrong = [
        f"the {side}'s {clause}"
        for side, each in zip(("donor", "target"), found, strict=True)
        for clause in each.wrong
    ]
    if wrong:
        return _row("stored weights", shown, MISMATCH, shortened(wrong))
    left = next((name for each in found for name in each.otherwise), None)
    note = f"stored in another layout and not compared is {left}" if left else ""
    return _row("stored weights", shown, WARNING, note)


def _dtype(sides: Sequence[Mapping[str, torch.dtype | str]]) -> PairCheck:
    """Compare types of numbers, by parameter; what is no float cannot be moved by channel."""
    shown = [", ".join(sorted({_named(dtype) for dtype in side.values()})) for side in sides]
    packed = [
        f"the {side}'s {name} is {_named(dtype)}, expected a float type"
        for side, dtypes in zip(("donor", "target"), sides, strict=True)
        for name, dtype in dtypes.items()
        if isinstance(dtype, str) or not dtype.is_floating_point
    ]
    if packed:
        return _row("dtype", shown, MISMATCH, shortened(packed, 1))
    return _equal("dtype", shown, WARNING, "values are rounded to the target's type as they move")


def _named(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


def _changes(
    changes: ParameterChanges, dtypes: Sequence[Mapping[str, torch.dtype | str]], far: float
) -> list[PairCheck]:
    """Verdicts on the weights: are all finite, and is their change neither none nor too large?"""
    broken = changes.not_finite
    counts = [sum(name.startswith(side) for name in broken) for side in ("donor's", "target's")]
    shown = ["all finite" if not count else f"{count} not finite" for count in counts]
    note = f"NaN or infinite entries in the {shortened(list(broken))}" if broken else ""
    rows = [_row("weights", shown, MISMATCH, note)]
    if not broken:
        told = [f"{changes.overall:.3g} of the target's norm", "-"]
        rows.append(_row("parameter change", told, WARNING, _doubt(changes.overall, dtypes, far)))
    return rows


def _doubt(overall: float, dtypes: Sequence[Mapping[str, torch.dtype | str]], far: float) -> str:
    """What is odd about a change of this size; nothing where it is as of a fine-tuned model."""
    if overall == 0:
        return "the models are identical: there is nothing to transfer"
    # Packed ones, named by a string, are a mismatch: their changes are not looked at.
    found = [dtype for side in dtypes for dtype in side.values() if isinstance(dtype, torch.dtype)]
    coarsest = max(torch.finfo(dtype).eps for dtype in found)
    if dtypes[0] != dtypes[1] and overall <= coarsest / 2:  # rounding moves by half a step at most
        return "the change is no larger than rounding between the two dtypes can make it"
    if overall <= far:
        return ""
    return (
        f"the models are far apart (more than {far:g}; unrelated ones are near {2**0.5:.1f}): "
        "is one made from the other, or are both from one base?"
    )
