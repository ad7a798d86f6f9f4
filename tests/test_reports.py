import copy
from types import SimpleNamespace

import pytest
import tokenizers
import torch
import transformers
from torch import nn

import actlib.pairing.reports
from actlib.pairing.pairs import check_pair
from actlib.pairing.report_rows import MISMATCH, OK, WARNING
from actlib.pairing.reports import FAR, pair_report, pair_report_of


def tokenizer(words=("a", "b"), template=None, **special):
    return SimpleNamespace(
        get_vocab=lambda: {word: index for index, word in enumerate(words)},
        special_tokens_map=special,
        chat_template=template,
    )


def saved_tokenizer(folder, words="ab", template=None):
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="a"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend)
    fast.chat_template = template
    fast.save_pretrained(folder)


def report(donor, target, ours=None, theirs=None):
    return pair_report(donor, target, ours or tokenizer(), theirs or tokenizer())


def verdicts(found, verdict):
    return {row.check: row for row in found.rows if row.verdict == verdict}


@pytest.fixture
def tuned(family):
    """`tuned(architecture, size)`: a model, and a copy with each entry changed by size percent."""

    def make(architecture="llama", percent=1.0):
        target = family(architecture)
        donor, generator = copy.deepcopy(target), torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in donor.parameters():
                signs = torch.randint(0, 2, value.shape, generator=generator) * 2 - 1
                value *= 1 + signs * percent / 100
        return donor, target

    return make


def test_identical_models_are_warned_of(family, architecture):
    found = report(family(architecture), family(architecture))
    assert found.fits
    (row,) = verdicts(found, WARNING).values()
    assert row.check == "parameter change" and "identical" in row.note


def test_a_fine_tuned_pair_is_fine(tuned, architecture):
    found = report(*tuned(architecture))
    assert {row.verdict for row in found.rows} == {OK}
    assert found.changes["relative_norm"].to_numpy() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("percent", "warned"), [(99 * FAR, False), (101 * FAR, True)])
def test_a_pair_too_far_apart_is_warned_of(tuned, percent, warned):
    found = report(*tuned(percent=percent))
    assert found.fits
    assert ("parameter change" in verdicts(found, WARNING)) == warned


def test_unrelated_models_are_far_apart(pair, architecture):
    found = report(*pair(architecture))
    assert "far apart" in verdicts(found, WARNING)["parameter change"].note


def test_other_families_are_told_in_every_row_that_differs(family):
    found = report(family("gpt2"), family("gpt_neox"))
    assert {"architecture", "model_type", "parameters", "tied weights"} <= set(
        verdicts(found, MISMATCH)
    )
    assert verdicts(found, OK)["layers"].donor == "2"
    assert found.weights is None and found.changes.empty


def test_tied_against_untied_is_a_mismatch(family):
    found = report(family("llama_tied"), family("llama"))
    row = verdicts(found, MISMATCH)["tied weights"]
    assert (row.donor, row.target) == ("model.embed_tokens = lm_head", "none")


def test_other_vocabulary_is_a_mismatch(family):
    donor = family()
    donor.resize_token_embeddings(70)
    row = verdicts(report(donor, family()), MISMATCH)["vocab_size"]
    assert (row.donor, row.target) == ("70", "61")


def test_other_depth_and_width_are_mismatches(family):
    config = family("llama").config
    config = type(config)(**config.to_diff_dict() | {"num_hidden_layers": 3, "hidden_size": 32})
    found = report(transformers.LlamaForCausalLM(config), family("llama"))
    assert {"layers", "hidden_size", "parameters"} <= set(verdicts(found, MISMATCH))


@pytest.mark.parametrize(
    ("other", "check", "verdict"),
    [
        (tokenizer("abc"), "tokenizer vocabulary", MISMATCH),
        (tokenizer("ba"), "tokenizer vocabulary", MISMATCH),
        (tokenizer(eos_token="b"), "special tokens", MISMATCH),
        (tokenizer(template="{{ m }}"), "chat template", WARNING),
        (tokenizer(template={"default": "{{ m }}"}), "chat template", WARNING),
    ],
)
def test_tokenizers_are_compared(tuned, other, check, verdict):
    found = report(*tuned(), theirs=other)
    (row,) = [row for row in found.rows if row.verdict != OK]
    assert (row.check, row.verdict) == (check, verdict)
    assert row.note


