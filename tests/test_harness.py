"""Evaluation by lm-evaluation-harness, against lone passes and a model of known answers."""

import copy
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_eval.api.model import LM
from small_study import SIZES, write_data
from transformers import AutoConfig, AutoModelForCausalLM

from actlib import cli, load_questions, transferred
from actlib.channels import channel_modules
from actlib.harness.evaluation import evaluate_tasks
from actlib.harness.local_tasks import local_tasks, number_scores
from actlib.masks import ChannelMask
from actlib.study.presets import load_preset
from actlib.study.training import small_tokenizer

MGSM = [("Combien font 2 et 3 ?", "5"), ("Et 600 fois 2 ?", "1,200"), ("Et 9 - 12 ?", "-3")]
TASKS = ["act_fr_*", "mgsm_local_fr", "exams_local_*"]


def exams_line(number, key, language="French", count=4):
    choices = {letter: f"réponse {letter}{number}" for letter in "ABCDE"[:count]}
    row = {"id": f"e{number}", "language": language, "subject": "Physics", "choices": choices}
    return row | {"question": f"Question {number} ?", "answer": key}


def published(row):
    """The same row as EXAMS's authors wrote it."""
    listed = [{"label": k, "text": v, "para": ""} for k, v in row["choices"].items()]
    about = {"grade": 12, "subject": row["subject"], "language": row["language"]}
    stem = {"stem": row["question"], "choices": listed}
    return {"id": row["id"], "question": stem, "answerKey": row["answer"], "info": about}


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of this study's data, of MGSM and of EXAMS, the latter two made up."""
    folder = tmp_path_factory.mktemp("local")
    write_data(folder / "own")
    test = [exams_line(n, key, count=3 + n % 3) for n, key in enumerate("ABC@AB")]
    test += [published(exams_line(9, "B", "North Macedonian"))] * 2
    write_lines(folder / "exams" / "science_test.jsonl", test)
    write_lines(folder / "exams" / "science_train.jsonl", [exams_line(n, "A") for n in (20, 21)])
    (folder / "mgsm").mkdir()
    lines = "".join(f"{question}\t{number}\n" for question, number in MGSM)
    (folder / "mgsm" / "mgsm_fr.tsv").write_text(lines)
    return [folder / name for name in ("own", "mgsm", "exams")]


@pytest.fixture(scope="module")
def tokenizer(small_preset):
    return small_tokenizer(load_preset(small_preset), 400)


@pytest.fixture(scope="module")
def build(tokenizer):
    """`build(seed)`: a tiny model whose greedy texts differ from question to question."""

    def make(seed):
        sizes = {**SIZES, "num_key_value_heads": 2, "vocab_size": len(tokenizer)}
        config = AutoConfig.for_model("qwen2", **sizes, eos_token_id=tokenizer.eos_token_id)
        model = AutoModelForCausalLM.from_config(config).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
        return model

    return make


@pytest.fixture(scope="module")
def model(build):
    return build(0)


@pytest.fixture(scope="module")
def run(model, tokenizer, data):
    """Both tables; batches of three, so that items are padded."""
    with pytest.warns(UserWarning, match="1 of 8 questions of .* have no right choice"):
        return evaluate_tasks(model, tokenizer, TASKS, data=data, limit=6, batch_size=3)


def test_each_score_is_the_mean_of_its_items_with_its_standard_error(run):
    scores, items = run
    for row in scores.itertuples():
        chosen = items[(items["task"] == row.task) & (items["filter"] == row.filter)]
        values = chosen[row.metric].to_numpy(float)
        assert row.n == len(values)
        assert row.value == pytest.approx(values.mean())
        assert row.stderr == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)))
    counts = scores.groupby("task")["n"].first()
    assert (counts["exams_local_french"], counts["mgsm_local_fr"]) == (5, 3)
    assert counts["act_fr_maths"] == 6
    assert set(scores["shots"]) == {0} and scores["version"].notna().all()
    assert not scores.set_index("metric").loc["nll_per_byte", "higher_is_better"].any()


