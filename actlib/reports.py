"""What to know of a pair before channels move: does it fit, and how far apart are its weights?

    report = pair_report("path/to/donor", "path/to/target")   # or models in memory
    print(describe_report(report))
    report.attrs["fits"], report.attrs["mismatches"], report.attrs["warnings"]

Folders are read tensor by tensor, so that models larger than memory can be compared.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from actlib.channels import channel_modules, kind_of, layer_of, uncovered_parameters, unwrapped
from actlib.checkpoint import Checkpoint
from actlib.loading import load_tokenizer, local_folder
from actlib.pairs import check_pair, compare_settings
from actlib.vocabulary import compare_tokenizers
from actlib.wording import list_first

FAR = 0.5
"""Relative change of all parameters from which on a pair is warned of.

It rests on the few pairs of this study. Unrelated matrices of one size are sqrt(2) apart; at 0.5
the cosine between two models of one norm is 0.875. SmolLM2-135M fine-tuned on two mixtures is 0.008
apart, small models trained from scratch and then fine-tuned 0.26 to 0.28 (pilots, trained longer,
0.55), two of those from other seeds 1.13. Long continued pretraining may exceed it and still work.
"""
SIDES = ("donor", "target")
_PIECE = 2**22  # entries at a time: 16 MiB in float32
_COLUMNS = "parameter kind entries change_norm target_norm donor_dtype target_dtype".split()


def pair_report(
    donor: nn.Module | str | Path,
    target: nn.Module | str | Path,
    donor_tokenizer: PreTrainedTokenizerBase | None = None,
    target_tokenizer: PreTrainedTokenizerBase | None = None,
) -> pd.DataFrame:
    """Compare two models: whether they fit, what differs, and how far their weights are apart.

    A mismatch is whatever `check_pair` names, and weights that are missing, quantized or not
    finite. The weights are read only where nothing else is a mismatch.

    Warned of are other settings (such as rotary bases), special tokens, chat templates and dtypes,
    tokens that one tokenizer adds, parameters and stored buffers of no channel, identical models,
    and models farther apart than `FAR`.

    Args:
        donor: model in memory, folder with safetensors weights, or Hub id.
        target: such a model.
        donor_tokenizer: of a model in memory; that of a folder is the folder's.
        target_tokenizer: such a tokenizer.

    Returns:
        One row a parameter tensor; none where the weights were not read. Columns: parameter, kind
        (of its module, see `channels.kind_of`), entries, change_norm (||donor - target||),
        target_norm (||target||), relative_change (their ratio), all Euclidean and over the rows
        that both have; donor_dtype, target_dtype. ``attrs`` holds fits (bool), mismatches and
        warnings (lists of clauses), donor and target (descriptions), relative_change (overall; NaN
        where nothing was read).

    Raises:
        ValueError: a place holds no model, or no usable safetensors files.
    """
    sides = _open(donor, donor_tokenizer), _open(target, target_tokenizer)
    models = [side[0] for side in sides]
    tokenizers = [side[1] for side in sides]
    parameters = sides[0][2], sides[1][2]
    mismatches = check_pair(models[0], models[1], *tokenizers)
    warnings = compare_settings(*models)[1] + _tokenizer_doubts(*tokenizers)
    fixed = list(dict.fromkeys(name for model in models for name in uncovered_parameters(model)))
    if fixed:
        warnings.append(f"{len(fixed)} tensors of no channel never move, such as {fixed[0]}")
    names = [name for name, _ in models[1].named_parameters() if name not in fixed]
    for role, side in zip(SIDES, parameters, strict=True):
        try:
            if not mismatches and isinstance(side, Checkpoint):
                side.require(names, role)
        except ValueError as error:
            mismatches = [str(error)]
    in_memory = [each for each in parameters if not isinstance(each, Checkpoint)]
    if mismatches or any(p.is_meta for each in in_memory for p in each.values()):
        names = []
    table = _compare_weights(parameters[0], parameters[1], names)
    mismatches += _broken(table, parameters) if names else []
    table.attrs = {"fits": not mismatches, "mismatches": mismatches, "warnings": warnings}
    table.attrs |= {side: _describe_model(model) for side, model in zip(SIDES, models, strict=True)}
    table.attrs["relative_change"] = relative_change(table) if names else math.nan
    if len(table) and not mismatches:
        warnings += _change_doubts(table)
    return table


def relative_change(rows: pd.DataFrame) -> float:
    """||donor - target|| / ||target|| over all rows of a report, or some of them.

    Infinite if only the target is zero, 0 if both are.
    """
    change, size = (float((rows[name] ** 2).sum()) for name in ("change_norm", "target_norm"))
    return math.sqrt(change / size) if size else (math.inf if change else 0.0)


def describe_report(report: pd.DataFrame) -> str:
    """A report as plain text: verdict, models, mismatches and warnings, then a line a kind."""
    attrs = report.attrs
    lines = [
        f"donor and target {'fit' if attrs['fits'] else 'do not fit'}",
        *(f"{side}: {attrs[side]}" for side in SIDES),
        *(f"mismatch: {each}" for each in attrs["mismatches"]),
        *(f"warning: {each}" for each in attrs["warnings"]),
    ]
    if report.empty:
        return "\n".join([*lines, "the weights were not compared"])
    kinds = [*report.groupby("kind", sort=False), ("overall", report)]
    table = pd.DataFrame(
        {
            "kind": [kind for kind, _ in kinds],
            "entries": [f"{rows['entries'].sum():,}" for _, rows in kinds],
            "relative_change": [f"{relative_change(rows):.3g}" for _, rows in kinds],
        }
    )
    return "\n".join([*lines, "", table.to_string(index=False)])


def _open(
    source: nn.Module | str | Path, tokenizer: PreTrainedTokenizerBase | None
) -> tuple[nn.Module, PreTrainedTokenizerBase | None, Mapping[str, Tensor]]:
    """A model, its tokenizer, and its parameters by name, in memory or mapped from files."""
    if isinstance(source, nn.Module):
        source = unwrapped(source)
        return source, tokenizer, dict(source.named_parameters())
    checkpoint = Checkpoint(local_folder(source))
    return checkpoint.model, tokenizer or load_tokenizer(checkpoint.folder), checkpoint


def _tokenizer_doubts(
    donor: PreTrainedTokenizerBase | None, target: PreTrainedTokenizerBase | None
) -> list[str]:
    if donor is None or target is None:
        return ["vocabularies and chat templates are not compared: a tokenizer is missing"]
    doubts = compare_tokenizers(donor, target)[1]
    if getattr(donor, "chat_template", None) != getattr(target, "chat_template", None):
        doubts.append(
            "the chat templates differ, so that the same question is put in other words; say which "
            "one serves both models"
        )
    return doubts


@torch.no_grad()
def _compare_weights(
    donor: Mapping[str, Tensor], target: Mapping[str, Tensor], names: list[str]
) -> pd.DataFrame:
    """One row a parameter; norms in float32 a piece at a time, their squares summed in float64."""
    rows = []
    for name in names:
        sides = [donor[name], target[name]]
        shared = min(map(len, sides)) if sides[0].ndim else None  # of embedding and head
        squares = [0.0, 0.0]
        pieces = [side[:shared].reshape(-1).split(_PIECE) for side in sides]
        for donor_piece, target_piece in zip(*pieces, strict=True):
            target_piece = target_piece.float()
            change = donor_piece.to(target_piece.device).float() - target_piece
            squares[0] += float(torch.linalg.vector_norm(change)) ** 2
            squares[1] += float(torch.linalg.vector_norm(target_piece)) ** 2
        owner, _, last = name.rpartition(".")  # packed experts are owners of their own
        kind = kind_of(owner if owner and last in ("weight", "bias") else name)
        dtypes = [str(side.dtype).removeprefix("torch.") for side in sides]
        rows.append((name, kind, sides[1].numel(), *map(math.sqrt, squares), *dtypes))
    table = pd.DataFrame(rows, columns=_COLUMNS)
    ratios = table["change_norm"] / table["target_norm"]  # 0 / 0 where a zero stayed zero
    table.insert(5, "relative_change", ratios.where(table["change_norm"] != 0, 0.0))
    return table


def _broken(table: pd.DataFrame, sides: tuple[Mapping[str, Tensor], ...]) -> list[str]:
    """Which of the tensors whose norms are not finite are so themselves, rather than too large."""
    finite = np.isfinite(table[["change_norm", "target_norm"]].to_numpy()).all(axis=1)
    names = [
        f"the {role}'s {name}"
        for name in table.loc[~finite, "parameter"]
        for role, side in zip(SIDES, sides, strict=True)
        if not side[name].isfinite().all()
    ]
    return [f"NaN or infinite entries in {list_first(names)}"] if names else []


def _change_doubts(table: pd.DataFrame) -> list[str]:
    """Warnings about the overall change; none if it has the size of a fine-tuning."""
    overall = table.attrs["relative_change"]
    donor, target = (set(table[f"{side}_dtype"]) for side in SIDES)
    if overall == 0:
        return ["all that moves is identical: there is nothing to transfer"]
    doubts = []
    if donor != target:
        dtypes = " against ".join(", ".join(sorted(side)) for side in (donor, target))
        doubts.append(f"dtype {dtypes}: values are rounded to the target's as they move")
    if overall > FAR:
        doubts.append(
            f"the models are far apart (more than {FAR:g}; unrelated ones are near 1.4): is one "
            "made from the other, or are both from one base?"
        )
    return doubts


def _describe_model(model: nn.Module) -> str:
    numbers = [parameter.numel() for parameter in model.parameters()]
    layers = {layer_of(name) for name in channel_modules(model)} - {-1}
    size = f"{sum(numbers):,} parameters in {len(numbers)} tensors"
    return f"{type(model).__name__}, {len(layers)} layers, {size}"
