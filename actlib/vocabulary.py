"""Two tokenizers, and the rows that embedding and head have for their tokens.

mismatches, doubts = compare_tokenizers(donor_tokenizer, target_tokenizer)
fit_vocabulary_(donor, target, donor_tokenizer, target_tokenizer)
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from actlib.channels import end_of, own_parameters
from actlib.wording import list_first

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers import PreTrainedTokenizerBase as Tokenizer

_STAY = "do not move (in memory after fit_vocabulary_ alone)"


@torch.no_grad()
def fit_vocabulary_(
    donor: "PreTrainedModel",
    target: "PreTrainedModel",
    donor_tokenizer: "Tokenizer",
    target_tokenizer: "Tokenizer",
) -> None:
    """Give the donor's embedding and head as many rows as the target's have, in place.

    For models in memory of which one tokenizer adds tokens. Rows that only the donor has are
    dropped. Rows that only the target has, and those of `differing_tokens`, are copied from it, so
    that nothing of them moves (up to rounding, where the donor's dtype is coarser). Offloaded
    models, which cannot move in memory, stay as they are where the sizes are the same.

    Raises:
        ValueError: tokens have other ids in the two tokenizers, so that rows do not correspond, or
            the rows are offloaded.
    """
    mismatches, _ = compare_tokenizers(donor_tokenizer, target_tokenizer)
    if mismatches:
        raise ValueError(f"rows of the vocabularies do not correspond: {list_first(mismatches)}")
    before, rows = vocabulary_rows(donor), vocabulary_rows(target)
    if before is None or rows is None:
        return
    target_parameters = dict(vocabulary_parameters(target))
    if any(p.is_meta for model in (donor, target) for _, p in vocabulary_parameters(model)):
        if before == rows:
            return
        raise ValueError(
            f"the vocabulary's rows ({before} against {rows}) are offloaded and cannot be fitted; "
            "load embedding and head into memory"
        )
    weights = [getattr(end_of(donor, end), "weight", end) for end in ("input", "output")]
    if weights[0] is not weights[1]:  # whatever its configuration says
        vars(donor)["tie_weights"] = lambda *_, **__: None
    try:
        if before != rows:
            donor.resize_token_embeddings(rows, mean_resizing=False)
    finally:
        vars(donor).pop("tie_weights", None)
    apart = {*differing_tokens(donor_tokenizer, target_tokenizer), *range(before, rows)}
    own = [row for row in apart if row < rows]
    for name, parameter in vocabulary_parameters(donor):
        parameter[own] = target_parameters[name][own].to(parameter)


def shared_rows(
    donor: Shaped[Tensor, "rows_of_donor *rest"],
    target: Shaped[Tensor, "rows *rest"],
    apart: Sequence[int] = (),
) -> Shaped[Tensor, "rows *rest"]:
    """The donor's tensor with the target's number of rows, as `fit_vocabulary_` gives it.

    A view where the donor has at least as many rows and none is `apart`; those rows, and the ones
    that it lacks, are the target's own.
    """
    own = [row for row in apart if row < min(len(donor), len(target))]
    if len(donor) >= len(target) and not own:
        return donor[: len(target)]
    wide = torch.promote_types(donor.dtype, target.dtype)  # rounded, the target's would move
    rows = torch.cat([donor[: len(target)].to(wide), target[len(donor) :].to(donor.device, wide)])
    rows[own] = target[own].to(rows)
    return rows


def differing_tokens(donor: "Tokenizer", target: "Tokenizer") -> list[int]:
    """Ids that are of another token in each of two tokenizers, or of a token in one alone."""
    return sorted({index for _, index in donor.get_vocab().items() ^ target.get_vocab().items()})


def compare_tokenizers(donor: "Tokenizer", target: "Tokenizer") -> tuple[list[str], list[str]]:
    """What makes two tokenizers unfit for a pair, and what else differs, each in a clause.

    A token that both have must have one id, and an id that both have must be of one token, but for
    tokens that were added to a trained vocabulary: a reserved one may be renamed for a template.
    Tokens that only one of them has, and other special tokens, do no harm: rows of
    `differing_tokens` stay as they are.
    """
    donor_ids, target_ids = donor.get_vocab(), target.get_vocab()
    names = [{index: token for token, index in ids.items()} for ids in (donor_ids, target_ids)]
    moved = {token for token, index in donor_ids.items() if target_ids.get(token, index) != index}
    renamed = [
        index
        for index, token in names[0].items()
        if names[1].get(index, token) != token and not moved & {token, names[1][index]}
    ]
    added = {
        index for each in (donor, target) for index in getattr(each, "added_tokens_decoder", ())
    }
    misfits = len(moved) + sum(index not in added for index in renamed)
    mismatches = [f"tokenizer vocabulary with {misfits} tokens under other ids"] if misfits else []
    doubts = []
    if renamed:
        example = " against ".join(each[renamed[0]] for each in names)
        doubts.append(
            f"{len(renamed)} added tokens have other names, such as {example}, and {_STAY}"
        )
    alone = sorted({*names[0]} ^ {*names[1]})
    if alone:
        example = {**names[0], **names[1]}[alone[0]]
        doubts.append(
            f"tokenizer vocabulary of {len(donor_ids)} against {len(target_ids)} tokens, of which "
            f"those of one alone, such as {example}, {_STAY}"
        )
    donor_special, target_special = donor.special_tokens_map, target.special_tokens_map
    doubts += [  # but for padding, which reaches no score
        f"{role} {donor_special.get(role)} against {target_special.get(role)}"
        for role in dict.fromkeys([*donor_special, *target_special])
        if role != "pad_token" and donor_special.get(role) != target_special.get(role)
    ]
    return mismatches, doubts


def vocabulary_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters whose rows are the tokens': those of embedding and head, under all their names."""
    ends = [end_of(model, "input"), end_of(model, "output")]
    for name, module in model.named_modules(remove_duplicate=False):
        if any(module is each for each in ends):
            for own, parameter in own_parameters(module).items():
                yield f"{name}.{own}", parameter


def vocabulary_rows(model: nn.Module) -> int | None:
    """How many tokens a model has rows for; None for a model that is none of transformers."""
    return next((len(parameter) for _, parameter in vocabulary_parameters(model)), None)