@torch.no_grad()
def test_likelihoods_are_those_of_a_lone_unpadded_pass(run, model, tokenizer):
    items = run.items[run.items["task"].isin(["act_fr_maths_answer", "exams_local_french"])]
    for item in items.itertuples():
        for choice, (likelihood, greedy) in zip(item.choices, item.response, strict=True):
            start = len(tokenizer(item.prompt)["input_ids"])
            ids = torch.tensor([tokenizer(item.prompt + choice)["input_ids"]])
            logits = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            direct = logits.gather(1, ids[0, start:, None]).sum().item()
            assert likelihood == pytest.approx(direct, abs=1e-3)
            assert greedy == bool((logits.argmax(-1) == ids[0, start:]).all())
    answers = items[items["task"] == "act_fr_maths_answer"]
    for item in answers.itertuples():
        length = len(item.choices[0].strip().encode())
        assert item.nll_per_byte == pytest.approx(-item.response[0][0] / length)


def test_written_answers_are_those_of_a_lone_unpadded_question(run, model, tokenizer):
    items = run.items[run.items["task"] == "act_fr_maths"]
    for item in items.itertuples():
        ids = tokenizer(item.prompt, return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=64, do_sample=False)[0]
        text = tokenizer.decode(made[ids["input_ids"].shape[1] :], skip_special_tokens=True)
        for stop in ("\n", "Question:"):
            text = text.split(stop)[0]
        assert item.response == text
    assert items["response"].nunique() > 1  # else padding could not be seen


def test_prompts_and_shots(run, model, tokenizer, data):
    first = run.items.groupby("task").first()["prompt"]
    assert first["mgsm_local_fr"] == f"Question : {MGSM[0][0]}\nRéponse :"
    assert first["exams_local_french"] == "Question: Question 0 ?\nAnswer:"
    ids = run.items.loc[run.items["task"] == "exams_local_french", "id"]
    assert ids.tolist() == ["e0", "e1", "e2", "e4", "e5"]
    tasks = ["act_fr_maths", "mgsm_local_fr", "exams_local_french"]
    scores, items = evaluate_tasks(model, tokenizer, tasks, data=data, limit=2, num_fewshot=2)
    assert set(scores["shots"]) == {2}
    first = items.groupby("task").first()["prompt"]
    *shots, last = first["act_fr_maths"].split("\n\n")
    worked = [shot.split("\nAnswer: ")[1] for shot in shots]
    assert len(shots) == 2 and all(re.search(" [=>] ", answer) for answer in worked)
    *shots, last = first["exams_local_french"].split("\n\n")
    train = "Question: Question 2{} ?\nAnswer: réponse A2{}"
    assert sorted(shots) == [train.format(n, n) for n in (0, 1)]
    assert first["mgsm_local_fr"].count(MGSM[0][0]) == 1  # shots are other test items
    assert first["mgsm_local_fr"].count("Réponse :") == 3


def test_the_chat_template_asks_the_bare_question(model, tokenizer, data):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template += "{{ '\\n' }}"  # as most templates end the heading of a turn
    options = {"data": data, "limit": 1, "chat": True}
    items = evaluate_tasks(model, tokenizer, "act_fr_maths_answer", **options).items
    (item,) = items.itertuples()
    lines = Path(data[0], "test", "fr.jsonl").read_text(encoding="utf-8").splitlines()
    row = next(row for row in map(json.loads, lines) if row["id"] == item.id)
    turn = [{"role": "user", "content": row["question"]}]
    written = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert (item.prompt, item.choices) == (written, [row["answer"]])
    # the line break belongs to the prompt, not to the answer
    start, ids = (tokenizer(text)["input_ids"] for text in (written, written + row["answer"]))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, len(start) - 1 : -1].log_softmax(-1)
    direct = logits.gather(1, torch.tensor(ids[len(start) :])[:, None]).sum().item()
    assert item.response[0][0] == pytest.approx(direct, abs=1e-3)


