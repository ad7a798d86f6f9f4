"""Evaluation by lm-evaluation-harness, against lone passes and a model of known answers."""

import copy
import json
import re

import pytest
import torch
from lm_eval.api.model import LM
from small_study import random_model, write_data
from tiny_models import random_mask

from actlib import cli, transferred
from actlib.harness.evaluation import evaluate_tasks
from actlib.harness.local_tasks import answer_scores, local_tasks, number_scores

MGSM = [("Combien font 2 et 3 ?", "5"), ("Et 600 fois 2 ?", "1,200"), ("Et 9 - 12 ?", "-3")]
TASKS = ["act_fr_*", "mgsm_local_fr", "exams_local_*"]


def exams_line(number, key, language="French", count=4):
    choices = {letter: f"réponse {letter}{number}" for letter in "ABCDE"[:count]}
    row = {"id": f"e{number}", "language": language, "subject": "Physics", "choices": choices}
    return row | {"question": f"Question {number} ?", "answer": key}


EXAMS = [exams_line(n, key, count=3 + n % 3) for n, key in enumerate("ABC@AB")]
EXAMS += [exams_line(9, "B", "North Macedonian")] * 2


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of this study's data, of MGSM and of EXAMS, the latter two made up."""
    folder = tmp_path_factory.mktemp("local")
    write_data(folder / "own")
    write_lines(folder / "exams" / "science_test.jsonl", EXAMS)
    write_lines(folder / "exams" / "science_train.jsonl", [exams_line(n, "A") for n in (20, 21)])
    (folder / "mgsm").mkdir()
    lines = "".join(f"{question}\t{number}\n" for question, number in MGSM)
    (folder / "mgsm" / "mgsm_fr.tsv").write_text(lines)
    return [folder / name for name in ("own", "mgsm", "exams")]


def build(tokenizer, seed):
    """A tiny model whose head is not tied to its embedding, though its configuration says so."""
    torch.manual_seed(seed)
    model = random_model(tokenizer)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight * 30)
    return model.eval()


@pytest.fixture(scope="module")
def model(tokenizer):
    return build(tokenizer, 0)


@pytest.fixture(scope="module")
def run(model, tokenizer, data):
    """Results of batches of three, so that items are padded."""
    with pytest.warns(UserWarning, match="1 of 8 questions of .* have no right choice"):
        return evaluate_tasks(model, tokenizer, TASKS, data=data, limit=6, batch_size=3)


@torch.no_grad()
def test_likelihoods_are_those_of_a_lone_unpadded_pass(run, model, tokenizer):
    for item in run["samples"]["act_fr_maths_answer"]:
        ((prompt, answer),), (((likelihood, greedy),),) = item["arguments"], item["resps"]
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(prompt + answer)["input_ids"]])
        logits = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
        direct = logits.gather(1, ids[0, start:, None]).sum().item()
        assert likelihood == pytest.approx(direct, abs=1e-3)
        assert greedy == bool((logits.argmax(-1) == ids[0, start:]).all())
        length = len(item["doc"]["answer"].encode())
        assert item["nll_per_byte"] == pytest.approx(-direct / length, abs=1e-3)
    assert answer_scores({"answer": "é"}, [(-4.0, True)]) == {"nll_per_byte": 2, "exact": 1}


def first_prompts(results):
    return {task: items[0]["arguments"][0][0] for task, items in results["samples"].items()}


def test_prompts_and_shots(run, model, tokenizer, data):
    first = first_prompts(run)
    assert first["mgsm_local_fr"] == f"Question : {MGSM[0][0]}\nRéponse :"
    assert first["exams_local_french"] == "Question: Question 0 ?\nAnswer:"
    ids = [item["doc"]["id"] for item in run["samples"]["exams_local_french"]]
    assert ids == ["e0", "e1", "e2", "e4", "e5"]  # without the one that was canceled
    tasks = ["act_fr_maths", "exams_local_french", "mgsm_local_fr"]
    results = evaluate_tasks(model, tokenizer, tasks, data=data, limit=2, num_fewshot=2)
    assert set(results["n-shot"].values()) == {2}
    first = first_prompts(results)
    *shots, last = first["act_fr_maths"].split("\n\n")
    worked = [shot.split("\nAnswer: ")[1] for shot in shots]
    assert len(shots) == 2 and all(re.search(" [=>] ", answer) for answer in worked)
    *shots, last = first["exams_local_french"].split("\n\n")
    train = "Question: Question 2{} ?\nAnswer: réponse A2{}"
    assert sorted(shots) == [train.format(n, n) for n in (0, 1)]
    assert first["mgsm_local_fr"].count(MGSM[0][0]) == 1  # shots are other test items
    assert first["mgsm_local_fr"].count("Réponse :") == 3


