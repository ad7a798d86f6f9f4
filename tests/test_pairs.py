import time
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import nn

from actlib.pairing.pairs import check_pair, require_pair


def tokenizer(vocabulary=("a", "b"), **special):
    return SimpleNamespace(
        get_vocab=lambda: {token: index for index, token in enumerate(vocabulary)},
        special_tokens_map=special,
    )


def test_models_that_differ_only_in_weights_fit(pair, architecture):
    assert check_pair(*pair(architecture)) == []


def test_other_architecture_is_named(family):
    assert any("architecture" in each for each in check_pair(family("llama"), family("gpt2")))


def test_each_wrong_shape_is_named(family):
    donor, target = family("qwen2"), family("qwen2")
    target.model.layers[1].mlp.up_proj = nn.Linear(16, 30, bias=False)
    target.model.norm.weight = nn.Parameter(target.model.norm.weight[:8])
    mismatches = check_pair(donor, target)
    assert len(mismatches) == 2
    assert any("layers.1.mlp.up_proj.weight 24 x 16 against 30 x 16" in m for m in mismatches)
    assert any("model.norm.weight 16 against 8" in each for each in mismatches)


def test_missing_bias_and_missing_module_are_named(family):
    donor, target = family("qwen2"), family("qwen2")
    target.model.layers[0].self_attn.q_proj.bias = None
    del donor.model.layers[1].mlp.down_proj
    mismatches = "; ".join(check_pair(donor, target))
    assert "q_proj.bias 16 against absent" in mismatches
    assert "layers.1.mlp.down_proj only in the target" in mismatches


@pytest.mark.parametrize("shape", [(3, 4), None])
def test_parameter_of_no_channel_is_compared_too(family, shape):
    donor, target = family("qwen2"), family("qwen2")
    donor.model.layers[1].experts = nn.Module()
    donor.model.layers[1].experts.packed = nn.Parameter(torch.zeros(2, 4))
    if shape:
        target.model.layers[1].experts = nn.Module()
        target.model.layers[1].experts.packed = nn.Parameter(torch.zeros(shape))
    told = "3 x 4" if shape else "absent"
    assert check_pair(donor, target) == [
        f"model.layers.1.experts.packed 2 x 4 against {told}",
    ]


def test_vocabulary_size_is_named(family):
    donor, target = family("llama"), family("llama")
    donor.resize_token_embeddings(70)
    assert any("vocab_size 70 against 61" in each for each in check_pair(donor, target))


def test_tied_against_untied_is_named(family):
    assert any("tied" in each for each in check_pair(family("llama"), family("llama_tied")))


def test_same_shapes_with_other_heads_are_named(family):
    config = transformers.LlamaConfig(**family("llama").config.to_diff_dict())
    config.num_attention_heads, config.head_dim = 8, 4
    config.num_key_value_heads = 2
    mismatches = check_pair(family("llama"), transformers.LlamaForCausalLM(config))
    assert any("num_attention_heads 4 against 8" in each for each in mismatches)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (tokenizer("abc"), "2 against 3 tokens"),
        (tokenizer("ba"), "2 tokens under other ids"),
        (tokenizer(eos_token="b"), "eos_token None against b"),
    ],
)
def test_tokenizers_are_compared(family, other, expected):
    mismatches = check_pair(family(), family(), tokenizer(), other)
    assert len(mismatches) == 1
    assert expected in mismatches[0]


def test_padding_token_may_differ(family):
    assert check_pair(family(), family(), tokenizer(), tokenizer(pad_token="b")) == []


def test_refusal_names_five_mismatches_and_counts_the_rest(family):
    mismatches = check_pair(family("llama"), family("gpt2"))
    with pytest.raises(ValueError, match=f"and {len(mismatches) - 5} more") as refusal:
        require_pair(family("llama"), family("gpt2"))
    assert all(each in str(refusal.value) for each in mismatches[:5])
    assert mismatches[5] not in str(refusal.value)


@pytest.mark.parametrize(
    ("architecture", "setting", "value"),
    [
        ("gpt2", "activation_function", "relu"),
        ("gemma2", "hidden_activation", "silu"),
        ("gemma3", "query_pre_attn_scalar", 8),
        ("qwen3", "head_dim", 3),
        ("mixtral", "num_experts_per_tok", 3),
    ],
)
def test_a_setting_that_leaves_shapes_alone_is_named(family, architecture, setting, value):
    donor, target = family(architecture), family(architecture)
    setattr(donor.config, setting, value)
    (mismatch,) = check_pair(donor, target)
    assert f"{value} against {getattr(target.config, setting)}" in mismatch


@pytest.mark.parametrize(
    ("architecture", "setting", "value"),
    [
        ("llama", "rope_parameters", {"rope_type": "default", "rope_theta": 1e6}),
        ("mistral", "sliding_window", None),
        ("llama", "rms_norm_eps", 1e-3),
        ("gpt2", "layer_norm_epsilon", 1e-3),
    ],
)
def test_settings_in_which_working_pairs_differ_are_left_to_the_report(
    family, architecture, setting, value
):
    donor = family(architecture)
    setattr(donor.config, setting, value)
    assert check_pair(donor, family(architecture)) == []


def test_other_experts_are_named_once_by_their_parameter(family):
    donor, target = family("mixtral"), family("mixtral")
    experts = donor.model.layers[0].mlp.experts
    experts.down_proj = nn.Parameter(torch.zeros(3, 16, 24))
    name = "model.layers.0.mlp.experts.down_proj"
    assert check_pair(donor, target) == [f"{name} 3 x 16 x 24 against 4 x 16 x 24"]
    del experts.down_proj
    assert set(check_pair(donor, target)) == {
        "module model.layers.0.mlp.experts.gate_up_proj only in the target",
        f"module {name} only in the target",
    }


def test_a_thousand_modules_are_checked_at_once():
    modules = [
        nn.ModuleList([nn.Linear(2, 2, device="meta") for _ in range(1000)]) for _ in range(2)
    ]
    start = time.perf_counter()
    assert check_pair(*modules) == []
    # A few hundredths of a second; more than linear growth would take many times that.
    assert time.perf_counter() - start < 1
