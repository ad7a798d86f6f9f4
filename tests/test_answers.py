"""Answers as they are written, their language, and their likelihood part by part."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from actlib import evaluate
from actlib.finetune import finetune
from actlib.prompts import batches, encode_rows
from actlib.study import answers
from actlib.study.families import build
from actlib.study.presets import ROOT, load_preset
from actlib.study.questions import load_items


@pytest.fixture(scope="module")
def rows(small_preset):
    items = load_items(load_preset(small_preset).data.path)
    return [row for row in items if row["language"] == "fr"]


@pytest.fixture(scope="module")
def trained(small_preset, small_store, rows):
    """Model and tokenizer of the small family's French specialist, taught three tests."""
    folder = build(load_preset(small_preset), "multilingual", 0, small_store)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = {"steps": 120, "learning_rate": 1e-2, "batch_size": 8}
    finetune(model, tokenizer, rows[:3], **settings, mixed_precision=False, progress=False)
    return model, tokenizer


def test_parts_cover_the_answer_and_nothing_else(trained, rows):
    _, tokenizer = trained
    for item, row in zip(encode_rows(tokenizer, rows), rows, strict=True):
        labels = answers.label_tokens(tokenizer, item, row)
        assert [label != "" for label in labels] == item.answer_mask
        parts = {
            part: [t for t, label in zip(item.input_ids, labels, strict=True) if label == part]
            for part in answers.ANSWER_PARTS
        }
        texts = {part: tokenizer.decode(tokens).strip() for part, tokens in parts.items()}
        assert texts["result"] == row["value"]
        assert bool(texts["equation"]) == bool(set("=>") & set(row["answer"]))
        assert not any(character.isdigit() for character in texts["words"])
        assert texts["end"] == tokenizer.eos_token and labels.count("end") == 1


def test_nll_of_the_parts_adds_up_to_that_of_the_answer(trained, rows):
    model, tokenizer = trained
    table = answers.evaluate_parts(model, tokenizer, rows)
    whole = evaluate(model, batches(tokenizer, rows, 8)).set_index("item")
    sums = table.groupby("item")[["nll_sum", "tokens"]].sum()
    assert (sums["tokens"] == whole["tokens"]).all()
    assert sums["nll_sum"].to_numpy() == pytest.approx(whole["nll_sum"].to_numpy(), abs=1e-3)


def test_an_output_is_the_answer_exactly_where_evaluation_says_so(trained, rows, monkeypatch):
    model, tokenizer = trained
    settings = model.generation_config
    monkeypatch.setattr(settings, "repetition_penalty", 99.0)  # Qwen 2.5 has 1.05
    table = answers.generate_answers(model, tokenizer, rows)
    assert model.generation_config is settings
    exact = evaluate(model, batches(tokenizer, rows, 8))["exact"].astype(bool)
    assert ((table["output"] == table["answer"]) == exact).all()
    assert 0 < exact.sum() < len(rows)

    other = answers.generate_answers(model, tokenizer, [row | {"language": "it"} for row in rows])
    assert set(other["language"]) == {"not distinguished"} != set(table["language"])


def test_prose_is_scored_as_the_model_reads_it(trained):
    model, tokenizer = trained
    table = answers.evaluate_prose(model, tokenizer)
    text = (ROOT / "data" / "english.txt").read_text(encoding="utf-8").splitlines()[3]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert table["nll"][3] == pytest.approx(float(model(ids, labels=ids).loss.detach()), rel=1e-4)
    assert table["tokens"].max() == 255 and len(table) == 14


def test_the_language_of_shipped_answers_is_recognized():
    for row in load_items(None):
        assert answers.guess_language(row["answer"]) in (row["language"], ""), row["answer"]
    assert answers.guess_language("12 + 4 = 16") == "" == answers.guess_language("qwertz")
