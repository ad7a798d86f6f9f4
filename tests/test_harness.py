"""Judging through lm-evaluation-harness, against slow references and a model of known answers."""

import ast
import copy
import json
import random
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import lm_eval
import numpy as np
import pytest
import torch
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from small_study import SIZES, write_data
from transformers import AutoConfig, AutoModelForCausalLM

from actlib import cli
from actlib.channels import channel_modules
from actlib.harness import judging, names, samples
from actlib.harness.judging import judge
from actlib.harness.local_tasks import local_tasks, write_tasks
from actlib.harness.rows import exams_row
from actlib.masks import ChannelMask
from actlib.study.families import small_tokenizer
from actlib.study.presets import load_preset
from actlib.transfer import transferred

BENCHMARKS = Path(__file__).resolve().parent.parent.parent / "shared" / "data"
MGSM = [("Combien font 2 et 3 ?", "5"), ("Et 600 fois 2 ?", "1,200"), ("Et 9 - 12 ?", "-3")]
MGSM += [("Et 7 plus 7 ?", "14"), ("Et 8 plus 1 ?", "9")]


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
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of this study's data, of MGSM and of EXAMS, the latter two made up."""
    folder = tmp_path_factory.mktemp("local")
    write_data(folder / "own")
    for name in ("mgsm", "exams"):
        (folder / name).mkdir()
    lines = "".join(f"{question}\t{number}\n" for question, number in MGSM)
    (folder / "mgsm" / "mgsm_fr.tsv").write_text(lines)
    test = [exams_line(n, key, count=3 + n % 3) for n, key in enumerate("ABC@AB")]
    test += [published(exams_line(9, "B", "North Macedonian"))] * 2
    write_lines(folder / "exams" / "science_test.jsonl", test)
    write_lines(folder / "exams" / "science_train.jsonl", [exams_line(n, "A") for n in (20, 21)])
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


TASKS = ["act_fr_*", "mgsm_local_fr", "exams_local_*"]


@pytest.fixture(scope="module")
def run(model, tokenizer, data, tmp_path_factory):
    """A table and what was asked and said, by task; batches of three, so that items are padded."""
    said = tmp_path_factory.mktemp("said") / "samples"
    with pytest.warns(UserWarning, match="1 of 6 questions in French have no right choice"):
        table = judge(model, tokenizer, TASKS, data=data, limit=6, batch_size=3, samples=said)
    lines = {path.stem: path.read_text().splitlines() for path in said.iterdir()}
    return table, {task: [json.loads(line) for line in each] for task, each in lines.items()}


def test_each_score_is_the_mean_of_its_items_with_its_standard_error(run):
    table, said = run
    assert set(table["task"]) == set(said)
    for row in table.itertuples():
        items = [item for item in said[row.task] if item["filter"] == row.filter]
        values = np.array([item["metrics"][row.metric] for item in items])
        assert row.n == len(values)
        assert row.value == pytest.approx(values.mean())
        assert row.stderr == pytest.approx(values.std(ddof=1) / np.sqrt(len(values)))
    counts = table.groupby("task")["n"].first()
    assert (counts["exams_local_french"], counts["mgsm_local_fr"]) == (5, 5)
    assert counts["act_fr_maths"] == 6


def test_the_table_carries_versions_shots_and_seeds(run):
    table, _ = run
    assert table.attrs["lm_eval"] == lm_eval.__version__
    assert table.attrs["seeds"] == [0, 1234, 1234, 1234]
    assert set(table["shots"]) == {0}
    assert table["version"].notna().all()
    assert not table.set_index("metric").loc["nll_per_byte", "higher_is_better"].any()


@torch.no_grad()
def test_likelihoods_are_those_of_a_lone_unpadded_pass(run, model, tokenizer):
    _, said = run
    for item in said["act_fr_maths_answer"] + said["exams_local_french"]:
        for choice, (likelihood, greedy) in zip(item["choices"], item["response"], strict=True):
            start = len(tokenizer(item["prompt"])["input_ids"])
            ids = torch.tensor([tokenizer(item["prompt"] + choice)["input_ids"]])
            logits = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            wanted = ids[0, start:]
            direct = logits.gather(1, wanted[:, None]).sum().item()
            assert likelihood == pytest.approx(direct, abs=1e-3)
            assert greedy == bool((logits.argmax(-1) == wanted).all())
    for item in said["act_fr_maths_answer"]:
        length = len(item["choices"][0].strip().encode())
        assert item["metrics"]["nll_per_byte"] == pytest.approx(-item["response"][0][0] / length)