def test_tokenizers_that_were_not_given_are_warned_of(tuned):
    found = pair_report(*tuned())
    assert set(verdicts(found, WARNING)) == {"tokenizers"}


def test_other_dtype_is_a_warning(tuned):
    donor, target = tuned()
    found = report(donor, target.bfloat16())
    row = verdicts(found, WARNING)["dtype"]
    assert (row.donor, row.target) == ("float32", "bfloat16")
    assert "parameter change" not in verdicts(found, WARNING)


def test_a_change_that_may_be_rounding_is_warned_of(family, architecture):
    found = report(family(architecture), family(architecture, dtype=torch.bfloat16))
    assert "rounding" in verdicts(found, WARNING)["parameter change"].note
    assert found.weights.overall > 0


def test_packed_numbers_are_a_mismatch(family):
    donor, target = family("llama"), family("llama")
    head = donor.lm_head
    head.weight = nn.Parameter(head.weight.to(torch.int8), requires_grad=False)
    row = verdicts(report(donor, target), MISMATCH)["dtype"]
    assert "donor's lm_head.weight is int8" in row.note


def test_other_rotary_base_is_a_warning(tuned):
    donor, target = tuned()
    donor.config.rope_parameters = {"rope_type": "default", "rope_theta": 1000000.0}
    row = verdicts(report(donor, target), WARNING)["rotary base"]
    assert (row.donor, row.target) == ("1e+06", "10000")


def test_rotary_bases_by_kind_of_layer_are_compared(tuned):
    donor, target = tuned()
    for model, base in ((donor, 1e4), (target, 2e4)):
        model.config.rope_parameters = {"full": {"rope_theta": 1e6}, "local": {"rope_theta": base}}
    row = verdicts(report(donor, target), WARNING)["rotary base"]
    assert (row.donor, row.target) == ("1e+06, 10000", "1e+06, 20000")


def test_parameters_of_no_channel_are_counted_and_one_is_named(tuned):
    donor, target = tuned()
    for model in (donor, target):
        model.model.layers[1].gates = nn.ParameterList([torch.ones(3), torch.ones(2)])
    row = verdicts(report(donor, target), WARNING)["trainable parameters of no channel"]
    assert (row.donor, row.target) == ("2", "2")
    assert "model.layers.1.gates.0" in row.note


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_a_mismatch(tuned, architecture, value):
    donor, target = tuned(architecture)
    name, broken = list(target.named_parameters())[-1]
    with torch.no_grad():
        broken.view(-1)[0] = value
    found = report(donor, target)
    row = verdicts(found, MISMATCH)["weights"]
    assert f"target's {name}" in row.note
    assert (row.donor, row.target) == ("all finite", "1 not finite")
    assert not found.fits


def test_models_without_numbers_are_compared_in_all_else(family):
    found = report(family("llama").to("meta"), family("llama"))
    assert found.fits and found.weights is None
    assert "meta" in verdicts(found, WARNING)["parameter change"].note


def test_same_mismatches_as_the_quick_check(family):
    names = ("qwen2", "llama", "llama_tied", "gpt2", "gpt_neox")
    for ours in names:
        for theirs in names:
            models = family(ours), family(theirs)
            assert pair_report(*models).fits == (check_pair(*models) == [])


def test_tokens_that_look_like_html_are_escaped(tuned):
    found = report(*tuned(), tokenizer(eos_token="<s>"), tokenizer(eos_token="<b>"))
    assert "<s>" not in found._repr_html_() and "&lt;s&gt;" in found._repr_html_()


@pytest.fixture
def folders(tmp_path):
    """`folders(donor, target, dtype)`: both saved, in shards, with one tokenizer."""

    def make(donor, target):
        places = tmp_path / "donor", tmp_path / "target"
        for place, model in zip(places, (donor, target), strict=True):
            model.save_pretrained(place, max_shard_size="5KB" if model is donor else "1GB")
            saved_tokenizer(place)
        return places

    return make


def test_folders_give_the_report_of_the_models(tuned, folders, architecture):
    models = tuned(architecture)
    found = pair_report_of(*folders(*models))
    expected = report(*models)
    assert {row.verdict for row in found.rows} == {OK}
    assert found.changes.equals(expected.changes)
    assert {row.check for row in expected.rows} <= {row.check for row in found.rows}


