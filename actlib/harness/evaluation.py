"""Evaluate a model by lm-evaluation-harness (`pip install "actlib[harness]"`).

    tasks, data = ["act_fr_*", "mgsm_local_fr"], ["data/questions", "mgsm/"]
    results = evaluate_tasks(model, tokenizer, tasks, data=data)
    results["results"]["mgsm_local_fr"], results["samples"]["mgsm_local_fr"]

`actlib.harness.local_tasks` says which tasks the files of a folder give; those of the harness go by
their own names, such as `mgsm_direct_*`, with data from the Hugging Face Hub.
"""

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from fnmatch import filter as matching
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from actlib.channels import unwrapped
from actlib.harness.local_tasks import Folders, require_harness, write_tasks
from actlib.hooks import evaluating
from actlib.loading import load_pretrained

_UNSEEDED = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"))


def evaluate_tasks(
    model: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tasks: str | Sequence[str] = "act_*",
    *,
    data: Folders = None,
    batch_size: int | str = 8,
    chat: bool = False,
    **options: Any,
) -> dict[str, Any]:
    """Scores of a model on tasks of the harness, with a standard error beside each.

    Args:
        model: a model in memory, which stays as it is; the folder or Hub id of one; or a model of
            the harness, such as its vLLM, with its own tokenizer and batch size.
        tokenizer: of the model; read from the folder or Hub id if None.
        tasks: names, or patterns such as `mgsm_local_*`. What local tasks match stands for them
            alone; of the harness's own, a pattern stands for single tasks and a name for a group
            or tag too.
        data: folder of the local tasks' files, or several; this study's data if None.
        batch_size: items in a batch, or `auto`.
        chat: ask through the tokenizer's chat template, with the system message that the template
            itself writes where none is given.
        options: further arguments of `lm_eval.simple_evaluate`, such as `limit` (most items of each
            task, its first ones) and `num_fewshot` (worked examples before each question).

    Returns:
        What `lm_eval.simple_evaluate` returns: `results` has the scores of each task, `samples` its
        items with prompts and responses.

    Raises:
        ValueError: the harness is not installed, a name is unknown, or the model lacks its
            tokenizer or a chat template.
        OSError: the data of a task of the Hub cannot be had.
    """
    require_harness()
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    asked = [tasks] if isinstance(tasks, str) else list(tasks)
    options = {"apply_chat_template": chat, "fewshot_as_multiturn": chat, **_UNSEEDED} | options
    mode = evaluating(model) if isinstance(model, nn.Module) else nullcontext()
    with mode, tempfile.TemporaryDirectory() as folder:
        local = write_tasks(data, folder, chat=chat)
        # the harness's own index takes many seconds to read
        manager = TaskManager(include_defaults=not all(matching(local, name) for name in asked))
        names = dict[str, None]()
        for name in asked:
            known = [name] if name in manager.all_tasks else matching(manager.all_subtasks, name)
            found = [f"{folder}/{task}.yaml" for task in matching(local, name)] or known
            if not found:
                raise ValueError(
                    f"no task is called {name!r}; `actlib eval --list --data FOLDER` names those "
                    "of local files, and `lm_eval ls tasks` the harness's own"
                )
            names |= dict.fromkeys(found)
        lm = _harness_model(model, tokenizer, batch_size)
        return simple_evaluate(lm, tasks=[*names], task_manager=manager, **options)


def _harness_model(
    model: Any, tokenizer: PreTrainedTokenizerBase | None, batch_size: int | str
) -> Any:
    """The model as one of the harness."""
    from lm_eval.api.model import LM
    from lm_eval.models.huggingface import HFLM

    if isinstance(model, LM):
        return model
    if isinstance(model, str | Path):
        tokenizer = tokenizer or load_pretrained(AutoTokenizer, model)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_pretrained(AutoModelForCausalLM, model, dtype="auto", device_map=device)
    if tokenizer is None:
        raise ValueError("a model in memory needs its tokenizer beside it, got None")
    model = unwrapped(model)
    # the harness changes the tokenizer, and ties a head that is rightly untied
    model.tie_weights = lambda: None
    try:
        return HFLM(pretrained=model, tokenizer=deepcopy(tokenizer), batch_size=batch_size)
    finally:
        del model.tie_weights
