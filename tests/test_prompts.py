"""Encoding: the answer span is exact, with and without a chat template, whatever the batch."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from actlib import prompts
from actlib.study.questions import highlight

DATA = Path(__file__).resolve().parents[1] / "data" / "questions" / "validation"
ROWS = [
    json.loads(line)
    for path in sorted(DATA.glob("*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()[::20]
]
CHAT = (
    "{% if messages[0].role != 'system' %}<|turn|>system\nA default that nobody asked for<|end|>\n"
    "{% endif %}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)
# In the manner of Llama 2: no system message, and a space on both sides of the answer.
STRICT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system message') }}"
    "{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }} <|text|>"
    "{% endif %}{% endfor %}"
)


def _tokenizer(chat_template=None):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|text|>", "<|turn|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([row["question"] for row in ROWS], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|text|>")
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.fixture(scope="module", params=[None, CHAT, STRICT], ids=["plain", "chat", "strict"])
def tokenizer(request):
    return _tokenizer(request.param)


@pytest.fixture(scope="module")
def chat():
    return _tokenizer(CHAT)


def _encode(tokenizer, question, answer, **options):
    row = {"question": question, "answer": answer}
    return prompts.encode_rows(tokenizer, [row], **options)[0]


def _answer(tokenizer, ids, mask):
    return tokenizer.decode([token for token, chosen in zip(ids, mask, strict=True) if chosen])


def test_the_span_is_the_answer_with_the_token_that_ends_the_turn(tokenizer):
    end = "<|end|>" if tokenizer.chat_template == CHAT else "<|text|>"
    for row in ROWS:
        encoded = _encode(tokenizer, row["question"], row["answer"])
        span = _answer(tokenizer, encoded.input_ids, encoded.answer_mask)
        assert span.strip() == row["answer"] + end
        first = encoded.answer_mask.index(True)
        assert all(encoded.answer_mask[first:]) and not any(encoded.answer_mask[:first])


def test_the_prompt_does_not_depend_on_the_answer(tokenizer):
    one, other = (_encode(tokenizer, "Why?", answer) for answer in ("7", "because of x"))
    lengths = [item.answer_mask.index(True) for item in (one, other)]
    assert lengths[0] == lengths[1]
    assert one.input_ids[: lengths[0]] == other.input_ids[: lengths[0]]


def test_the_text_is_what_the_template_writes(chat):
    encoded = _encode(chat, "Why?", "So.", system_prompt="Be brief.")
    assert chat.decode(encoded.input_ids) == (
        "<|turn|>system\nBe brief.<|end|>\n<|turn|>user\nWhy?<|end|>\n<|turn|>assistant\nSo.<|end|>"
    )
    assert "nobody asked" not in chat.decode(_encode(chat, "Why?", "So.").input_ids)


def test_a_template_without_system_messages_gets_it_in_the_question():
    strict = _tokenizer(STRICT)
    encoded = _encode(strict, "Why?", "So.", system_prompt="Be brief.")
    assert strict.decode(encoded.input_ids) == "[INST] Be brief.\n\nWhy? [/INST] So.<|text|>"


def test_the_plain_form_names_question_and_answer():
    plain = _tokenizer()
    encoded = _encode(plain, "Why?", "So.")
    assert plain.decode(encoded.input_ids) == "Question: Why?\nAnswer: So.<|text|>"


def test_a_changed_template_is_noticed():
    tokenizer = _tokenizer(CHAT)
    before = _encode(tokenizer, "Why?", "So.")
    tokenizer.chat_template = None
    assert _encode(tokenizer, "Why?", "So.") != before


@pytest.mark.parametrize(("question", "answer"), [("Why?", ""), ("Why?", " \n"), ("", "So.")])
def test_an_empty_span_is_refused(tokenizer, question, answer):
    with pytest.raises(ValueError, match="must hold text"):
        _encode(tokenizer, question, answer)


def test_batches_are_left_padded_and_hold_every_item_once(tokenizer):
    made = prompts.batches(tokenizer, ROWS, 7)
    index = torch.cat([batch["index"] for batch in made]).tolist()
    assert sorted(index) == list(range(len(ROWS)))
    for batch in made:
        assert batch["answer_mask"].dtype == torch.bool
        assert batch["answer_mask"][:, -1].all() and batch["attention_mask"][:, -1].all()
        for row, number in enumerate(batch["index"].tolist()):
            kept = batch["attention_mask"][row].bool()
            item = _encode(tokenizer, ROWS[number]["question"], ROWS[number]["answer"])
            assert batch["input_ids"][row][kept].tolist() == item.input_ids
            assert batch["answer_mask"][row][kept].tolist() == item.answer_mask
            assert batch["position_ids"][row][kept].tolist() == list(range(len(item.input_ids)))
            assert not batch["answer_mask"][row][~kept].any()
            assert not kept[: len(kept) - len(item.input_ids)].any()


def test_a_dataset_gives_the_same_batches_as_a_list(chat):
    for one, other in zip(
        prompts.batches(chat, ROWS, 8),
        prompts.batches(chat, Dataset.from_list(ROWS), 8),
        strict=True,
    ):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_sorting_saves_padding_and_can_be_turned_off(chat):
    def padding(made):
        return sum((batch["attention_mask"] == 0).sum().item() for batch in made)

    plain = prompts.batches(chat, ROWS, 8, sort_by_length=False)
    assert torch.cat([batch["index"] for batch in plain]).tolist() == list(range(len(ROWS)))
    assert padding(prompts.batches(chat, ROWS, 8)) < padding(plain)


def test_items_over_the_limit_are_left_out_with_a_warning(chat):
    lengths = [len(_encode(chat, r["question"], r["answer"]).input_ids) for r in ROWS]
    limit = sorted(lengths)[len(lengths) // 2]
    with pytest.warns(UserWarning, match=f"longer than {limit} tokens"):
        made = prompts.batches(chat, ROWS, 8, max_tokens=limit)
    index = torch.cat([batch["index"] for batch in made]).tolist()
    assert set(index) == {n for n, length in enumerate(lengths) if length <= limit}


@pytest.mark.filterwarnings("ignore:Left out")
@pytest.mark.parametrize(
    ("rows", "size", "limit", "named"),
    [(ROWS, 0, None, "batch size"), ([], 4, None, "No item"), (ROWS, 4, 2, "No item")],
)
def test_batches_of_nothing_are_refused(chat, rows, size, limit, named):
    with pytest.raises(ValueError, match=named):
        prompts.batches(chat, rows, size, max_tokens=limit)


def test_a_tokenizer_without_an_end_is_refused():
    tokenizer = _tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="end-of-text"):
        _encode(tokenizer, "Why?", "So.")


def test_highlight_shows_the_answer_apart_and_escapes_markup(chat):
    encoded = _encode(chat, "Is 1 < 2, мяч?", "Да, <b>.")
    shown = highlight(chat, encoded).data
    prompt, _, answer = shown.partition("background:")
    assert "1 &lt; 2, мяч?" in prompt and "Д" not in prompt
    assert "Д" in answer and "&lt;b&gt;" not in prompt and "<b>" not in shown
    assert "\ufffd" not in shown


def _sentencepiece(chat_template=None):
    """In the manner of Mistral and Phi 3: a normalizer that puts `▁` before every text."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *map(chr, range(33, 127)), "\n"]
    words = ["▁" + text for text in ("A", "An", "Ans", "So", "[")]
    merges = [("▁", "A"), ("▁A", "n"), ("▁An", "s"), ("S", "o"), ("▁", "So"), ("▁", "[")]
    vocab = {piece: n for n, piece in enumerate([*pieces, *words, "So"])}
    core = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.mark.parametrize("template", [None, STRICT.replace("<|text|>", "</s>")])