def test_folders_as_stored_tell_the_dtype(tuned, folders):
    donor, target = tuned()
    found = pair_report_of(*map(str, folders(donor, target.bfloat16())))
    assert verdicts(found, WARNING)["dtype"].target == "bfloat16"


def test_folders_that_do_not_fit_are_refused_before_a_weight_is_read(family, folders, monkeypatch):
    places = folders(family("llama"), family("llama_tied"))
    for place in places:
        for file in place.glob("*.safetensors*"):
            file.unlink()
    monkeypatch.setattr(actlib.pairing.reports, "stored_weights", None)
    assert "tied weights" in verdicts(pair_report_of(*places), MISMATCH)


def test_folders_with_other_tokenizers_or_templates_are_told(tuned, folders):
    places = folders(*tuned())
    saved_tokenizer(places[0], template="{{ m }}")
    found = pair_report_of(*places)
    assert found.fits and "chat template" in verdicts(found, WARNING)
    saved_tokenizer(places[0], words="ba")
    found = pair_report_of(*places)
    assert "tokenizer vocabulary" in verdicts(found, MISMATCH) and found.weights is None


def test_folders_with_broken_weights_are_told(tuned, folders):
    donor, target = tuned()
    with torch.no_grad():
        donor.lm_head.weight[0, 0] = torch.nan
    note = verdicts(pair_report_of(*folders(donor, target)), MISMATCH)["weights"].note
    assert "donor's lm_head.weight" in note


def test_folder_whose_files_disagree_with_its_configuration_is_a_mismatch(tuned, folders):
    donor, target = tuned()
    places = folders(donor, target)
    target.lm_head = nn.Linear(16, 30, bias=False)
    target.save_pretrained(places[1])
    target.config.save_pretrained(places[1])
    note = verdicts(pair_report_of(*places), MISMATCH)["stored weights"].note
    assert "target's lm_head.weight is 30 x 16 in the files, expected 61 x 16" in note


@pytest.mark.parametrize(
    ("architecture", "setting", "value", "check", "shown"),
    [
        ("mistral", "sliding_window", None, "sliding window", ("-", "4 tokens")),
        ("llama", "rms_norm_eps", 1e-5, "norm epsilon", ("1e-05", "1e-06")),
        ("gpt2", "layer_norm_epsilon", 1e-6, "norm epsilon", ("1e-06", "1e-05")),
    ],
)
def test_settings_in_which_working_pairs_differ_are_warnings(
    tuned, architecture, setting, value, check, shown
):
    donor, target = tuned(architecture)
    setattr(donor.config, setting, value)
    found = report(donor, target)
    assert found.fits
    row = verdicts(found, WARNING)[check]
    assert (row.donor, row.target) == shown and row.note


def test_only_settings_that_a_family_has_are_shown(tuned):
    shown = {name: {row.check for row in report(*tuned(name)).rows} for name in ("gpt2", "mixtral")}
    assert "num_experts_per_tok" in shown["mixtral"] - shown["gpt2"]
    assert "scale_attn_weights" in shown["gpt2"] - shown["mixtral"]
    assert "rotary base" not in shown["gpt2"]


def test_another_activation_is_a_mismatch(tuned):
    donor, target = tuned("gpt2")
    donor.config.activation_function = "relu"
    row = verdicts(report(donor, target), MISMATCH)["hidden_act"]
    assert (row.donor, row.target) == ("relu", "gelu_new")


def test_what_is_too_far_can_be_told(tuned, folders):
    models = tuned(percent=10.0)
    for make, pair in ((pair_report, models), (pair_report_of, folders(*models))):
        near, far = (
            verdicts(make(*pair, far=far), WARNING).get("parameter change") for far in (0.11, 0.09)
        )
        assert near is None
        assert "more than 0.09" in far.note


@pytest.mark.parametrize("far", [0, -1, float("nan")])
def test_a_distance_that_is_none_is_refused(tuned, far):
    for make in (pair_report, pair_report_of):
        with pytest.raises(ValueError, match="far must be above 0"):
            make(*tuned(), far=far)


def test_changes_of_experts_are_told_by_projection(tuned):
    table = report(*tuned("mixtral")).changes.set_index("kind")
    assert {"mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate"} <= set(table.index)
    assert table["relative_norm"].to_numpy() == pytest.approx(0.01, rel=1e-3)