def test_written_answers_are_those_of_a_lone_unpadded_question(run, model, tokenizer):
    _, said = run
    texts = set()
    for item in said["act_fr_maths"]:
        ids = tokenizer(item["prompt"], return_tensors="pt")
        made = model.generate(**ids, max_new_tokens=64, do_sample=False)[0, len(ids[0]) :]
        text = tokenizer.decode(made, skip_special_tokens=True)
        for stop in ("\n", "Question:"):
            text = text.split(stop)[0]
        assert item["response"] == text
        texts.add(text)
    assert len(texts) > 1  # else padding could not be seen


def test_two_runs_and_all_batch_sizes_agree(run, model, tokenizer, data):
    table, _ = run
    tasks = ["act_fr_*", "exams_local_french"]
    one = judge(model, tokenizer, tasks, data=data, limit=6, batch_size=1)
    mine = table[table["task"].isin(one["task"])]
    keys = ["task", "metric", "filter"]
    both = mine.merge(one, on=keys, suffixes=("", "_one"))
    assert len(both) == len(one) == len(mine)
    assert both["value"].to_numpy() == pytest.approx(both["value_one"].to_numpy(), abs=1e-5)
    shots = [
        judge(model, tokenizer, "exams_local_french", data=data, limit=4, num_fewshot=1)
        for _ in range(2)
    ]
    assert shots[0].equals(shots[1])


def test_prompts_are_the_harness_s_and_this_study_s(run):
    _, said = run
    assert said["mgsm_local_fr"][0]["prompt"] == f"Question : {MGSM[0][0]}\nRéponse :"
    assert {item["filter"] for item in said["mgsm_local_fr"]} == {
        "remove_whitespace",
        "flexible-extract",
    }
    assert said["exams_local_french"][0]["prompt"] == "Question: Question 0 ?\nAnswer:"
    assert [item["id"] for item in said["exams_local_french"]] == ["e0", "e1", "e2", "e4", "e5"]


def test_shots_come_from_training_rows_or_other_test_items(model, tokenizer, data, tmp_path):
    tasks = ["act_fr_maths", "mgsm_local_fr", "exams_local_french"]
    out = tmp_path / "said"
    table = judge(model, tokenizer, tasks, data=data, limit=2, num_fewshot=2, samples=out)
    assert set(table["shots"]) == {2}
    first = {path.stem: json.loads(path.read_text().splitlines()[0]) for path in out.iterdir()}
    *shots, last = first["act_fr_maths"]["prompt"].split("\n\n")
    assert len(shots) == 2 and last not in first["act_fr_maths"]["prompt"][: -len(last)]
    assert all(" = " in shot.split("\nAnswer: ")[1] for shot in shots)
    train = "Question: Question 2{} ?\nAnswer: réponse A2{}"
    *shots, last = first["exams_local_french"]["prompt"].split("\n\n")
    assert sorted(shots) == [train.format(n, n) for n in (0, 1)]
    assert first["mgsm_local_fr"]["prompt"].count(MGSM[0][0]) == 1
    assert first["mgsm_local_fr"]["prompt"].count("Réponse :") == 3


def test_the_chat_template_asks_the_bare_question(model, tokenizer, data, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template += "{{ '\\n' }}"  # as most templates end the heading of a turn
    out, options = tmp_path / "said", {"data": data, "limit": 1, "apply_chat_template": True}
    judge(model, tokenizer, "act_fr_maths_answer", samples=out, **options)
    item = json.loads((out / "act_fr_maths_answer.jsonl").read_text())
    row = next(iter(local_rows(data[0], item["id"])))
    turn = [{"role": "user", "content": row["question"]}]
    written = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert (item["prompt"], item["choices"]) == (written, [row["answer"]])
    assert written.endswith("\n")  # which belongs to the prompt, not to the answer
    start, ids = (tokenizer(text)["input_ids"] for text in (written, written + row["answer"]))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, len(start) - 1 : -1].log_softmax(-1)
    wanted = torch.tensor(ids[len(start) :])
    direct = logits.gather(1, wanted[:, None]).sum().item()
    assert item["response"][0][0] == pytest.approx(direct, abs=1e-3)


def local_rows(folder, wanted):
    for path in folder.glob("test/*.jsonl"):
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        yield from (row for row in rows if row["id"] == wanted)


class Knowing(LM):
    """Knows every answer that it was told, and writes it with words around it."""

    def __init__(self, pretrained, **options):
        super().__init__()
        self.options = {"pretrained": pretrained, **options}
        Knowing.made = self

    def generate_until(self, requests):
        found = []
        for request in requests:
            lines = [answer for question, answer in MGSM if question in request.args[0]]
            value = f"That is 1 + 1 = {request.doc.get('value')}: so, not 77."
            found.append(f"12 fois, donc {lines[0]}." if lines else value)
        return found

    def loglikelihood(self, requests):
        rows = [(request.doc, request.args[1]) for request in requests]
        right = [text.strip() == doc["choices"][doc["target"]] for doc, text in rows]
        return [(0.0, True) if each else (-9.0, False) for each in right]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