def test_the_chat_template_asks_the_bare_question(model, tokenizer, data):
    options = {"data": data, "limit": 1, "chat": True}
    results = evaluate_tasks(model, tokenizer, "act_fr_maths_answer", **options)
    (item,) = results["samples"]["act_fr_maths_answer"]
    turn = [{"role": "user", "content": item["doc"]["question"]}]
    written = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert item["arguments"] == [(written, item["doc"]["answer"])]


# What people write, and its value: decimal marks, groups, digits, signs, percent and units.
ANSWERS = {
    "en": "1,234.5 = 1234.5; −$5 = -5; 50% = 50; 1,200 kg = 1200; .5 = 0.5",
    "de": "1.234,5 = 1234.5; –3 = -3; 50 % = 50; 80.000 € = 80000; 1,200 = 1.2",
    "fr": "1 234,5 = 1234.5; −0,5 = -0.5; 12 % = 12; 1\u202f200 m = 1200; 3,50 € = 3.5",
    "ar": "٣٫٥ = 3.5; \u061c-٧ = -7; ٥٠٪ = 50; ١٬٢٠٠ = 1200; ٤٢ كغم = 42",
    "hi": "३.५ = 3.5; -₹५०० = -500; ५०% = 50; १,२०,००० = 120000; १२ किलो = 12",
    "bn": "৩.৫ = 3.5; −৭ = -7; ৫০% = 50; ১,২০,০০০ = 120000; ৪২টি = 42",
    "zh": "３．５ = 3.5; -7 = -7; 50％ = 50; １，２００ = 1200; 12个 = 12",
    "th": "๓.๕ = 3.5; -๗ = -7; 50% = 50; ๑,๒๐๐ = 1200; ๔๒ กก. = 42",
}


@pytest.mark.parametrize("language", ANSWERS)
def test_a_number_is_read_as_its_language_writes_it(language):
    for pair in ANSWERS[language].split("; "):
        text, value = pair.split(" = ")
        row = {"value": value, "language": language}
        assert set(number_scores(row, [f"That = {text}"]).values()) == {1}, pair
        wrong = f"That = {10 * float(value):g}"
        assert set(number_scores(row, [wrong]).values()) == {0}, pair


READ = [  # value, language, text, number after the equals sign, last number
    ("3", "en", "7 / 2 = 3.5", 0, 0),
    ("3", "de", "Das sind 3,5.", 0, 0),
    ("101", "fr", "13 + 88 = 101 : cent un, pas 77", 1, 0),
    ("5", "fr", "cela fait 5", 0, 1),
    ("-3", "en", "9 - 12 = - 3", 1, 1),
    ("200", "ar", "= ١،٢٠٠", 0, 0),
    ("1200", "en", "= \\$1{,}200", 1, 1),
    ("5", "fr", "", 0, 0),
    ("7", "ja", "３＋４＝７", 1, 1),
]


@pytest.mark.parametrize(("value", "language", "text", "after_equals", "last"), READ)
def test_a_number_is_read_whole_and_in_its_place(value, language, text, after_equals, last):
    scores = number_scores({"value": value, "language": language}, [text])
    assert scores == {"number_after_equals": after_equals, "last_number": last}


def values(results):
    """Each score of each task."""
    return {
        f"{task} {key}": value
        for task, scores in results["results"].items()
        for key, value in scores.items()
        if "," in key and "_stderr" not in key
    }