# What people write, and its value: decimal marks, groups, digits, signs, percent and units.
ANSWERS = {
    "en": "1,234.5 = 1234.5; −$5 = -5; 50% = 50; 1,200 kg = 1200; .5 = 0.5",
    "de": "1.234,5 = 1234.5; –3 = -3; 50 % = 50; 80.000 € = 80000; 1,200 = 1.2",
    "fr": "1 234,5 = 1234.5; −0,5 = -0.5; 12 % = 12; 1\u202f200 m = 1200; 3,50 € = 3.5",
    "es": "1.200 = 1200; -7 = -7; 25 % = 25; 12.345.678 = 12345678; 3,5 km = 3.5",
    "ru": "1 200,5 = 1200.5; −3 = -3; 15 % = 15; 1200 руб. = 1200; 0,125 = 0.125",
    "ar": "٣٫٥ = 3.5; \u061c-٧ = -7; ٥٠٪ = 50; ١٬٢٠٠ = 1200; ٤٢ كغم = 42",
    "fa": "۱۲٫۵ = 12.5; \u200e−۷ = -7; ۵۰٪ = 50; ۱٬۲۰۰ = 1200; ۴۲ کیلو = 42",
    "hi": "३.५ = 3.5; -₹५०० = -500; ५०% = 50; १,२०,००० = 120000; १२ किलो = 12",
    "bn": "৩.৫ = 3.5; −৭ = -7; ৫০% = 50; ১,২০,০০০ = 120000; ৪২টি = 42",
    "zh": "３．５ = 3.5; -7 = -7; 50％ = 50; １，２００ = 1200; 12个 = 12",
    "ja": "3.5 = 3.5; −7 = -7; 50% = 50; 1,200円 = 1200; １２ = 12",
    "th": "๓.๕ = 3.5; -๗ = -7; 50% = 50; ๑,๒๐๐ = 1200; ๔๒ กก. = 42",
}
READ = [  # value, language, text, number after the equals sign, last number
    ("3", "en", "7 / 2 = 3.5", 0, 0),
    ("3", "de", "Das sind 3,5.", 0, 0),
    ("101", "fr", "13 + 88 = 101 : cent un, pas 77", 1, 0),
    ("5", "fr", "cela fait 5", 0, 1),
    ("-3", "en", "9 - 12 = - 3", 1, 1),
    ("200", "ar", "= ١،٢٠٠", 0, 0),
    ("1200", "en", "= \\$1{,}200", 1, 1),
    ("5", "fr", "", 0, 0),
    ("3", "en", "x = \\frac{3}{4}", 0, 0),
    ("2", "en", "= 2 million", 0, 0),
    ("7", "ja", "３＋４＝７", 1, 1),
]


@pytest.mark.parametrize(("value", "language", "text", "after_equals", "last"), READ)
def test_a_number_is_read_whole_and_in_its_place(value, language, text, after_equals, last):
    scores = number_scores({"value": value, "language": language}, [text])
    assert scores == {"number_after_equals": after_equals, "last_number": last}


class Knowing(LM):
    """Writes the value of every question as its file has it, with words around it."""

    def generate_until(self, requests):
        by_question = dict(MGSM)
        docs = [request.doc for request in requests]
        return [f"That = {by_question.get(doc['question']) or doc['answer']}" for doc in docs]

    def loglikelihood(self, requests):
        rows = [(request.doc, request.args[1]) for request in requests]
        right = [text.strip() == doc["choices"][doc["target"]] for doc, text in rows]
        return [(0.0, True) if each else (-9.0, False) for each in right]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


class Wrong(Knowing):
    """Writes ten times each number, in plain digits."""

    def generate_until(self, requests):
        return [f"That = {10 * float(request.doc['value']):g}" for request in requests]


@pytest.mark.filterwarnings("ignore:.*no right choice", "ignore:.*no number")
def test_a_model_that_knows_the_answers_scores_one_and_a_wrong_one_zero(tmp_path, data):
    rows = [
        {"question": pair, "answer": pair.split(" = ")[0], "value": pair.split(" = ")[1]}
        | {"language": language, "domain": "maths"}
        for language, pairs in ANSWERS.items()
        for pair in pairs.split("; ")
    ]
    assert len(rows) == 60
    places = {"question": "e?", "answer": "Paris", "value": "Paris", "ability": "fr-places"}
    more = {**places, "question": "f?", "value": "75"}
    write_lines(tmp_path / "test" / "own.jsonl", [*rows, places, more])
    with pytest.warns(UserWarning, match="1 of 2 questions of act_fr_places have no number"):
        names = local_tasks(tmp_path)
    assert "act_fr_places_answer" in names and "act_fr_places" not in names  # no number there
    numbers = [f"act_{language}_maths" for language in ANSWERS]
    tasks = [*numbers, "mgsm_local_fr", "exams_local_*"]
    scores = evaluate_tasks(Knowing(), tasks=tasks, data=[tmp_path, *data[1:]]).scores
    scores = scores[scores["filter"] != "remove_whitespace"]
    assert len(set(scores["task"])) == 15
    assert (scores["value"] == 1).all(), scores[scores["value"] < 1]
    assert (evaluate_tasks(Wrong(), tasks=numbers, data=tmp_path).scores["value"] == 0).all()
    # What the study reads from the answer itself is the same, where no letters are beside it.
    own = tmp_path / "own.jsonl"
    write_lines(own, [{**row, "answer": f"#### {row['answer']}", "value": None} for row in rows])
    read = [row["value"] for row in load_questions(own)]
    assert {(a, row["value"]) for a, row in zip(read, rows, strict=True) if a != row["value"]} == {
        ("", row["value"]) for row in rows if re.search(r"[^\W\d]", row["answer"])
    }


