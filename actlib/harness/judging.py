"""Judge a model by lm-evaluation-harness (`pip install "actlib[harness]"`), in memory or by vLLM.

    tasks = ["act_fr_*", "mgsm_local_fr", "exams_local_french"]
    ask = partial(judge, tokenizer=tokenizer, tasks=tasks, data=["data", "mgsm/", "exams/"])
    scores = {"donor": ask(donor), "target": ask(target)}
    with transferred(target, donor, mask):
        scores["transferred"] = ask(target)
    pd.concat(scores, names=["model"]).reset_index("model")

`actlib.harness.local_tasks` says which tasks the files of a folder give. Every task of the harness
goes by its own name beside them, wildcards as in the harness: `mgsm_direct_*`,
`mgsm_native_cot_*`, `mmlu_prox_*`, `arc_*`, `gpqa_*`; their data come from the Hugging Face Hub.
The harness's tag `mgsm_cot_native` holds the English chains of thought as well: for the native ones
write `mgsm_native_cot_*`, or name them one by one.
"""

import logging
import math
import random
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from actlib.folders.loading import load_pretrained
from actlib.harness.local_tasks import require_harness
from actlib.harness.names import Chosen, choose
from actlib.harness.samples import require_free, write_samples
from actlib.harness.turns import keeping_breaks

SEEDS = (0, 1234, 1234, 1234)  # the harness's own: random, numpy, torch, shots
BACKENDS = ("hf", "vllm")


