"""The words `record` and `mask` of the command line: from two models to a set of channels.

actlib record --donor D --target T --questions de.jsonl --out scores.safetensors
actlib mask scores.safetensors --percent 5 --out mask.safetensors
"""

import argparse
from pathlib import Path
from typing import Any

from actlib.commands.words import add_json, add_step, require_at_least, require_output, tell
from actlib.files.records import record_beside

RANKINGS = ("global", "module", "scaled", "relative", "contrast")
DTYPES = ("bfloat16", "float16", "float32")


def add_words(steps: argparse._SubParsersAction) -> None:
    """Add the steps `record` and `mask`."""
    step = add_step(
        steps,
        "record",
        "score channels by activation differences (Eq. 2)",
        "actlib record --donor D --target T --questions de.jsonl --out scores.safetensors",
    )
    for role in ("donor", "target"):
        step.add_argument(f"--{role}", required=True, help="model folder or Hub id")
    step.add_argument(
        "--questions",
        required=True,
        help="JSON lines of question and answer, or a file of MGSM, GSM8K or EXAMS",
    )
    step.add_argument("--out", required=True, help="file of scores to write")
    step.add_argument("--limit", type=int, help="most questions to use, the first of the file")
    step.add_argument("--batch-size", type=int, default=16, help="questions at a time")
    step.add_argument("--dtype", default="bfloat16", help="bfloat16, float16 or float32")
    step.add_argument("--device-map", help="as of transformers, such as auto")
    add_json(step)
    step.set_defaults(run=_record)
    mask = add_step(
        steps,
        "mask",
        "take the channels that score highest",
        "actlib mask scores.safetensors --percent 5 --out mask.safetensors",
    )
    mask.add_argument("scores", help="file of `record`")
    mask.add_argument(
        "--percent",
        type=float,
        required=True,
        help="share of the channels, above 0 (which would move nothing) and up to 100 (all)",
    )
    mask.add_argument("--ranking", default="global", choices=RANKINGS, help="global is the paper's")
    mask.add_argument(
        "--reference", help="scores of another ability, for the rankings relative and contrast"
    )
    mask.add_argument("--out", required=True, help="file of the mask to write")
    add_json(mask)
    mask.set_defaults(run=_mask)


def _record(given: argparse.Namespace) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from actlib.contexts import require_room
    from actlib.files.loading import load_pretrained
    from actlib.files.stored import tokenizer_of
    from actlib.localize import record_differences
    from actlib.text.data import load_external
    from actlib.text.prompts import batches

    if given.dtype not in DTYPES:
        raise ValueError(f"unknown dtype {given.dtype!r}: expected one of {', '.join(DTYPES)}")
    _require_options(given)
    rows = list(load_external(given.questions))[: given.limit]
    tokenizer = tokenizer_of(given.target)
    if tokenizer is None:
        raise ValueError(f"the model folder {given.target} holds no tokenizer; save one there")
    made = batches(tokenizer, rows, given.batch_size)
    options: dict[str, Any] = {"dtype": getattr(torch, given.dtype)}
    options |= {"device_map": given.device_map} if given.device_map else {}
    donor, target = (
        load_pretrained(AutoModelForCausalLM, place, **options)
        for place in (given.donor, given.target)
    )
    for batch in made:  # here, where the question has a name
        numbers = batch["index"].tolist()
        called = [f"the question {rows[n]['id']} of {given.questions}" for n in numbers]
        require_room(target, batch, called.__getitem__)
    scores = record_differences(donor, target, made, progress=True)
    if not any(values.any() for values in scores.values.values()):
        raise ValueError(
            f"donor {given.donor} and target {given.target} give the same activations in every "
            "channel, so there is nothing to rank; name two different models"
        )
    scores.save(given.out)
    inputs = {"donor": given.donor, "target": given.target, "questions": given.questions}
    record_beside(given.out, inputs, data_sha256=scores.metadata["data_hash"], dtype=given.dtype)
    told = {"out": given.out, "answer_tokens": scores.tokens, "questions": len(rows)}
    told["channels"] = sum(values.numel() for values in scores.values.values())
    tell(given, told, f"{given.out}: {scores.tokens} answer tokens of {len(rows)} questions")


def _require_options(given: argparse.Namespace) -> None:
    """Refuse what can be seen to be wrong before a model is loaded."""
    require_at_least(1, given.limit, "--limit")
    require_at_least(1, given.batch_size, "--batch-size")
    require_output(given.out, given.questions)
    if Path(given.donor).resolve() == Path(given.target).resolve():
        raise ValueError(
            f"--donor {given.donor} and --target {given.target} are the same model, which differs "
            "in no channel; name two"
        )


def _mask(given: argparse.Namespace) -> None:
    from actlib.scores import ChannelScores, require_percent

    require_percent(given.percent)
    require_output(given.out, given.scores, given.reference)
    scores = ChannelScores.load(given.scores)
    if not any(values.any() for values in scores.values.values()):
        raise ValueError(f"the scores in {given.scores} are all 0; record two different models")
    try:
        if given.reference:
            scores = scores.relative_to(ChannelScores.load(given.reference))
        mask = scores.top(given.percent, ranking=given.ranking)
    except ValueError as error:
        raise ValueError(f"{given.reference or given.scores}: {error}") from error
    mask.save(given.out)
    inputs = {"scores": given.scores}
    inputs |= {"reference": given.reference} if given.reference else {}
    record_beside(given.out, inputs, percent=given.percent, ranking=given.ranking)
    told = {"out": given.out, "channels": mask.count, "of": mask.total, "percent": mask.percent}
    tell(given, told, f"{given.out}: {mask.count} of {mask.total} channels")
