"""Which models fit, and in what words the others are refused."""

import copy
import re

import pytest
import torch
import transformers
from tiny_models import _GROUPED, _WINDOW, random_mask, tokenizer, unchanged
from torch import nn
from torch.nn.utils import parametrizations

from actlib import make_patch, merge, transfer_
from actlib.pairs import check_pair, require_pair
from actlib.vocabulary import fit_vocabulary_


def narrow_layer(model):
    model.model.layers[1].mlp.up_proj = nn.Linear(16, 30, bias=False)


def add_parameter(model):
    model.model.layers[1].packed = nn.Parameter(torch.zeros(2, 4))


def add_row(model):
    model.resize_token_embeddings(62)


def quantize_by_torch(model):
    torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, inplace=True)


def quantize_elsewhere(model):
    model.is_quantized, model.quantization_method = True, "mxfp4"


def normalize(model):
    parametrizations.weight_norm(model.model.layers[1].mlp.up_proj)


REFUSALS = [
    (narrow_layer, "layers.1.mlp.up_proj.weight 30 x 16 against 24 x 16"),
    (add_parameter, "model.layers.1.packed 2 x 4 against absent"),
    (add_row, "vocabulary of 62 against 61 rows; if one tokenizer only .*fit_vocabulary_"),
    (quantize_by_torch, "self_attn.q_proj.* holds packed integers .* without quantization"),
    (quantize_elsewhere, "the model is quantized .mxfp4.; .* without quantization"),
    (normalize, "layers.1.mlp.up_proj has a weight that is computed .* make it permanent"),
]


@pytest.mark.filterwarnings("ignore:torch.ao")
@pytest.mark.parametrize(("change", "words"), REFUSALS)
def test_every_reason_is_named_by_all_that_moves(family, change, words, tmp_path):
    donor, target = family("qwen2"), family("qwen2")
    mask = random_mask(target, share=1)
    change(donor)
    mismatches = check_pair(donor, target)
    assert len(mismatches) == 1
    for refuse in (
        lambda: require_pair(donor, target),
        lambda: transfer_(target, donor, mask),
        lambda: merge(target, [(donor, mask, 0.4)]),
        lambda: make_patch(target, donor, mask, tmp_path / "patch"),
    ):
        with unchanged(target), pytest.raises(ValueError, match=f"do not fit: .*{words}"):
            refuse()
    assert not (tmp_path / "patch").exists()


def test_other_architecture_and_other_ties_are_named(family):
    assert "architecture Llama" in check_pair(family("llama"), family("gpt2"))[0]
    assert any("tied" in each for each in check_pair(family("llama"), family("llama_tied")))


@pytest.mark.parametrize(
    ("architecture", "setting", "value", "named"),
    [
        ("gpt2", "n_head", 2, "num_attention_heads 2 against 4"),
        ("llama", "rope_parameters", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ("mixtral", "num_experts_per_tok", 3, "num_experts_per_tok 3 against 2"),
    ],
)
def test_a_setting_that_leaves_shapes_alone_is_named(family, architecture, setting, value, named):
    donor, target = family(architecture), family(architecture)
    setattr(donor.config, setting, value)
    assert any(named in each for each in check_pair(donor, target))


def test_settings_that_a_configuration_has_by_layer_are_compared_layer_by_layer():
    def gemma(**settings):
        both = {"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 61, "head_dim": 4}
        config = transformers.Gemma4TextConfig(**_GROUPED, **_WINDOW, **both, **settings)
        return transformers.AutoModelForCausalLM.from_config(config)

    assert check_pair(gemma(global_head_dim=8), gemma(global_head_dim=8)) == []
    mismatches = check_pair(gemma(global_head_dim=8), gemma(global_head_dim=4))
    assert any("head_dim of layer 1 8 against 4" in each for each in mismatches)


@pytest.mark.parametrize(
    ("architecture", "setting", "value", "warning"),
    [
        ("llama", "rope_parameters", {"rope_type": "default", "rope_theta": 1e6}, "theta 1000000"),
        ("qwen2", "head_dim", 4, ""),  # as computed where it is left out
        ("llama", "output_hidden_states", True, ""),
    ],
)
def test_settings_in_which_working_pairs_differ_are_warned_of(
    family, architecture, setting, value, warning, recwarn
):
    donor, target = family(architecture), family(architecture)
    setattr(donor.config, setting, value)
    assert check_pair(donor, target) == []
    require_pair(nn.DataParallel(donor), nn.DataParallel(target))
    told = [str(each.message) for each in recwarn if each.category is UserWarning]
    assert len(told) == bool(warning) and all(warning in each for each in told), told


@pytest.mark.parametrize(("words", "count"), [("ba", 2), ("ac", 1)])
def test_other_tokens_are_a_mismatch(family, words, count):
    (mismatch,) = check_pair(family(), family(), tokenizer(), tokenizer(words))
    assert f"{count} tokens under other ids" in mismatch


@pytest.mark.parametrize(
    ("other", "warning"),
    [
        (tokenizer(pad_token="b"), ""),
        (tokenizer(eos_token="b"), "eos_token None against b"),
        (tokenizer(["a", "b", "[PAD]"]), r"of 2 against 3 tokens.*\[PAD\]"),
        (tokenizer(["a", "<turn>"], added=[1]), "1 added tokens have other names, such as b"),
    ],
)
def test_tokenizers_that_differ_in_a_little_are_warned_of(family, other, warning, recwarn):
    assert check_pair(family(), family(), tokenizer(), other) == []
    assert check_pair(family(), family(), other, tokenizer()) == []
    require_pair(family(), family(), tokenizer(), other)
    messages = [str(each.message) for each in recwarn if each.category is UserWarning]
    assert len(messages) == bool(warning) and all(re.search(warning, each) for each in messages)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])  # with a head of its own, and tied
@pytest.mark.parametrize("rows", [59, 61, 63])
def test_a_donor_is_fitted_to_the_rows_of_tokens_that_both_have(family, architecture, rows):
    donor, target, words = (
        family(architecture, 1),
        family(architecture, 0),
        tokenizer("ax", added=[1]),
    )
    donor.resize_token_embeddings(rows)
    donor.config.tie_word_embeddings = target.config.tie_word_embeddings = True  # though one is not
    assert check_pair(donor, target, words, tokenizer("abc")) == []
    before, shared = copy.deepcopy(donor), min(rows, 61)
    fit_vocabulary_(donor, target, words, tokenizer("abc"))
    assert check_pair(donor, target) == []
    assert donor.config.vocab_size == 61
    for end in ("get_input_embeddings", "get_output_embeddings"):
        fitted, own, old = (getattr(model, end)().weight for model in (donor, target, before))
        expected = torch.cat([old[:shared], own[shared:]])
        expected[1:3] = own[1:3]  # one that has another name, and one of the target alone
        assert torch.equal(fitted, expected)


def test_a_donor_of_other_tokens_is_not_fitted(family):
    with pytest.raises(ValueError, match="do not correspond: .* 2 tokens under other ids"):
        fit_vocabulary_(family(), family(), tokenizer("ab"), tokenizer("ba"))