class Knowing(LM):
    """Writes the value of every question, and takes the right choice."""

    def generate_until(self, requests):
        by_question = dict(MGSM)
        docs = [request.doc for request in requests]
        return [f"That = {by_question.get(doc['question']) or doc['value']}" for doc in docs]

    def loglikelihood(self, requests):
        right = {row["question"]: row["choices"].get(row["answer"]) for row in EXAMS}
        pairs = [(request.doc["question"], request.args[1].strip()) for request in requests]
        return [(float(right[question] == chosen), True) for question, chosen in pairs]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


@pytest.mark.filterwarnings("ignore:.*no right choice")
def test_a_model_that_knows_the_answers_scores_one(data):
    tasks = ["act_fr_maths", "mgsm_local_fr", "exams_local_*"]
    scores = values(evaluate_tasks(Knowing(), tasks=tasks, data=data))
    assert scores.pop("mgsm_local_fr exact_match,remove_whitespace") == 0  # of a lone number
    assert len(scores) == 7 and set(scores.values()) == {1}, scores


def test_options_of_the_harness_are_those_given(data):
    options = {"data": data, "numpy_random_seed": 3, "fewshot_as_multiturn": False}
    config = evaluate_tasks(Knowing(), tasks="mgsm_local_fr", **options)["config"]
    assert config["numpy_seed"] == 3 and config["torch_seed"] is None


def test_a_task_of_numbers_is_there_where_every_answer_has_one(tmp_path):
    row = {"question": "e?", "answer": "Paris", "value": "Paris", "ability": "fr-places"}
    write_lines(tmp_path / "test" / "own.jsonl", [row, {**row, "question": "f?", "value": "75"}])
    with pytest.warns(UserWarning, match="1 of 2 questions of act_fr_places have no number"):
        assert list(local_tasks(tmp_path)) == ["act_fr_places_answer"]


def test_models_in_turn_and_nothing_of_them_changes(tokenizer, data):
    donor, target = build(tokenizer, 1), build(tokenizer, 0).train()
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None

    def ask(each):
        options = {"data": data, "limit": 3}
        return values(evaluate_tasks(each, tokenizer, "act_fr_maths_answer", **options))

    state, before = torch.get_rng_state(), ask(target)
    with transferred(target, donor, random_mask(target, share=1), scale=1.0):
        inside = ask(target)
    assert inside == pytest.approx(ask(donor), abs=1e-5) and inside != before
    assert ask(target) == before == ask(torch.nn.DataParallel(target))
    assert target.lm_head.weight is not target.get_input_embeddings().weight
    assert target.training and tokenizer.pad_token is None
    assert torch.equal(torch.get_rng_state(), state)


def test_refusals(model, tokenizer, data, tmp_path):
    for name in ("c++", "c#"):
        rows = [{"question": "e?", "answer": "f", "ability": name}]
        write_lines(tmp_path / "test" / f"{name}.jsonl", rows)
    with pytest.raises(ValueError, match="c# and c\\+\\+ would both be the task act_und_c_"):
        local_tasks(tmp_path)
    with pytest.raises(ValueError, match="needs its tokenizer"):
        evaluate_tasks(model, tasks="mgsm_local_fr", data=data[1])
    with pytest.raises(ValueError, match="found none; name the folder"):
        evaluate_tasks(model, tokenizer, "mgsm_local_fr", data="absent")


@pytest.mark.filterwarnings("ignore:.*no right choice")
def test_the_command_line_lists_and_evaluates(model, tokenizer, data, tmp_path, capsys):
    def given(*words):
        assert cli.main(["eval", *map(str, words)]) == 0
        return capsys.readouterr().out

    assert given("--list", "--data", *data).split() == list(local_tasks(data))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = [tmp_path / "model", "--tasks", "act_fr_maths_answer", "--data", data[0], "--limit", 2]
    table = given(*words, "--out", tmp_path / "new.json")
    assert "|nll_per_byte|" in table.replace(" ", "")
    written = json.loads((tmp_path / "new.json").read_text())
    assert len(written["samples"]["act_fr_maths_answer"]) == 2
    assert json.loads(given(*words, "--json")) == written["results"]
