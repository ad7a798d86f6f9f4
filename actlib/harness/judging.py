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
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from numbers import Real
from pathlib import Path

import pandas as pd
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from actlib.harness.local_tasks import require_harness
from actlib.harness.names import Chosen, choose
from actlib.harness.samples import require_free, write_samples

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
        apply_chat_template: ask through the tokenizer's chat template.
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
    _require_settings(model, tokenizer, backend, limit, seeds, apply_chat_template)
    require_free(samples)
    asked = [tasks] if isinstance(tasks, str) else list(tasks)
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        chosen = choose(asked, data, folder, chat=apply_chat_template)
        with _wrapped(model, tokenizer, backend, batch_size, model_options or {}) as wrapped:
            results = _evaluate(
                wrapped,
                chosen,
                limit=limit,
                num_fewshot=num_fewshot,
                apply_chat_template=apply_chat_template,
                log_samples=samples is not None,
                **dict(zip(_SEED_NAMES, seeds, strict=True)),
            )
    if samples is not None:
        write_samples(results["samples"], samples)
    table = _table(results)
    table.attrs = {"lm_eval": version("lm_eval"), "backend": backend, "seeds": list(seeds)}
    table.attrs |= {"limit": limit, "chat_template": apply_chat_template}
    return table


_SEED_NAMES = ("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed")


def _require_settings(
    model: object,
    tokenizer: PreTrainedTokenizerBase | None,
    backend: str,
    limit: int | None,
    seeds: Sequence[int],
    chat: bool,
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
    if chat and tokenizer is not None and not tokenizer.chat_template:
        raise ValueError("apply_chat_template needs a chat template, and the tokenizer has none")
    if limit is not None and (limit < 1 or limit != int(limit)):
        raise ValueError(f"limit must be a whole number of at least 1, got {limit}")
    if len(seeds) != len(_SEED_NAMES):
        raise ValueError(f"seeds must be four, of {', '.join(_SEED_NAMES)}, got {len(seeds)}")


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
def _wrapped(
    model: PreTrainedModel | str | Path,
    tokenizer: PreTrainedTokenizerBase | None,
    backend: str,
    batch_size: int | str | None,
    options: Mapping[str, object],
) -> Iterator[object]:
    """The model as the harness's own kind; one in memory gets its mode back."""
    if backend == "vllm":
        yield _vllm()(pretrained=str(model), batch_size=batch_size or "auto", **options)
        return
    from lm_eval.models.huggingface import HFLM

    if isinstance(model, str | Path):
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(model)
        model = AutoModelForCausalLM.from_pretrained(model, dtype="auto", device_map=_device())
    was_training = model.training
    try:
        # The harness gives a tokenizer without padding one, and switches the side.
        tokenizer = deepcopy(tokenizer)
        yield HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size or 8, **options)
    finally:
        model.train(was_training)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _vllm() -> type:
    try:
        from lm_eval.models.vllm_causallms import VLLM
    except ImportError as error:
        raise ValueError(
            f'backend "vllm" needs vLLM, which does not load here ({error}): pip install vllm, or '
            'use backend "hf"'
        ) from error
    return VLLM


def _evaluate(wrapped: object, chosen: Chosen, **settings: object) -> dict:
    """Run the harness; what is missing of a Hub task becomes one sentence."""
    from datasets.exceptions import DatasetNotFoundError
    from lm_eval import simple_evaluate

    try:
        return simple_evaluate(
            model=wrapped, tasks=chosen.names, task_manager=chosen.manager, **settings
        )
    except (ConnectionError, DatasetNotFoundError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"the data of {', '.join(chosen.of_the_hub)} are on the Hugging Face Hub and cannot be "
            f"had ({told[0]}): unset HF_HUB_OFFLINE and go online, log in where they are gated, or "
            f"use tasks of local files"
        ) from error


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
