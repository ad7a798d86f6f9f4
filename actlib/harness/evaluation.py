"""Evaluate a model by lm-evaluation-harness (`pip install "actlib[harness]"`).

    tasks, data = ["act_fr_*", "mgsm_local_fr"], ["data/questions", "mgsm/"]
    scores, items = evaluate_tasks(model, tokenizer, tasks, data=data)

`actlib.harness.local_tasks` says which tasks the files of a folder give. Every task of the harness
goes by its own name beside them: `mgsm_direct_*`, `mmlu_prox_*`, `arc_*`; their data come from the
Hugging Face Hub.
"""

import logging
import math
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import version
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from actlib.channels import unwrapped
from actlib.harness.local_tasks import Folders, require_harness, write_tasks
from actlib.hooks import evaluating
from actlib.loading import load_pretrained


class TaskTables(NamedTuple):
    """What `evaluate_tasks` returns.

    Attributes:
        scores: one row a task, metric and filter (the way in which an answer is read from the
            text): `task`, `metric`, `filter`, `value`, `stderr` (NaN where the harness has none),
            `n` (items), `higher_is_better`, `shots`, `version` (of the task).
        items: one row an item and filter: `task`, `doc_id` (its number in the task, from 0), `id`
            (its own, where it has one), `filter`, `prompt`, `choices` (texts whose likelihood was
            asked for), `target` (right answer, or the index of a choice), `response` (the written
            text, or nats and greediness of each choice), `read` (what the filter read from it), and
            a column a metric, NaN where the task has another.
    """

    scores: pd.DataFrame
    items: pd.DataFrame


def evaluate_tasks(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tasks: str | Sequence[str] = "act_*",
    *,
    data: Folders = None,
    batch_size: int | str = 8,
    chat: bool = False,
    backend: str = "hf",
    **options: Any,
) -> TaskTables:
    """Scores of a model on tasks of the harness, with a standard error beside each.

    Args:
        model: a model in memory, which stays as it is; the folder or Hub id of one; or a model of
            the harness, with its own tokenizer and batch size.
        tokenizer: of the model; read from the folder or Hub id if None.
        tasks: names, patterns such as `mgsm_local_*`, or paths of YAML files. What local tasks
            match stands for them alone; of the harness's own, a pattern stands for single tasks and
            a name for a group or tag too.
        data: folder of the local tasks' files, or several; this study's data if None.
        batch_size: items in a batch, or `auto`.
        chat: ask through the tokenizer's chat template, with the system message that the template
            itself writes where none is given.
        backend: of a folder or Hub id: `hf`, or `vllm`, where vLLM is installed.
        options: further arguments of `lm_eval.simple_evaluate`, such as `limit` (most items of each
            task, its first ones) and `num_fewshot` (worked examples before each question).

    Returns:
        Two tables, see `TaskTables`; `attrs` of the first holds the version of `lm_eval`.

    Raises:
        ValueError: the harness is not installed, a name is unknown, the data of a task of the Hub
            cannot be had, or the model lacks its tokenizer or a chat template.
    """
    require_harness()
    from datasets.exceptions import DatasetNotFoundError
    from lm_eval import simple_evaluate

    asked = [tasks] if isinstance(tasks, str) else list(tasks)
    options |= {"apply_chat_template": chat, "fewshot_as_multiturn": chat}
    with _isolated(model), tempfile.TemporaryDirectory() as folder:
        names, manager = _find_tasks(asked, write_tasks(data, folder, chat=chat), folder)
        lm = _harness_model(model, tokenizer, batch_size, chat, backend)
        try:
            results = simple_evaluate(lm, tasks=names, task_manager=manager, **options)
        except (ConnectionError, DatasetNotFoundError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"the data of a task among {', '.join(asked)} are on the Hugging Face Hub and "
                f"cannot be had ({reason}): unset HF_HUB_OFFLINE and go online, log in where "
                "they are gated, or use tasks of local files"
            ) from error
    tables = _tables_of(results)
    tables.scores.attrs = {"lm_eval": version("lm_eval"), "chat_template": chat}
    return tables


def _find_tasks(asked: Sequence[str], local: Sequence[str], folder: str) -> tuple[list[str], Any]:
    """What the harness is to run, each once, and the `TaskManager` that knows it.

    Local tasks go by the path of their YAML. The harness's own index takes many seconds to
    read, so it is read once, and only where a name is not that of a local task.
    """
    names: dict[str, None] = {}
    manager = _manager(False)
    for name in asked:
        matches = [f"{folder}/{task}.yaml" for task in local if fnmatchcase(task, name)]
        if name.endswith((".yaml", ".yml")) and Path(name).is_file():
            matches = [name]
        if not matches:
            manager = _manager(True)
            known = manager.all_tasks if name in manager.all_tasks else manager.all_subtasks
            matches = [task for task in known if fnmatchcase(task, name)]
        if not matches:
            near = get_close_matches(name, [*local, *manager.all_tasks], n=4)
            nearest = f"; near it: {', '.join(near)}" if near else ""
            listed = "`actlib eval --list --data FOLDER` names those of local files"
            raise ValueError(f"no task is called {name!r}{nearest}; {listed}")
        names |= dict.fromkeys(matches)
    return list(names), manager


