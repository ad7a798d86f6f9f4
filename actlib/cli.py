"""Command line: `actlib COMMAND …`, or `python -m actlib COMMAND …`.

A command is a function below, or of `patch_commands` or `study.steps`: its docstring is its help,
its parameters are its options, and heavy modules are imported inside it, so that help answers at
once. `terminal` has the exit statuses.
"""

import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from actlib.patch_commands import patch
from actlib.rankings import RANKINGS
from actlib.study import steps
from actlib.terminal import (
    Folder,
    Json,
    Mask,
    OutFile,
    OutFolder,
    Scale,
    command,
    load_mask,
    new_app,
    require_output,
    run_app,
    show,
)
from actlib.wording import require_known

app = new_app("Find the channels of an ability, and move them between models.")
app.add_typer(patch, name="patch")
app.add_typer(steps.app, name="step", hidden=True)

ModelArgument = Annotated[str, Argument(help="model folder or Hub id")]
Model = Annotated[str, Option(help="model folder or Hub id")]


def main(arguments: list[str] | None = None) -> int:
    """Run one command, by the words of the process if none are given; returns its exit status."""
    return run_app(app, sys.argv[1:] if arguments is None else arguments)


@command(app, "check")
def check(donor: ModelArgument, target: ModelArgument, as_json: Json = False) -> int:
    """Report whether two models fit, and how far apart they are.

    The exit status is 1 where they do not fit, so that scripts can ask.

    Example:
        actlib check path/to/donor path/to/target --json
    """
    import pandas as pd

    from actlib.reports import describe_report, pair_report

    report = pair_report(donor, target)
    if as_json:  # by way of pandas, for which a number that is not finite is null
        rows = json.loads(report.to_json(orient="records"))
        (attrs,) = json.loads(pd.DataFrame([report.attrs]).to_json(orient="records"))
        print(json.dumps(attrs | {"parameters": rows}, indent=1))
    else:
        print(describe_report(report))
    return 0 if report.attrs["fits"] else 1


@command(app, "record")
def record(
    donor: Model,
    target: Model,
    questions: Annotated[str, Option(help="JSON lines, or MGSM, GSM8K, EXAMS: file or folder")],
    out: OutFile,
    limit: Annotated[int | None, Option(min=1, help="first questions of each ability")] = None,
    batch_size: Annotated[int, Option(min=1, help="questions at a time")] = 16,
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16",
    device_map: Annotated[str, Option(help="as of transformers, such as auto")] = "",
    moments: Annotated[bool, Option("--moments", help="also means and deviations")] = False,
    attribution: Annotated[bool, Option("--attribution", help="nats of moving a channel")] = False,
    points: Annotated[int | None, Option(min=0, help="points of the path; 5 by default")] = None,
    as_json: Json = False,
) -> None:
    """Score channels by activation differences (ACT) or attribution.

    Example:
        actlib record --donor D --target T --questions de.jsonl --out scores.safetensors
    """
    require_output(out, questions)
    if Path(donor).resolve() == Path(target).resolve():
        raise ValueError(f"--donor {donor} and --target {target} are the same model; name two")
    if attribution and moments:
        raise ValueError("--attribution records no activations, so leave out --moments")
    if points is not None and not attribution:
        raise ValueError("--points lie on the path of --attribution; give both or neither")
    import torch
    from transformers import AutoModelForCausalLM

    from actlib.attribution import record_attributions
    from actlib.forward import require_room
    from actlib.loading import load_pretrained, load_tokenizer
    from actlib.prompts import batches
    from actlib.questions import first_of_each, load_questions
    from actlib.recording import record_differences
    from actlib.stored import stored_tensors
    from actlib.vocabulary import fit_vocabulary_

    rows, tokenizer = first_of_each(load_questions(questions), limit), load_tokenizer(target)
    if tokenizer is None:
        stored_tensors(Path(target))  # what is no model at all has another remedy
        raise ValueError(f"the model folder {target} holds no tokenizer; save one there")
    encoded = batches(tokenizer, rows, batch_size)
    options = {"dtype": getattr(torch, dtype)} | ({"device_map": device_map} if device_map else {})
    donor_model = load_pretrained(AutoModelForCausalLM, donor, **options)
    target_model = load_pretrained(AutoModelForCausalLM, target, **options)
    if (donor_tokenizer := load_tokenizer(donor)) is not None:
        fit_vocabulary_(donor_model, target_model, donor_tokenizer, tokenizer)
    for batch in encoded:  # here, where a question still has its name
        names = [f"the question {rows[n]['id']} of {questions}" for n in batch["index"].tolist()]
        require_room(target_model, batch, names.__getitem__)
    by_points = partial(record_attributions, points=5 if points is None else points)
    recorder = by_points if attribution else partial(record_differences, moments=moments)
    scores = recorder(donor_model, target_model, encoded, progress=True)
    scores.save(out)
    counts = Counter(row["ability"] for row in rows)
    result = {"out": out, "answer_tokens": scores.tokens, "questions": len(rows)}
    result |= {"abilities": counts, "channels": sum(map(len, scores.values.values()))}
    named = ", ".join(f"{count} of {ability}" for ability, count in counts.items())
    show(as_json, result, f"{out}: {scores.tokens} answer tokens of questions ({named})")


