from types import SimpleNamespace

import pytest
import transformers
from torch import nn

from actlib.pairing.settings import doubtful_of, settings_of, text_config


def having(**settings):
    model = nn.Module()
    model.config = SimpleNamespace(**settings)
    return model


def changed(family, architecture, **settings):
    """A model of the family whose configuration says something else; its weights stay."""
    model = family(architecture)
    for name, value in settings.items():
        assert hasattr(model.config, name), name
        setattr(model.config, name, value)
    return model


@pytest.mark.parametrize(
    ("architecture", "setting", "value", "name"),
    [
        ("llama", "num_attention_heads", 8, "num_attention_heads"),
        ("llama", "num_key_value_heads", 4, "num_key_value_heads"),
        ("llama", "hidden_act", "gelu", "hidden_act"),
        ("gpt2", "activation_function", "relu", "hidden_act"),
        ("gpt2", "n_head", 2, "num_attention_heads"),
        ("gpt2", "scale_attn_weights", False, "scale_attn_weights"),
        ("gemma2", "hidden_activation", "silu", "hidden_act"),
        ("gemma3", "hidden_activation", "silu", "hidden_act"),
        ("gemma2", "query_pre_attn_scalar", 256, "query_pre_attn_scalar"),
        ("gemma2", "attn_logit_softcapping", 20.0, "attn_logit_softcapping"),
        ("gemma2", "final_logit_softcapping", None, "final_logit_softcapping"),
        ("qwen3", "head_dim", 8, "head_dim"),
        ("gpt_neox", "use_parallel_residual", False, "use_parallel_residual"),
        ("mixtral", "num_experts_per_tok", 1, "num_experts_per_tok"),
        ("qwen3_moe", "norm_topk_prob", False, "norm_topk_prob"),
    ],
)
def test_a_setting_that_changes_what_channels_mean_is_told(
    family, architecture, setting, value, name
):
    before = settings_of(family(architecture))
    after = settings_of(changed(family, architecture, **{setting: value}))
    assert name in {
        key for key in before.keys() | after.keys() if before.get(key) != after.get(key)
    }


def test_models_of_one_configuration_agree(pair, any_architecture):
    ours, theirs = pair(any_architecture)
    assert settings_of(ours) == settings_of(theirs)
    assert doubtful_of(ours) == doubtful_of(theirs)
    assert {"model_type", "vocab_size", "num_attention_heads", "head_dim", "hidden_act"} <= set(
        settings_of(ours)
    )
    assert doubtful_of(ours)["norm epsilon"] is not None


def test_a_size_of_heads_that_is_left_out_is_computed():
    common = {"num_attention_heads": 4, "hidden_size": 32}
    assert settings_of(having(**common)) == settings_of(having(**common, head_dim=8))
    assert settings_of(having(**common, head_dim=16))["head_dim"] == 16


def test_key_heads_that_are_left_out_are_as_many_as_heads():
    assert settings_of(having(num_attention_heads=4))["num_key_value_heads"] == 4


def test_turning_a_part_of_each_head_is_a_setting():
    older, newer = (
        having(rotary_pct=0.25),
        having(rope_parameters={"rope_theta": 1e4, "partial_rotary_factor": 0.25}),
    )
    assert settings_of(older)["partial_rotary_factor"] == 0.25
    assert settings_of(newer)["partial_rotary_factor"] == 0.25
    whole = having(rope_parameters={"rope_theta": 1e4})
    assert settings_of(whole)["partial_rotary_factor"] == 1.0


def test_settings_of_a_model_of_text_and_images_are_those_of_its_text():
    text = {"vocab_size": 61, "num_attention_heads": 4, "head_dim": 6, "sliding_window": 4}
    nested = nn.Module()
    nested.config = transformers.Gemma3Config(text_config=text)
    assert text_config(nested) is nested.config.text_config
    found = settings_of(nested)
    assert (found["model_type"], found["vocab_size"], found["head_dim"]) == ("gemma3", 61, 6)
    assert doubtful_of(nested)["sliding window"].startswith("4 tokens")


def test_a_model_without_a_configuration_has_no_settings():
    assert settings_of(nn.Linear(2, 2)) == {}
    assert set(doubtful_of(nn.Linear(2, 2)).values()) == {None}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"rope_theta": 1e6}, "1e+06"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "10000"),
        (
            {"rope_parameters": {"full": {"rope_theta": 1e6}, "a": {"rope_theta": 1e4}}},
            "1e+06, 10000",
        ),
        ({}, None),
    ],
)
def test_rotary_bases(settings, expected):
    assert doubtful_of(having(**settings))["rotary base"] == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"sliding_window": 9}, "9 tokens"),
        ({"sliding_window": 9, "use_sliding_window": False}, None),
        ({"sliding_window": None}, None),
        ({"sliding_window": 9, "layer_types": ["full_attention"]}, None),
        (
            {"sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"]},
            "9 tokens in 1 of 2 layers",
        ),
    ],
)
def test_windows(settings, expected):
    assert doubtful_of(having(**settings))["sliding window"] == expected


@pytest.mark.parametrize("name", ["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"])
def test_epsilons(name):
    assert doubtful_of(having(**{name: 1e-5}))["norm epsilon"] == "1e-05"