@pytest.fixture
def vllm(monkeypatch):
    """The harness's vLLM backend, replaced: vLLM needs a GPU."""
    module = ModuleType("lm_eval.models.vllm_causallms")
    module.VLLM = Knowing
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.filterwarnings("ignore:.*no right choice")
def test_right_answers_score_one_by_the_filter_that_reads_them(vllm, data):
    options = {"tensor_parallel_size": 2}
    tasks = ["act_fr_maths", "mgsm_local_fr", "exams_local_*"]
    table = judge("some/model", tasks=tasks, data=data, backend="vllm", model_options=options)
    values = table.set_index(["task", "filter", "metric"])["value"]
    assert values["act_fr_maths", "strict-match", "exact_match"] == 1
    assert values["act_fr_maths", "flexible-extract", "exact_match"] == 0  # 77 comes last
    assert values["mgsm_local_fr", "flexible-extract", "exact_match"] == 1
    assert values["mgsm_local_fr", "remove_whitespace", "exact_match"] == 0
    for language in ("french", "north_macedonian"):
        for metric in ("acc", "acc_norm"):
            assert values[f"exams_local_{language}", "none", metric] == 1
    made = {"pretrained": "some/model", "batch_size": "auto", "tensor_parallel_size": 2}
    assert Knowing.made.options == made


def test_vllm_absent_or_given_a_model_in_memory_is_one_sentence(model, tokenizer, data):
    with pytest.raises(ValueError, match='needs vLLM.*pip install vllm, or use backend "hf"'):
        judge("some/model", tasks="mgsm_local_fr", data=data, backend="vllm")
    with pytest.raises(ValueError, match="folder or Hub id, got a model in memory"):
        judge(model, tokenizer, backend="vllm")


def test_published_and_flattened_exams_rows_are_the_same():
    for row in (exams_line(3, "C"), exams_line(4, "@", count=5)):
        assert exams_row(row) == exams_row(published(row))
    assert exams_row(exams_line(4, "@"))["target"] == -1
    with pytest.raises(ValueError, match="row of EXAMS, got one without 'question'"):
        exams_row({"id": "x"})


@pytest.fixture(scope="module")
def some_of_the_harness():
    """Its index takes many seconds to read whole."""
    root = Path(lm_eval.__file__).parent / "tasks"
    folders = [root / "mgsm", root / "arc", root / "mmlu_prox" / "de"]
    return TaskManager(include_path=folders, include_defaults=False)


@pytest.fixture
def chosen(some_of_the_harness, monkeypatch, tmp_path, data):
    monkeypatch.setattr(names, "_manager", lambda _: some_of_the_harness)
    return lambda *asked, data=data: names.choose(asked, data, tmp_path)


def test_names_of_the_harness_pass_with_wildcards(chosen):
    for pattern, count in (("mgsm_direct_*", 11), ("mgsm_native_cot_*", 11)):
        found = chosen(pattern).names
        prefix = pattern.rstrip("*")
        assert len(found) == count and all(name.startswith(prefix) for name in found)
    found = chosen("mmlu_prox_*", "mgsm_direct_fr", "mgsm_direct*", "act_fr_maths")
    assert "mgsm_direct_fr" not in found.of_the_hub  # the tag of the same pattern holds it
    assert {"mgsm_direct", "mmlu_prox_de"} <= set(found.of_the_hub)
    assert not any("law" in name for name in found.names)
    assert [name for name in found.names if name not in found.of_the_hub] == found.names[:1]


@pytest.mark.parametrize(
    ("asked", "near"), [("mgsm_drect_fr", "mgsm_direct_fr"), ("act_fr_math", "act_fr_maths")]
)
def test_an_unknown_name_is_one_sentence_with_near_ones(chosen, asked, near):
    with pytest.raises(ValueError, match=f"no task is called '{asked}'; near it: .*{near}"):
        chosen(asked)


def test_local_tasks_without_their_folder_name_the_remedy(chosen):
    with pytest.raises(ValueError, match="'exams_local_french'.*need data=FOLDER"):
        chosen("exams_local_french", data=None)


def test_a_hub_task_without_network_is_one_sentence(chosen, model, tokenizer):
    with pytest.raises(ValueError, match="data of mgsm_direct_fr are on .* unset HF_HUB_OFFLINE"):
        judge(model, tokenizer, "mgsm_direct_fr", limit=1)