def judge(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tasks: str | Sequence[str] = "act_*",
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    limit: int | None = None,
    batch_size: int | str | None = None,
    samples: str | Path | None = None,
    backend: str = "hf",
    num_fewshot: int | None = None,
    apply_chat_template: bool = False,
    seeds: Sequence[int] = SEEDS,
    model_options: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """Scores of a model on tasks of the harness, with a standard error beside each.

    Args:
        model: a model in memory, or the folder or Hub id of one; vLLM takes only the latter. One in
            memory keeps its weights and its mode, its tokenizer stays as it is.
        tokenizer: of the model; read from the folder or Hub id if None.
        tasks: names, or patterns such as `mgsm_local_*`, of local tasks and of the harness's own.
        data: folder of the local tasks' files, or several; this study's data if None.
        limit: most items of each task, its first ones; all if None.
        batch_size: items in a batch, or `auto`; if None 8, and `auto` for vLLM, which makes its own
            batches.
        samples: folder to write each item to, absent or empty; see `actlib.harness.samples`.
        backend: `hf` or `vllm`.
        num_fewshot: worked examples before each question; each task's own number if None.
        apply_chat_template: ask through the tokenizer's chat template, with the system message that
            the template itself writes where none is given.
        seeds: of random, numpy, torch and the choice of shots.
        model_options: further arguments of the harness's `HFLM` or `VLLM`, such as `max_length` or
            `tensor_parallel_size`.

    Returns:
        One row a task, metric and filter (the way in which an answer is read from the text):
        `task`, `metric`, `filter`, `value`, `stderr` (NaN where the harness has none), `n` (items),
        `higher_is_better`, `shots`, `version` (of the task). `attrs` holds `lm_eval` (its version),
        `backend`, `seeds`, `limit` and `chat_template`.

    Raises:
        ValueError: the harness or vLLM is not installed, a name is unknown, the data of a Hub task
            cannot be had, `samples` is taken, or the model does not suit the backend.
    """
    require_harness()
    _require_settings(model, tokenizer, backend, limit, seeds)
    require_free(samples)
    if backend == "hf" and isinstance(model, str | Path):
        tokenizer = tokenizer or load_pretrained(AutoTokenizer, model)
    if apply_chat_template and tokenizer is not None and not tokenizer.chat_template:
        raise ValueError(
            f"asking by chat needs a chat template, and the tokenizer {tokenizer.name_or_path} has "
            "none; leave out --chat (apply_chat_template), or give it one"
        )
    asked = [tasks] if isinstance(tasks, str) else list(tasks)
    with _quiet(), _seeded(*seeds[:3]), tempfile.TemporaryDirectory() as folder:
        from lm_eval.evaluator import evaluate

        loaded = _load(choose(asked, data, folder, chat=apply_chat_template))
        _set_shots(loaded["tasks"].values(), num_fewshot, seeds[3])
        kind = _kind(backend)
        kind = keeping_breaks(kind) if apply_chat_template else kind
        options = dict(model_options or {})
        options["batch_size"] = batch_size or ("auto" if backend == "vllm" else 8)
        with _wrapped(model, tokenizer, backend, kind, options) as wrapped:
            results = evaluate(
                wrapped,
                loaded,
                limit=limit,
                log_samples=samples is not None,
                apply_chat_template=apply_chat_template,
                fewshot_as_multiturn=apply_chat_template,
            )
    if samples is not None:
        write_samples(results["samples"], samples)
    table = _table(results)
    table.attrs = {"lm_eval": version("lm_eval"), "backend": backend, "seeds": list(seeds)}
    table.attrs |= {"limit": limit, "chat_template": apply_chat_template}
    return table


def _require_settings(
    model: object,
    tokenizer: PreTrainedTokenizerBase | None,
    backend: str,
    limit: int | None,
    seeds: Sequence[int],
) -> None:
    stored = isinstance(model, str | Path)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "vllm" and not stored:
        raise ValueError(
            'backend "vllm" reads a folder or Hub id, got a model in memory: save it, or use "hf"'
        )
    if backend == "vllm" and tokenizer is not None:
        raise ValueError(
            'backend "vllm" reads the tokenizer itself: leave it out, or name another folder in '
            "model_options={'tokenizer': ...}"
        )
    if not stored and tokenizer is None:
        raise ValueError("a model in memory needs its tokenizer beside it, got None")
    if limit is not None and (limit < 1 or limit != int(limit)):
        raise ValueError(f"limit must be a whole number of at least 1, got {limit}")
    if len(seeds) != len(SEEDS):
        raise ValueError(f"seeds must be four, of random, numpy, torch and shots, got {len(seeds)}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back the harness's warnings: each names a choice that was made here on purpose."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _seeded(of_random: int, of_numpy: int, of_torch: int) -> Iterator[None]:
    """Seeds for a while; the caller's random numbers go on as if nothing had been drawn."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        random.seed(of_random)
        np.random.seed(of_numpy)
        torch.manual_seed(of_torch)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _wrapped(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None,
    backend: str,
    kind: type,
    options: Mapping[str, object],
) -> Iterator[object]:
    """The model as the harness's own kind; one in memory gets its mode back."""
    if backend == "vllm":
        yield kind(pretrained=str(model), **options)
        return
    if isinstance(model, str | Path):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load_pretrained(AutoModelForCausalLM, model, dtype="auto", device_map=device)
    else:
        loaded = model
    was_training = loaded.training
    try:
        # The harness gives a tokenizer without padding one, and switches the side.
        tokenizer = deepcopy(tokenizer)
        yield kind(pretrained=loaded, tokenizer=tokenizer, **options)
    finally:
        loaded.train(was_training)


def _kind(backend: str) -> type:
    """The harness's class of model for a backend."""
    if backend == "hf":
        from lm_eval.models.huggingface import HFLM

        return HFLM
    try:
        from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        raise ValueError(
            f'backend "vllm" needs vLLM, which does not load here ({error}): pip install vllm, or '
            'use backend "hf"'
        ) from error
    return VLLM


def _load(chosen: Chosen) -> dict:
    """The harness's tasks with their data; what is missing on the Hub becomes one sentence."""
    from datasets.exceptions import DatasetNotFoundError

    try:
        return chosen.manager.load(chosen.names)
    except (ConnectionError, DatasetNotFoundError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"the data of {', '.join(chosen.of_the_hub)} are on the Hugging Face Hub and cannot be "
            f"had ({told[0]}): unset HF_HUB_OFFLINE and go online, log in where they are gated, or "
            f"use tasks of local files"
        ) from error


def _set_shots(tasks: Iterable, num_fewshot: int | None, seed: int) -> None:
    """Shots as the harness's own `simple_evaluate` sets them.

    That function is not called, because each call of it lists every package of the environment in a
    subprocess, which takes longer than a small model takes to answer.
    """
    for task in tasks:
        own = task.get_config("num_fewshot")
        if num_fewshot is not None and own != 0:  # 0 means that the task is to have none
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=seed)


def _table(results: Mapping) -> pd.DataFrame:
    rows = []
    for task, scores in results["results"].items():
        better = results["higher_is_better"].get(task, {})
        for key, value in scores.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
                continue
            stderr = scores.get(f"{metric}_stderr,{name}")
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "filter": name,
                    "value": float(value),
                    "stderr": stderr if isinstance(stderr, Real) else math.nan,
                    "n": scores.get("sample_len"),
                    "higher_is_better": better.get(metric),
                    "shots": results["n-shot"].get(task),
                    "version": results["versions"].get(task),
                }
            )
    return pd.DataFrame(rows)
