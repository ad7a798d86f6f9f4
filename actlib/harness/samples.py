"""What a model was asked and said, item by item: `FOLDER/TASK.jsonl`, an object a line.

| key | what |
| --- | --- |
| `doc_id` | number of the item in the task, from 0 |
| `id` | the item's own id, where it has one |
| `filter` | way in which the answer is read; an item has one line for each |
| `prompt` | text that the model was given |
| `choices` | texts whose likelihood was asked for, where it was |
| `target` | right answer: text, or the index of a choice |
| `response` | text that the model wrote; or nats and greediness of each choice |
| `read` | what the filter read from the response |
| `metrics` | value of each metric |
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from actlib.files import atomic_folder


def require_free(folder: str | Path | None) -> None:
    """Refuse a folder that holds something, before a long run rather than after it.

    Raises:
        ValueError: the path is a file or a folder that is not empty.
    """
    if folder is None:
        return
    folder = Path(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ValueError(f"the folder for samples {folder} exists and is not empty; name another")


def write_samples(samples: Mapping[str, Sequence[Mapping]], folder: str | Path) -> None:
    """Write the items of each task, beside and moved in place, so that a kill leaves no half.

    Args:
        samples: items by task, as the harness gives them.
        folder: absent or empty.

    Raises:
        ValueError: as `require_free`.
    """
    require_free(folder)
    with atomic_folder(Path(folder).absolute()) as unfinished:
        for task, items in samples.items():
            lines = [json.dumps(_record(item), ensure_ascii=False) + "\n" for item in items]
            text = "".join(lines)
            (unfinished / f"{task.replace('/', '_')}.jsonl").write_text(text, encoding="utf-8")


def _record(item: Mapping) -> dict:
    """One line of an item, from what the harness keeps of it."""
    arguments = item["arguments"]
    record = {"doc_id": item["doc_id"], "filter": item["filter"], "prompt": arguments[0][0]}
    if isinstance(item["doc"], Mapping) and "id" in item["doc"]:
        record["id"] = item["doc"]["id"]
    generated = len(arguments[0]) > 1 and isinstance(arguments[0][1], Mapping)
    said = [response[0] for response in item["resps"]]
    if generated:
        record["response"], record["read"] = said[0], item["filtered_resps"][0]
    else:
        record["choices"] = [argument[-1] for argument in arguments]
        record["response"], record["read"] = said, item["filtered_resps"]
    record["target"] = item["target"]
    record["metrics"] = {name: item[name] for name in item["metrics"]}
    return record