@command(app, "mask")
def mask(
    scores: Annotated[str, Argument(help="file of `record`")],
    percent: Annotated[float, Option(help="share of the channels, above 0 and up to 100 (all)")],
    out: OutFile,
    ranking: Annotated[str, Option(help=", ".join(RANKINGS))] = "global",
    reference: Annotated[str | None, Option(help="scores of another ability to compare to")] = None,
    retained: Annotated[str | None, Option(help="attributions of an ability to retain")] = None,
    alpha: Annotated[float | None, Option(help="weight of --retained; 1 by default")] = None,
    without: Annotated[list[str] | None, Option(help="modules, as head or embedding")] = None,
    as_json: Json = False,
) -> None:
    """Take the channels that score highest.

    Example:
        actlib mask scores.safetensors --percent 5 --out mask.safetensors
    """
    require_output(out, scores, reference, retained)
    from actlib.scores import ChannelScores

    require_known("ranking", [ranking], RANKINGS)
    if reference and "off" not in RANKINGS[ranking].needs:
        raise ValueError(f"--ranking {ranking} compares to nothing, so leave out --reference")
    if alpha is not None and not retained:
        raise ValueError("--alpha weighs the ability to retain; name that by --retained")
    recorded, file = ChannelScores.load(scores), scores
    try:
        if reference:
            file = reference
            recorded = recorded.relative_to(ChannelScores.load(file))
        if retained:
            file, weight = retained, 1.0 if alpha is None else alpha
            recorded = recorded.with_retention(ChannelScores.load(file), weight)
        file = scores
        chosen = recorded.top(percent, ranking, without=without or ())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    chosen.save(out)
    result = {"out": out, "channels": chosen.count, "of": chosen.total, "percent": chosen.percent}
    show(as_json, result, f"{out}: {chosen.count} of {chosen.total} channels")


@command(app, "transfer")
def transfer(
    target: Folder,
    donor: Folder,
    mask: Mask,
    out: OutFolder,
    scale: Scale = 0.4,
    as_json: Json = False,
) -> None:
    """Move masked channels towards the donor's.

    Example:
        actlib transfer --target T --donor D --mask mask.safetensors --scale 0.4 --out OUTPUT
    """
    chosen = load_mask(mask)
    from actlib.checkpoint import transfer_checkpoint

    transfer_checkpoint(target, donor, chosen, out, scale)
    result = {"out": out, "channels": chosen.count, "of": chosen.total, "scale": scale}
    show(as_json, result, out)


@command(app, "merge")
def merge(
    base: Folder,
    give: Annotated[list[str], Option(metavar="DONOR MASK SCALE", help="once for each donor")],
    out: OutFolder,
    collisions: Literal["sum", "average", "largest"] = "sum",
    as_json: Json = False,
) -> None:
    """Merge several donors into their common base.

    Example:
        actlib merge --base B --give D1 mask1 0.4 --give D2 mask2 0.4 --out OUTPUT
    """
    if len(give) % 3:
        raise ValueError(f"--give takes DONOR MASK SCALE, got {' '.join(give)}")
    contributions = []
    for donor, mask, scale in zip(*[iter(give)] * 3, strict=True):
        try:
            number = float(scale)
        except ValueError:
            option = f"--give {donor} {mask} {scale}"
            raise ValueError(f"{option}: the scale must be a number, such as 0.4") from None
        contributions.append((donor, load_mask(mask), number))
    from actlib.merging import merge_checkpoint

    report = merge_checkpoint(base, contributions, out, collisions)
    result = {"out": out, "channels": report.union.count, "of": report.union.total}
    result |= {"collisions": report.collisions, "rule": collisions}
    line = f"{report.union.count} channels, {report.collisions} claimed more than once"
    show(as_json, result, f"{out}: {line}")


@command(app, "eval")
def evaluate(
    model: Annotated[str | None, Argument(help="model folder or Hub id")] = None,
    tasks: Annotated[list[str] | None, Option(metavar="NAME ...", help="such as act_*")] = None,
    data: Annotated[list[str] | None, Option(metavar="FOLDER ...", help="of local files")] = None,
    list_: Annotated[bool, Option("--list", help="name the tasks of the local files")] = False,
    limit: Annotated[int | None, Option(min=1, help="first items of each task")] = None,
    batch_size: Annotated[str, Option(help="items in a batch, or auto")] = "8",
    shots: Annotated[int | None, Option(min=0, help="examples before each question")] = None,
    chat: Annotated[bool, Option("--chat", help="ask through the chat template")] = False,
    out: Annotated[str | None, Option(help="JSON to write, with prompts and responses")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model by lm-evaluation-harness.

    Example:
        actlib eval MODEL --tasks mgsm_local_fr exams_local_french --data mgsm/ exams/
    """
    if list_:
        from actlib.harness.local_tasks import local_tasks

        print("\n".join(local_tasks(data)))
        return
    if model is None:
        raise ValueError("eval needs a model folder or Hub id before its options, or --list")
    if out:
        require_output(out)
    from actlib.files import write_text
    from actlib.harness.evaluation import evaluate_tasks

    options: dict[str, Any] = {"limit": limit, "num_fewshot": shots, "batch_size": batch_size}
    results = evaluate_tasks(model, tasks=tasks or ["act_*"], data=data, chat=chat, **options)
    from lm_eval.utils import handle_non_serializable, make_table

    if out:
        text = json.dumps(results, default=handle_non_serializable, ensure_ascii=False)
        write_text(Path(out), text)
    print(json.dumps(results["results"], default=float) if as_json else make_table(results))


command(app, "run")(steps.run)  # here, because help lists the commands in this order
