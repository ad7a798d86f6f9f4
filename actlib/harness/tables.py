"""Tables of what lm-evaluation-harness returns: scores of tasks, and their items.

scores, items = tables_of(lm_eval.simple_evaluate(...))
"""

import math
from collections.abc import Mapping
from numbers import Real
from typing import NamedTuple

import pandas as pd


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


def tables_of(results: Mapping) -> TaskTables:
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
