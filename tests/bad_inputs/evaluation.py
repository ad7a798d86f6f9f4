"""Evaluation through the harness."""

from bad_inputs.mistakes import Case, study_data, tokenizer, write

EVALUATION = [
    # A task that is none is in test_harness, since the harness lists its own for 14 seconds.
    Case("table of another ending", "eval target --out table.txt", ("--out", "table.txt", ".csv")),
    Case(
        "table below a file",
        "eval target --out own.jsonl/t.csv --data data",
        ("own.jsonl", "folder"),
        lambda: study_data(),
    ),
    Case("no model to evaluate", "eval --tasks act_fr_maths", ("model", "--list")),
    Case(
        "model to evaluate that is not there",
        "eval nowhere/at/all --tasks act_fr_maths --data data",
        ("nowhere/at/all",),
        lambda: study_data(),
    ),
    Case(
        "model to evaluate that is on the Hub",
        "eval owner/model --tasks act_fr_maths --data data",
        ("owner/model", "HF_HUB_OFFLINE"),
        lambda: study_data(),
    ),
    Case(
        "limit of 0 in evaluation", "eval target --limit 0", ("limit", "0", "equal to 1"), status=2
    ),
    Case(
        "batch that is no number",
        "eval target --tasks act_fr_maths --data data --batch-size many",
        ("batch", "many"),
        lambda: study_data(),
    ),
    Case(
        "batch below 1 in evaluation",
        "eval target --tasks act_fr_maths --data data --batch-size=-2",
        ("batch", "-2"),
        lambda: study_data(),
    ),
    Case(
        "worked examples below 0",
        "eval target --tasks act_fr_maths --data data --shots -1",
        ("shots", "-1"),
        lambda: study_data(),
        status=2,
    ),
    Case("data that are not there", "eval --list --data nowhere", ("nowhere",)),
    Case(
        "data in Latin-1",
        "eval --list --data data",
        ("fr.jsonl", "UTF-8"),
        lambda: (study_data(), write("data/test/fr.jsonl", "é".encode("latin-1"))()),
    ),
    Case(
        "samples over something",
        "eval target --tasks act_fr_maths --data data --samples donor",
        ("donor", "folder"),
        lambda: study_data(),
    ),
    Case(
        "chat without a template",
        "eval target --tasks act_fr_maths --data data --chat",
        ("target", "template"),
        lambda: (study_data(), tokenizer(chat_template=None)()),
    ),
]
