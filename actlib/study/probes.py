"""Read abilities off channels: do the channels found tell an input's ability better than others?

table = probe_accuracies(study, model, scores, counts=[4, 16, 64])
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import PreTrainedModel

from actlib.activations import record_activations
from actlib.analysis.old_stats import bootstrap
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores
from actlib.study.old_session import Study


def probe_accuracies(
    study: Study,
    model: PreTrainedModel,
    scores: ChannelScores,
    counts: Sequence[int],
    draws: int = 3,
) -> pd.DataFrame:
    """How well ability, language and domain can be read off few channels, against random ones.

    The features of an item are the mean activations over its answer tokens; a standardized logistic
    regression is judged by stratified 5-fold cross-validation (scikit-learn) on recording items.

    Returns:
        label (ability; language and domain, where they differ from it), method, channels, draw,
        accuracy, low, high (bootstrap over items), chance (share of the most frequent class).
    """
    total = sum(values.numel() for values in scores.values.values())
    order = torch.cat(list(scores.values.values())).argsort(descending=True, stable=True)
    chosen = {("act_global", 0): order[: max(counts)].numpy()}
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        chosen["random_uniform", draw] = rng.choice(total, max(counts), replace=False)
    union = np.unique(np.concatenate(list(chosen.values())))
    features, cells = _features(study, model, scores, union)
    rows = []
    for (method, draw), channels in chosen.items():
        for count in counts:
            columns = np.searchsorted(union, channels[:count])
            for label, wanted in _labels(cells).items():
                right = _cross_validated(features[:, columns], wanted)
                found = bootstrap(right)._asdict()
                rows.append(
                    {"label": label, "method": method, "channels": count, "draw": draw}
                    | {"accuracy": found["estimate"], "low": found["low"], "high": found["high"]}
                    | {"chance": pd.Series(wanted).value_counts(normalize=True).max()}
                )
    return pd.DataFrame(rows)


def _features(study, model, scores, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sizes = {name: values.numel() for name, values in scores.values.items()}
    flat = torch.zeros(sum(sizes.values()), dtype=torch.bool)
    flat[torch.from_numpy(channels)] = True
    mask = ChannelMask(dict(zip(sizes, flat.split(list(sizes.values())), strict=True)))
    found = {
        cell: record_activations(model, study.batches(cell, "recording"), mask)
        for cell in study.cells
    }
    cells = np.repeat(list(found), [len(part) for part in found.values()])
    return torch.cat(list(found.values())).numpy(), cells


def _labels(cells: np.ndarray) -> dict[str, np.ndarray]:
    parts = np.array([cell.partition("-")[::2] for cell in cells])
    labels = {"ability": cells, "language": parts[:, 0], "domain": parts[:, 1]}
    told, cases = {}, len(set(cells))
    for name, wanted in labels.items():
        # A language that tells every ability apart is the ability by another name.
        if len(set(wanted)) > 1 and (name == "ability" or len(set(wanted)) < cases):
            told[name] = wanted
    return told


def _cross_validated(features: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return (cross_val_predict(probe, features, wanted, cv=folds) == wanted).astype(float)
