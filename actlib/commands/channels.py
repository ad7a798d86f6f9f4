"""The words `record` and `mask` of the command line: from two models to a set of channels.

actlib record --donor D --target T --questions de.jsonl --out scores.safetensors
actlib mask scores.safetensors --percent 5 --out mask.safetensors
"""

import argparse

from actlib.commands.words import add_json, add_step, tell
from actlib.files.records import record_beside

RANKINGS = ("global", "module", "scaled", "relative", "contrast")


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
        "--percent", type=float, required=True, help="share of the channels, 0 to 100"
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
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from actlib.files.loading import load_pretrained
    from actlib.localize import record_differences
    from actlib.text.data import load_external
    from actlib.text.prompts import batches

    dtype = getattr(torch, given.dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"unknown dtype {given.dtype!r}: expected bfloat16, float16 or float32")
    rows = list(load_external(given.questions))[: given.limit]
    if not rows:
        raise ValueError(f"{given.questions} gives no question; --limit is {given.limit}")
    options = {"dtype": dtype} | ({"device_map": given.device_map} if given.device_map else {})
    donor, target = (
        load_pretrained(AutoModelForCausalLM, place, **options)
        for place in (given.donor, given.target)
    )
    tokenizer = load_pretrained(AutoTokenizer, given.target)
    made = batches(tokenizer, rows, given.batch_size)
    scores = record_differences(donor, target, made, progress=True)
    scores.save(given.out)
    inputs = {"donor": given.donor, "target": given.target, "questions": given.questions}
    record_beside(given.out, inputs, data_sha256=scores.metadata["data_hash"], dtype=given.dtype)
    told = {"out": given.out, "answer_tokens": scores.tokens, "questions": len(rows)}
    told["channels"] = sum(values.numel() for values in scores.values.values())
    tell(given, told, f"{given.out}: {scores.tokens} answer tokens of {len(rows)} questions")


def _mask(given: argparse.Namespace) -> None:
    from actlib.scores import ChannelScores

    scores = ChannelScores.load(given.scores)
    if given.reference:
        scores = scores.relative_to(ChannelScores.load(given.reference))
    mask = scores.top(given.percent, ranking=given.ranking)
    mask.save(given.out)
    inputs = {"scores": given.scores}
    inputs |= {"reference": given.reference} if given.reference else {}
    record_beside(given.out, inputs, percent=given.percent, ranking=given.ranking)
    told = {"out": given.out, "channels": mask.count, "of": mask.total, "percent": mask.percent}
    tell(given, told, f"{given.out}: {mask.count} of {mask.total} channels")
