"""Answers as they are written, their language, and their likelihood part by part."""

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from actlib import evaluate
from actlib.finetune import finetune
from actlib.prompts import batches, encode_rows
from actlib.study.answers import (
    PARTS,
    evaluate_parts,
    evaluate_prose,
    generate_answers,
    guess_language,
    label_tokens,
)
from actlib.study.families import build
from actlib.study.presets import ROOT, load_preset
from actlib.study.questions import load_items


def of_language(folder, language):
    return [row for row in load_items(folder) if row["language"] == language]


@pytest.fixture(scope="module")
def trained(small_preset, small_store):
    """Model and tokenizer of the small family's French specialist, taught three tests."""
    folder = build(load_preset(small_preset), "multilingual", 0, small_store)
    model, tokenizer = (
        kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    rows = of_language(load_preset(small_preset).data.path, "fr")
    settings = {"steps": 120, "learning_rate": 1e-2, "batch_size": 8}
    finetune(model, tokenizer, rows[:3], **settings, mixed_precision=False, progress=False)
    return model, tokenizer


@pytest.fixture
def rows(small_preset):
    return of_language(load_preset(small_preset).data.path, "fr")


def test_parts_cover_the_answer_and_nothing_else(trained, rows):
    _, tokenizer = trained
    for item, row in zip(encode_rows(tokenizer, rows), rows, strict=True):
        labels = label_tokens(tokenizer, item, row)
        assert [label != "" for label in labels] == item.answer_mask
        texts = {
            part: tokenizer.decode(
                [t for t, label in zip(item.input_ids, labels, strict=True) if label == part]
            ).strip()
            for part in PARTS
        }
        assert texts["result"] == row["value"]
        assert bool(texts["equation"]) == bool(set("=>") & set(row["answer"]))
        assert not any(character.isdigit() for character in texts["words"])
        assert texts["end"] == tokenizer.eos_token and labels.count("end") == 1


def test_a_value_that_is_written_another_way_is_no_result(trained):
    _, tokenizer = trained
    for answer, value in (("1,200 km", "1200"), ("٤٢", "42"), ("oui", "")):
        row = {"question": "?", "answer": answer, "value": value}
        labels = label_tokens(tokenizer, encode_rows(tokenizer, [row])[0], row)
        assert "result" not in labels and labels[-1] == "end"


def test_nll_of_the_parts_adds_up_to_that_of_the_answer(trained, rows):
    model, tokenizer = trained
    table = evaluate_parts(model, tokenizer, rows)
    whole = evaluate(model, batches(tokenizer, rows, 8)).set_index("item")
    sums = table.groupby("item")[["nll_sum", "tokens"]].sum()
    assert (sums["tokens"] == whole["tokens"]).all()
    assert sums["nll_sum"].to_numpy() == pytest.approx(whole["nll_sum"].to_numpy(), abs=1e-3)
    has_equation = {n for n, row in enumerate(rows) if set("=>") & set(row["answer"])}
    assert set(table.loc[table["part"] == "equation", "item"]) == has_equation


def test_an_output_is_the_answer_exactly_where_evaluation_says_so(trained, rows, monkeypatch):
    model, tokenizer = trained
    settings = model.generation_config
    monkeypatch.setattr(settings, "repetition_penalty", 99.0)  # Qwen 2.5 has 1.05
    table = generate_answers(model, tokenizer, rows)
    assert model.generation_config is settings
    exact = evaluate(model, batches(tokenizer, rows, 8))["exact"].astype(bool)
    assert ((table["output"] == table["answer"]) == exact).all()
    assert 0 < exact.sum() < len(rows)
    assert set(table.loc[exact, "language"]) == {"fr"}


def test_prose_is_scored_as_the_model_reads_it(trained):
    model, tokenizer = trained
    table = evaluate_prose(model, tokenizer)
    text = (ROOT / "data" / "english.txt").read_text(encoding="utf-8").splitlines()[3]
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert table["nll"][3] == pytest.approx(float(model(ids, labels=ids).loss.detach()), rel=1e-4)
    assert table["tokens"].max() == 255 and len(table) == 14


@pytest.mark.parametrize("language", ["en", "de", "es", "fr", "ru"])
def test_the_language_of_shipped_answers_is_recognized(language):
    for row in of_language(None, language):
        guess = guess_language(row["answer"])
        assert guess in (language, ""), row["answer"]
    assert guess_language("12 + 4 = 16") == "" == guess_language("qwertz")
