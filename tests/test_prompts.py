"""Encoding: ids are those of the joint text, and the answer span is exact, whatever the batch."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from actlib import prompts

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


def _bytes(chat_template=None, prefix=False):
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    core.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=500,
        special_tokens=["<|text|>", "<|turn|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([row["question"] for row in ROWS], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|text|>")
    tokenizer.chat_template = chat_template
    return tokenizer


def _pieces(**parts):
    """In the manner of Mistral, Phi 3 and Gemma: pieces with `▁`, and bytes for what is none."""
    pieces = ["<unk>", "<|text|>", *(f"<0x{n:02X}>" for n in range(256)), "▁"]
    pieces += [*map(chr, range(33, 127)), "▁A", "▁An", "▁Ans", "▁So", "▁[", "So"]
    merges = [("▁", "A"), ("▁A", "n"), ("▁An", "s"), ("S", "o"), ("▁", "So"), ("▁", "[")]
    vocab = {piece: n for n, piece in enumerate(pieces)}
    core = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    for name, part in parts.items():
        setattr(core, name, part)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|text|>", unk_token="<unk>")


def _metaspace(scheme):
    metaspace = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    return _pieces(pre_tokenizer=metaspace)


def _normalized(normalizer):
    tokenizer = _bytes()
    tokenizer.backend_tokenizer.normalizer = normalizer
    return tokenizer


def _begun():
    """A tokenizer that puts special tokens before a text, and one behind it."""
    tokenizer = _bytes()
    ids = [(word, tokenizer.convert_tokens_to_ids(word)) for word in ("<|turn|>", "<|text|>")]
    single = TemplateProcessing(single="<|turn|> $A <|text|>", special_tokens=ids)
    tokenizer.backend_tokenizer.post_processor = single
    return tokenizer


def test_a_text_begins_as_the_tokenizer_begins_it_though_it_drops_letters_without_a_token():
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "7": 3, "8": 4}
    core = Tokenizer(models.BPE(vocab, []))
    core.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    encoded = _encode(PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>"), "7?", "8.")
    assert encoded.input_ids == [1, 3, 4, 2]  # <s> 7 8 </s>
    assert encoded.answer_mask == [False, False, True, True]


def test_a_template_that_writes_the_date_gives_a_question_the_same_tokens_on_every_day():
    dated = "{%- set today = strftime_now('%d %b %Y') %}{{ today }}" + TURNS
    written = _encode(_bytes(dated), "Why?", "So.").input_ids
    assert written == _encode(_bytes("26 Jul 2024" + TURNS), "Why?", "So.").input_ids


TOKENIZERS = {
    "bytes": _bytes,
    "bytes, space before": lambda: _bytes(prefix=True),
    "prepend": lambda: _pieces(
        normalizer=normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ),
    **{f"metaspace {s}": lambda s=s: _metaspace(s) for s in ("always", "first", "never")},
    "NFKC": lambda: _normalized(normalizers.NFKC()),
    "begins": _begun,
}
TEXTS = [("Why?", "So."), ("a\r\nb", "café 🙂"), ("Où\u00a0?", "cafe\u0301"), ("１ + ２?", "３")]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("template", [None, STRICT], ids=["plain", "strict"])
@pytest.mark.parametrize(("question", "answer"), TEXTS)
def test_ids_are_those_of_the_joint_text(name, template, question, answer):
    tokenizer = TOKENIZERS[name]()
    tokenizer.chat_template = template
    encoded = _encode(tokenizer, question, answer)
    joint = f"Question: {question}\nAnswer: {answer}"
    if template:
        joint = f"[INST] {question} [/INST] {answer} "
    expected = tokenizer(joint, add_special_tokens=template is None)["input_ids"]
    expected = [n for n in expected if n != tokenizer.eos_token_id]
    assert encoded.input_ids == [*expected, tokenizer.eos_token_id]
    start = encoded.answer_mask.index(True)
    before = joint[: joint.index(answer)].rstrip(" ")  # a space joins the word behind it
    kept = tokenizer(before, add_special_tokens=template is None)["input_ids"]
    kept = [n for n in kept if n != tokenizer.eos_token_id]
    assert encoded.input_ids[:start] == kept and all(encoded.answer_mask[start:])


TURNS = (
    "{% for m in messages %}{% if m.role == 'user' %}U: {{ m.content }}\n"
    "{% elif m.role == 'assistant' %}A: {{ m.content }}<|end|>{% endif %}{% endfor %}"
)
OPENED = "{% if add_generation_prompt %}A: <think>\n{% endif %}"
PARTS = (
    "{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ p.text }}{% endfor %}"
    "<|end|>{% endfor %}"
)
HASHED = "{% for m in messages %}{{ m.content }} ###<|end|>{% endfor %}"
BARE = "{% for m in messages %}{{ m.content }}: {% endfor %}"
# In the manner of Qwen 3: a block of thoughts, those of the answer or empty.
THINKS = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n"
    "{% if '</think>' in m.content %}{{ m.content.split('</think>')[0].split('<think>')[-1] }}"
    "{% endif %}\n</think>\n\n{% endif %}{{ m.content.split('</think>')[-1] }}<|end|>\n{% endfor %}"
)
WRITTEN = (
    "<|turn|>system\nBe brief.<|end|>\n<|turn|>user\nWhy?<|end|>\n<|turn|>assistant\n",
    "So.<|end|>",
)
TEMPLATES = {  # with a system message: the prompt, and the answer
    "writes all": (CHAT, *WRITTEN),
    "by name": ({"default": CHAT, "tool_use": STRICT}, *WRITTEN),
    "refuses system": (STRICT, "[INST] Be brief.\n\nWhy? [/INST]", " So. <|text|>"),
    "skips system": (TURNS, "U: Be brief.\n\nWhy?\nA:", " So.<|end|>"),
    "opens a thought": (f"{TURNS}{OPENED}", "U: Be brief.\n\nWhy?\nA:", " So.<|end|>"),
    "wants parts": (PARTS, "system: Be brief.<|end|>user: Why?<|end|>assistant:", " So.<|end|>"),
    "writes a thought": (THINKS, f"{WRITTEN[0]}<think>\n</think>\n\n", WRITTEN[1]),
    "writes no end": (BARE, "Be brief.: Why?:", " So.<|text|>"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_text_is_what_the_template_writes(name):
    template, prompt, answer = TEMPLATES[name]
    tokenizer = _bytes(template)
    encoded = _encode(tokenizer, "Why?", "So.", system_prompt="Be brief.")
    assert tokenizer.decode(encoded.input_ids) == prompt + answer
    assert _answer(tokenizer, encoded) == answer
    assert "nobody asked" not in tokenizer.decode(_encode(tokenizer, "Why?", "So.").input_ids)


def test_a_text_begins_once_where_tokenizer_and_template_both_write_the_beginning():
    tokenizer = _begun()
    tokenizer.bos_token, tokenizer.chat_template = "<|turn|>", "{{ bos_token }}" + TURNS
    text = tokenizer.decode(_encode(tokenizer, "Why?", "So.").input_ids)
    assert text == "<|turn|>U: Why?\nA: So.<|end|>"


def test_a_token_across_the_border_is_the_answers():
    tokenizer = _bytes(BARE)
    tokenizer.add_tokens(["?: S"])
    encoded = _encode(tokenizer, "Why?", "So.")
    assert tokenizer.decode(encoded.input_ids) == ": Why?: So.<|text|>"
    assert _answer(tokenizer, encoded) == "?: So.<|text|>"


def _without_percent():
    tokenizer = _normalized(normalizers.Replace("%", ""))
    tokenizer.chat_template = HASHED  # so that text stands behind the answer
    return tokenizer


REFUSALS = {
    "no answer": (_bytes, " \n", "row 0: 'answer' must hold text"),
    "no token": (_without_percent, "%", "no token for the answer '%'"),
    "no default": (
        lambda: _bytes({"rag": CHAT, "tool_use": STRICT}),
        "So.",
        "named rag, tool_use and none named default; set tokenizer.chat_template",
    ),
    "thoughts": (
        lambda: _bytes(THINKS),
        "<think>Hm</think>So.",
        "rewrites 'Why.' or its answer '<think>.*; leave out what it rewrites, .* or take the",
    ),
    "reply twice": (
        lambda: _bytes(CHAT + "{{ messages[-1].content }}"),
        "So.",
        "cannot be used .it does not write each message once.; mend it, or take it away",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    make, answer, named = REFUSALS[name]
    with pytest.raises(ValueError, match=named):
        _encode(make(), "Why?", answer)


def _encode(tokenizer, question, answer, **options):
    row = {"question": question, "answer": answer}
    return prompts.encode_rows(tokenizer, [row], **options)[0]


def _answer(tokenizer, encoded):
    pairs = zip(encoded.input_ids, encoded.answer_mask, strict=True)
    return tokenizer.decode([token for token, chosen in pairs if chosen])


@pytest.mark.parametrize("template", [None, CHAT], ids=["plain", "chat"])
def test_batches_are_left_padded_and_hold_every_item_once(template):
    tokenizer = _bytes(template)
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
            assert not kept[: len(kept) - len(item.input_ids)].any()
            assert not batch["answer_mask"][row][~kept].any()


@pytest.mark.parametrize(
    ("count", "size", "sizes"), [(9, 4, [4, 5]), (10, 4, [4, 4, 2]), (1, 4, [1]), (2, 1, [1, 1])]
)
def test_a_last_item_alone_joins_the_batch_before_it(count, size, sizes):
    made = prompts.batches(_bytes(CHAT), ROWS[:count], size)
    assert [len(batch["index"]) for batch in made] == sizes


def test_items_over_the_limit_are_left_out_with_a_warning():
    chat = _bytes(CHAT)
    rows = [{"question": "Q?", "answer": "x" * (1 if n else 300)} for n in range(6)]
    with pytest.warns(UserWarning, match="Left out 1 items longer than 200 tokens"):
        (made,) = prompts.batches(chat, rows, 4, max_tokens=200)
    assert sorted(made["index"].tolist()) == [1, 2, 3, 4, 5]  # and none of them alone
    with pytest.warns(UserWarning, match="Left out 1 items"):
        assert prompts.drop_long(chat, rows, 200) == rows[1:]
    with pytest.raises(ValueError, match="No item"), pytest.warns(UserWarning, match="Left out"):
        prompts.batches(chat, rows, 4, max_tokens=2)