def test_an_answer_is_tokenized_as_it_is_in_the_joint_text(template):
    tokenizer = _sentencepiece(template)
    encoded = _encode(tokenizer, "Why?", "So.")
    joint = "Question: Why?\nAnswer: So." if template is None else "[INST] Why? [/INST] So."
    assert encoded.input_ids[:-1] == tokenizer(joint, add_special_tokens=False)["input_ids"]
    answer = [n for n, chosen in zip(encoded.input_ids, encoded.answer_mask, strict=True) if chosen]
    assert tokenizer.convert_ids_to_tokens(answer) == ["▁So", ".", "</s>"]


def test_a_token_across_the_border_is_the_answers():
    # The template ends with a space, which the tokenizer joins with the answer's first word.
    tokenizer = _tokenizer("{% for m in messages %}{{ m.content }}: {% endfor %}")
    tokenizer.add_tokens(["?: S"])
    encoded = _encode(tokenizer, "Why?", "So.")
    assert tokenizer.decode(encoded.input_ids) == ": Why?: So.<|text|>"
    assert _answer(tokenizer, encoded.input_ids, encoded.answer_mask) == "?: So.<|text|>"


def test_thoughts_that_a_template_writes_are_not_the_answers():
    tokenizer = _tokenizer(CHAT.replace("\n{{ m.content }}", "\n{{ thoughts }}{{ m.content }}"))
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "{{ thoughts }}", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    )
    encoded = _encode(tokenizer, "Why?", "So.")
    assert "<think>\n\n</think>\n\nSo." in tokenizer.decode(encoded.input_ids)
    assert _answer(tokenizer, encoded.input_ids, encoded.answer_mask) == "So.<|end|>"


def test_of_named_templates_the_default_is_used():
    named = _tokenizer({"default": CHAT, "tool_use": STRICT})
    assert _encode(named, "Why?", "So.") == _encode(_tokenizer(CHAT), "Why?", "So.")
    named.chat_template = {"rag": CHAT, "tool_use": STRICT}
    with pytest.raises(ValueError, match="named rag, tool_use and none named default"):
        _encode(named, "Why?", "So.")


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (1, 4, [1]), (3, 2, [3]), (5, 4, [5]), (2, 1, [1, 1])],
)
def test_a_last_item_alone_joins_the_batch_before_it(chat, count, size, sizes):
    made = prompts.batches(chat, ROWS[:count], size)
    assert [len(batch["index"]) for batch in made] == sizes
    assert sorted(torch.cat([b["index"] for b in made]).tolist()) == list(range(count))


def test_items_left_out_do_not_leave_one_alone(chat):
    rows = [{"question": "Q?", "answer": "x" * (1 if n else 300)} for n in range(6)]
    with pytest.warns(UserWarning, match="Left out 1 items"):
        made = prompts.batches(chat, rows, 4, max_tokens=200)
    assert [len(batch["index"]) for batch in made] == [5]
    with pytest.warns(UserWarning, match="Left out 1 items"):
        assert prompts.drop_long(chat, rows, 200) == rows[1:]
    assert prompts.drop_long(chat, rows, None) == rows


def test_an_answer_without_a_token_is_refused():
    tokenizer = _tokenizer(CHAT)
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    with pytest.raises(ValueError, match="no token for the answer"):
        _encode(tokenizer, "Why?", "\u200b")