def test_without_the_harness_one_sentence_tells_how_to_install_it(monkeypatch, model, tokenizer):
    monkeypatch.setattr("actlib.harness.local_tasks.find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'not installed: pip install "actlib\[harness\]"'):
        judge(model, tokenizer)


def test_the_harness_is_imported_inside_functions_alone():
    folder = Path(judging.__file__).parent
    for path in [*folder.glob("*.py"), Path(cli.__file__)]:
        on_top = [node for node in ast.parse(path.read_text()).body if "names" in node._fields]
        named = [getattr(n, "module", None) or a.name for n in on_top for a in n.names]
        assert not [name for name in named if name.startswith("lm_eval")], path.name


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"backend": "tpu"}, "backend must be one of hf, vllm, got 'tpu'"),
        ({"tokenizer": None}, "needs its tokenizer"),
        ({"limit": 0}, "limit must be a whole number of at least 1, got 0"),
        ({"seeds": [1]}, "seeds must be four"),
        ({"tasks": []}, "at least one task"),
        ({"data": "absent"}, "found none; name the folder"),
    ],
)
def test_settings_that_cannot_be_are_refused(model, tokenizer, data, changes, named):
    given = {"tokenizer": tokenizer, "tasks": "mgsm_local_fr", "data": data} | changes
    with pytest.raises(ValueError, match=named):
        judge(model, **given)


def test_samples_are_all_there_or_nothing(tmp_path, model, tokenizer, data, monkeypatch):
    (tmp_path / "kept").touch()
    with pytest.raises(ValueError, match="exists and is not empty"):
        judge(model, tokenizer, "mgsm_local_fr", data=data, samples=tmp_path)
    item = {"doc_id": 0, "doc": {}, "filter": "none", "target": "", "metrics": []}
    item |= {"arguments": [("asked", {})], "resps": [["said"]], "filtered_resps": ["said"]}
    broken = item | {"target": object()}
    with pytest.raises(TypeError):
        samples.write_samples({"good": [item], "broken": [broken]}, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    samples.write_samples({"good": [item]}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.jsonl"]


@pytest.mark.filterwarnings("ignore:.*no right choice")
def test_a_transferred_model_is_judged_and_nothing_of_it_stays(model, build, tokenizer, data):
    donor, target = build(1), model
    modules = channel_modules(target).items()
    mask = ChannelMask({name: torch.ones(each.channels, dtype=bool) for name, each in modules})

    def ask(each):
        return judge(each, tokenizer, "act_fr_maths_answer", data=data, limit=3)["value"].to_list()

    target.train()
    tokenizer.pad_token = None
    state = random.getstate(), torch.get_rng_state(), np.random.get_state()[1]
    try:
        before = ask(target)
        with transferred(target, donor, mask, scale=1.0):
            inside = ask(target)
        assert inside == pytest.approx(ask(donor), abs=1e-5) and inside != before
        assert ask(target) == before
        assert target.training and tokenizer.pad_token is None
        assert random.getstate() == state[0] and torch.equal(torch.get_rng_state(), state[1])
        assert np.array_equal(np.random.get_state()[1], state[2])
    finally:
        target.eval()
        tokenizer.pad_token = tokenizer.eos_token


@pytest.mark.parametrize("kind", ["mgsm", "exams"])
def test_the_real_files_give_tasks_of_every_language(kind, tmp_path):
    folder = BENCHMARKS / kind
    if not folder.is_dir():
        pytest.skip(f"no {kind} files beside the project")
    languages = {"mgsm": 11, "exams": 14}[kind]
    written = write_tasks(folder, tmp_path)
    assert len(written) == languages
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    assert set(written) <= set(manager.all_tasks)
    with pytest.warns(UserWarning) if kind == "exams" else nullcontext():
        loaded = manager.load(written)["tasks"]
    items = sum(len(task.eval_docs) for task in loaded.values())
    assert items == {"mgsm": 2750, "exams": 5137}[kind]


def test_the_command_line_lists_and_judges(model, tokenizer, data, tmp_path, capsys):
    def given(*words):
        return cli.main(["eval", *map(str, words)])

    assert given("--list", "--data", *data) == 0
    assert capsys.readouterr().out.split() == list(local_tasks(data))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    words = ("--tasks", "act_fr_maths_answer", "--data", data[0], "--limit", 2)
    assert given(tmp_path / "model", *words, "--out", tmp_path / "scores.json") == 0
    rows = json.loads((tmp_path / "scores.json").read_text())
    assert {row["metric"] for row in rows} == {"nll_per_byte", "exact"}