def test_models_in_turn_and_nothing_of_them_changes(build, tokenizer, data):
    donor, target, tokenizer = build(1), build(0), copy.deepcopy(tokenizer)
    target.lm_head.weight = torch.nn.Parameter(target.lm_head.weight * 2)  # though config ties it
    donor.lm_head.weight = torch.nn.Parameter(donor.lm_head.weight * 2)
    modules = channel_modules(target).items()
    mask = ChannelMask({name: torch.ones(each.channels, dtype=bool) for name, each in modules})
    target.train()
    tokenizer.pad_token = None

    def ask(each):
        options = {"data": data, "limit": 3}
        scores = evaluate_tasks(each, tokenizer, "act_fr_maths_answer", **options).scores
        return scores["value"].to_list()

    states = random.getstate(), torch.get_rng_state(), np.random.get_state()[1]
    before = ask(target)
    with transferred(target, donor, mask, scale=1.0):
        inside = ask(target)
    assert inside == pytest.approx(ask(donor), abs=1e-5) and inside != before
    assert ask(target) == before == ask(torch.nn.DataParallel(target))
    assert target.lm_head.weight is not target.get_input_embeddings().weight
    assert target.training and tokenizer.pad_token is None
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert np.array_equal(np.random.get_state()[1], states[2])


REFUSALS = {
    "no tokenizer": ({"tokenizer": None}, "needs its tokenizer"),
    "vllm": ({"model": "some/model", "backend": "vllm"}, "vllm does not load here.*pip install"),
    "no task": ({"tasks": []}, "No tasks specified"),
    "no data": ({"data": "absent"}, "found none; name the folder"),
    "chat": ({"chat": True, "template": None}, "none; leave out --chat"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(model, tokenizer, data, case):
    changes, message = REFUSALS[case]
    tokenizer, changes = copy.deepcopy(tokenizer), dict(changes)
    tokenizer.chat_template = changes.pop("template", tokenizer.chat_template)
    asked = {"model": model, "tokenizer": tokenizer, "tasks": "mgsm_local_fr", "data": data[1]}
    with pytest.raises(ValueError, match=message):
        evaluate_tasks(**asked | changes)


@pytest.mark.slow
def test_names_of_the_harness_pass_beside_local_ones(model, tokenizer, data):
    for task in ("mgsm_direct_fr", "mgsm_direct"):  # a task and a tag
        with pytest.raises(ValueError, match=f"{task} are on .* unset HF_HUB_OFFLINE"):
            evaluate_tasks(model, tokenizer, task, data=data[1], limit=1)
    for asked, near in (("mgsm_drect_fr", "mgsm_direct_fr"), ("act_fr_math", "act_fr_maths")):
        with pytest.raises(ValueError, match=f"no task is called '{asked}'; near it: .*{near}"):
            evaluate_tasks(model, tokenizer, asked, data=data[0])


@pytest.mark.filterwarnings("ignore:.*no right choice")
def test_the_command_line_lists_and_evaluates(model, tokenizer, data, tmp_path, capsys):
    def given(*words):
        return cli.main(["eval", *map(str, words)])

    assert given("--list", "--data", *data) == 0
    assert capsys.readouterr().out.split() == list(local_tasks(data))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = ["--tasks", "act_fr_maths_answer", "--data", data[0], "--limit", 2]
    words += ["--samples", tmp_path / "items.jsonl", "--out", tmp_path / "scores.json"]
    assert given(tmp_path / "model", *words) == 0
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert {row["metric"] for row in rows} == {"nll_per_byte", "exact"}
    lines = (tmp_path / "items.jsonl").read_text().splitlines()
    values = [json.loads(line)["nll_per_byte"] for line in lines]
    (mean,) = [row["value"] for row in rows if row["metric"] == "nll_per_byte"]
    assert len(values) == 2 and mean == pytest.approx(np.mean(values))
