"""What jobs ask of a cluster: no GPU unless told, more for bigger models; a preset's word first."""

import pytest
from small_study import write_pair, write_preset

from actlib.study.job_needs import MINUTES, brought, job_cores, job_needs
from actlib.study.presets import SHIPPED, load_preset


@pytest.fixture
def own(tmp_path, small_preset):
    """`own(**jobs)`: preset of a pair in two folders, with that section ``jobs``."""
    write_pair(tmp_path, "llama", small_preset)
    roles = {"donor": "donor", "target": "target", "base": "donor"}
    models = {role: {"load": str(tmp_path / role)} for role in ("donor", "target")}
    data = load_preset(small_preset).data.path

    def make(**jobs):
        changes = {"models": models, "roles": {**roles, "specialists": ["donor", "target"]}}
        changes |= {"sweep": None, "jobs": jobs}
        return load_preset(write_preset(tmp_path / "own.yaml", data, **changes))

    return make


@pytest.mark.parametrize("kind", MINUTES)
@pytest.mark.parametrize("name", ["smol", "tiny"])
def test_what_runs_without_a_gpu_asks_for_none(name, kind):
    needs = job_needs(load_preset(name), kind)
    assert set(needs) == {"mem_mb", "runtime"}
    assert job_cores(load_preset(name)) == 1


@pytest.mark.parametrize("name", ["qwen2.5-7b", "llama-2-7b"])
def test_shipped_presets_of_7b_ask_for_a_gpu_and_more_of_the_rest(name):
    large, small = (job_needs(load_preset(each), "notebook") for each in (name, "smol"))
    assert large["gpu"] == 1
    # Both models in bfloat16 are 2 bytes for each of 14 billion parameters.
    assert large["mem_mb"] * 2**20 > 2 * 14e9 and large["runtime"] > small["runtime"]


def test_every_shipped_preset_of_hub_models_says_what_it_needs():
    for name in SHIPPED:
        preset = load_preset(name)
        assert not brought(preset) or preset.jobs.memory_gb


def test_memory_grows_with_the_files_of_the_models(own, tmp_path):
    before = {kind: job_needs(own(), kind)["mem_mb"] for kind in MINUTES}
    (tmp_path / "target" / "model.safetensors").write_bytes(b"0" * 2**24)  # 16 MiB
    after = {kind: job_needs(own(), kind)["mem_mb"] for kind in MINUTES}
    grown = {kind: after[kind] - before[kind] for kind in MINUTES}
    assert 28 <= grown["record"] == grown["notebook"] <= 32
    assert grown["tuning"] == grown["sweep"] >= grown["record"] + 8 * 14


def test_a_preset_and_a_person_say_it_otherwise(own):
    preset = own(memory_gb=1.5, hours=0.5, cores=3, gpus=2)
    assert job_needs(preset, "tuning") == {"mem_mb": 1536, "runtime": 30, "gpu": 2}
    assert job_needs(preset, "record", gpus=0) == {"mem_mb": 1536, "runtime": 30}
    assert job_needs(preset, "record", gpus=0, gpu_model="a100").keys() == {"mem_mb", "runtime"}
    assert job_needs(preset, "record", gpu_model="a100")["gpu_model"] == "a100"
    assert job_cores(preset) == 3 and job_cores(own()) > 1


@pytest.mark.parametrize(
    ("kind", "gpus", "told"), [("cook", None, "got 'cook'"), ("sweep", -1, "-1")]
)
def test_a_wrong_word_is_refused(kind, gpus, told):
    with pytest.raises(ValueError, match=told):
        job_needs(load_preset("smol"), kind, gpus)


@pytest.mark.parametrize("wrong", [{"gpus": -1}, {"memory_gb": 0}, {"memory": 4}])
def test_a_wrong_section_is_refused_by_its_key(own, wrong):
    with pytest.raises(ValueError, match=f"jobs.{next(iter(wrong))}"):
        own(**wrong)