@cache
def _manager(all_of_the_harness: bool) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=all_of_the_harness)


@contextmanager
def _isolated(model: Any) -> Iterator[None]:
    """The model has its mode, and the caller's random numbers go on, as if nothing had been done.

    The harness's warnings, each of a choice that was made here on purpose, are held back.
    """
    logger = logging.getLogger("lm_eval")
    level, states = logger.level, (random.getstate(), np.random.get_state())
    logger.setLevel(logging.ERROR)
    mode = evaluating(model) if isinstance(model, nn.Module) else nullcontext()
    try:
        with mode, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        logger.setLevel(level)


def _harness_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None,
    batch_size: int | str,
    chat: bool,
    backend: str,
) -> Any:
    """The model as one of the harness."""
    from lm_eval.api.model import LM

    if isinstance(model, LM):
        return model
    if backend == "vllm":
        return _model_class(backend, chat)(pretrained=str(model), batch_size=batch_size)
    if isinstance(model, str | Path):
        tokenizer = tokenizer or load_pretrained(AutoTokenizer, model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_pretrained(AutoModelForCausalLM, model, dtype="auto", device_map=device)
    if tokenizer is None:
        raise ValueError("a model in memory needs its tokenizer beside it, got None")
    if chat and not tokenizer.chat_template:
        raise ValueError(
            f"asking by chat needs a chat template, and the tokenizer {tokenizer.name_or_path} has "
            "none; leave out --chat (chat=True), or give it one"
        )
    model = unwrapped(model)
    # the harness changes the tokenizer, and ties a head that is rightly untied
    model.tie_weights = lambda: None
    try:
        kind = _model_class(backend, chat)
        return kind(pretrained=model, tokenizer=deepcopy(tokenizer), batch_size=batch_size)
    finally:
        del model.tie_weights


def _model_class(backend: str, chat: bool) -> type[Any]:
    r"""The harness's class of models; by chat, one that leaves the prompt its last line break.

    The harness moves white space at the end of a prompt into the answer: right for a space, which
    tokenizers join to the next word, but the break after the heading of a turn is no part of the
    answer. A pair whose tokens do not part at that place goes as in the harness.
    """
    from lm_eval.api.registry import get_model

    try:
        kind: type[Any] = get_model(backend)
    except ImportError as error:
        raise ValueError(
            f"the backend {backend} does not load here ({error}): pip install {backend}, or use "
            "the backend hf"
        ) from error

    class Chat(kind):
        def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
            before, whole = self.tok_encode(context), self.tok_encode(context + continuation)
            if context.endswith("\n") and before == whole[: len(before)] != whole:
                return before, whole[len(before) :]
            return super()._encode_pair(context, continuation)

    return Chat if chat else kind


def _tables_of(results: Mapping) -> TaskTables:
    """Both tables, from what `lm_eval.simple_evaluate` returns."""
    scores = []
    for task, own in results["results"].items():
        about = {"n": own.get("sample_len"), "shots": results["n-shot"].get(task)}
        about |= {"version": results["versions"].get(task)}
        for key, value in own.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            stderr = own.get(f"{metric}_stderr,{name}")
            row = {"task": task, "metric": metric, "filter": name, "value": float(value)}
            row |= {"stderr": stderr if isinstance(stderr, Real) else math.nan}
            row |= {"higher_is_better": results["higher_is_better"].get(task, {}).get(metric)}
            scores.append(row | about)
    items = [_item(task, each) for task, rows in results["samples"].items() for each in rows]
    return TaskTables(pd.DataFrame(scores), pd.DataFrame(items))


def _item(task: str, item: Mapping) -> dict:
    """One row of the items, from what the harness says of it."""
    arguments, responses = item["arguments"], [each[0] for each in item["resps"]]
    own_id = item["doc"].get("id") if isinstance(item["doc"], Mapping) else None
    row = {"task": task, "doc_id": item["doc_id"], "id": own_id, "filter": item["filter"]}
    row |= {"prompt": arguments[0][0], "choices": None, "target": item["target"]}
    if len(arguments[0]) > 1 and isinstance(arguments[0][1], Mapping):  # a text was written
        row |= {"response": responses[0], "read": item["filtered_resps"][0]}
    else:
        row |= {"choices": [each[-1] for each in arguments], "response": responses}
        row |= {"read": item["filtered_resps"]}
    return row | {metric: item[metric] for metric in item["metrics"]}
