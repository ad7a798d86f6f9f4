"""Scores of one item of the local tasks, which their YAML names as `process_results`.

number_scores({"value": "3.5", "language": "de"}, ["7 / 2 = 3,5"])  # both 1.0
"""

from collections.abc import Mapping, Sequence

from actlib.numerals import find_numbers


def answer_scores(
    row: Mapping[str, str], results: Sequence[tuple[float, bool]]
) -> dict[str, float]:
    """Scores of a worked answer from its log-likelihood.

    Args:
        row: has `answer`.
        results: one pair: log-likelihood of the answer in nats, and whether greedy decoding would
            write it.

    Returns:
        `nll_per_byte`: nats per UTF-8 byte of the answer, which models with different tokenizers
        share (lower is better); `exact`: 1.0 where greedy decoding writes the answer, whatever
        follows (`actlib.evaluate` wants the end of the turn too).
    """
    ((likelihood, greedy),) = results
    return {
        "nll_per_byte": -likelihood / len(row["answer"].encode("utf-8")),
        "exact": float(greedy),
    }


def number_scores(row: Mapping[str, str], results: Sequence[str]) -> dict[str, float]:
    """Whether a written answer has the right number, read as the row's language writes numbers.

    Args:
        row: has `value`, the right number in plain digits such as `1200` or `-3.5`, and `language`.
        results: one text, in which numbers may be written in digits of any script.

    Returns:
        `number_after_equals`: 1.0 where the first number after the first equals sign is the right
        one, as in this study's answers; `last_number`: 1.0 where the text's last number is.
    """
    (text,) = results
    right, language = float(row["value"]), row["language"]
    _, equals, answer = text.partition("=")
    after = find_numbers(equals + answer, language)[:1]
    last = find_numbers(text, language)[-1:]
    return {
        "number_after_equals": float(after == [right]),
        "last_number": float(last == [right]),
    }
