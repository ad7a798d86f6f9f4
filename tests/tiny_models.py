"""Tiny random models of many families, each with what makes its family special."""

from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import torch
import transformers
from slow_reference import hook_count
from torch import nn

from actlib.channels import channel_modules, unwrapped
from actlib.masks import ChannelMask

VOCAB = 61
ARCHITECTURES = ("qwen2", "llama", "llama_tied", "gpt2", "gpt_neox")
"""Five that differ most, for tests of a single module."""
EVERY_ARCHITECTURE = (
    *ARCHITECTURES,
    "qwen3",
    "gemma3",
    "phi3",
    "mixtral",
    "qwen2_moe",
    "qwen3_moe",
    "gpt_oss",
    "llama4",
    "qwen3_next",
)
"""Experts of gpt_oss and llama4 have other layouts, which belong to no channel; the last has norms
of linear attention, [batch x seq x heads, channels]."""

_COMMON = {"vocab_size": VOCAB, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MODERN = _COMMON | {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = MODERN | {"num_key_value_heads": 2}
_TIED = _GROUPED | {"tie_word_embeddings": True}
_UNTIED = _GROUPED | {"tie_word_embeddings": False}
# The width of an expert is a multiple of 8 for the kernel of torch that multiplies them in groups.
_EXPERTS = _UNTIED | {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
_LOCAL_EXPERTS = _UNTIED | {"num_experts_per_tok": 2, "num_local_experts": 4}
# Items of the tests have up to 9 tokens, so that a window of 4 hides some from others.
_WINDOW = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
_LINEAR = {
    "head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 6,
    "linear_conv_kernel_dim": 3,
}
_SETTINGS = {
    "qwen2": _TIED,
    "llama": _UNTIED,
    "llama_tied": _TIED,
    "gpt2": _COMMON | {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": MODERN | {"tie_word_embeddings": False},
    "qwen3": _TIED | {"head_dim": 6},
    "gemma3": _GROUPED | _WINDOW | {"head_dim": 6, "query_pre_attn_scalar": 6},
    "phi": _UNTIED | {"qk_layernorm": True, "partial_rotary_factor": 2 / 3},
    "phi3": _UNTIED,
    "mixtral": _LOCAL_EXPERTS,
    "qwen2_moe": _EXPERTS | {"num_experts": 4, "shared_expert_intermediate_size": 10},
    # Its first layer has no experts.
    "qwen3_moe": _EXPERTS
    | {"num_experts": 5, "head_dim": 6, "mlp_only_layers": [0], "norm_topk_prob": True},
    "gpt_oss": _LOCAL_EXPERTS | _WINDOW | {"head_dim": 4},
    "llama4": _LOCAL_EXPERTS
    | {"num_experts_per_tok": 1, "head_dim": 4, "intermediate_size_mlp": 20}
    | {"attention_chunk_size": 16, "interleave_moe_layer_step": 2},
    "qwen3_next": _EXPERTS | _LINEAR | {"num_experts": 4, "shared_expert_intermediate_size": 8},
}
_TYPES = {"llama_tied": "llama", "gemma3": "gemma3_text", "llama4": "llama4_text"}


def _config(architecture: str) -> transformers.PretrainedConfig:
    kind = _TYPES.get(architecture, architecture)
    return transformers.AutoConfig.for_model(kind, **_SETTINGS[architecture])


@cache
def tiny_model(architecture: str, seed: int) -> transformers.PreTrainedModel:
    """The same model for the same seed; copy it before you change it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(_config(architecture)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        # Fresh norms are all ones and biases all zeros, which would hide mistakes.
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


class Loop(nn.Module):
    """A model that runs its layer several times, writes over its output, and has one idle layer."""

    def __init__(self, times=2, scale=1.0):
        super().__init__()
        self.embed, self.layer, self.idle = nn.Embedding(61, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.times, self.scale = times, scale

    def forward(self, input_ids, attention_mask):
        hidden = self.embed(input_ids)
        for _ in range(self.times):
            hidden = self.layer(hidden.clone())
            hidden.mul_(self.scale)
        return hidden


def random_items(*lengths):
    """Unpadded items (token ids, answer flags) of as many tokens and answer tokens."""
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randint(3, VOCAB, (size,), generator=generator), torch.arange(size) >= size - answer)
        for size, answer in lengths
    ]


def random_mask(model, share=0.3, seed=5, only=None):
    """A share of the channels of each module, or of some modules only."""
    generator = torch.Generator().manual_seed(seed)
    channels = {
        name: torch.rand(each.channels, generator=generator) < share
        for name, each in channel_modules(model).items()
    }
    for name in channels if only is not None else ():
        channels[name] &= name in only
    return ChannelMask(channels)


def collate(items, size=3, side="left"):
    """Batches of unpadded items (token ids, answer flags), padded on one side."""
    batches = []
    for start in range(0, len(items), size):
        chosen = items[start : start + size]
        longest = max(len(ids) for ids, _ in chosen)
        columns = {"input_ids": [], "attention_mask": [], "answer_mask": [], "position_ids": []}
        for ids, answer in chosen:
            pad = longest - len(ids)
            around = (pad, 0) if side == "left" else (0, pad)
            fill = torch.nn.functional.pad
            columns["input_ids"].append(fill(ids, around, value=2))
            columns["attention_mask"].append(fill(torch.ones_like(ids), around))
            columns["answer_mask"].append(fill(answer, around))
            columns["position_ids"].append(fill(torch.arange(len(ids)), around))
        batches.append({key: torch.stack(values) for key, values in columns.items()})
    return batches


def tokenizer(vocabulary="ab", added=(), template=None, **special):
    """What is asked of a tokenizer where two are compared."""
    return SimpleNamespace(
        get_vocab=lambda: {token: index for index, token in enumerate(vocabulary)},
        special_tokens_map=special,
        added_tokens_decoder={index: vocabulary[index] for index in added},
        chat_template=template,
    )


def state_of(model):
    """Copies of a model's numbers by name, of the model within a wrapper."""
    return {name: tensor.clone() for name, tensor in unwrapped(model).state_dict().items()}


def same_bits(ours, theirs):
    """Whether two mappings hold the same names and numbers."""
    return ours.keys() == theirs.keys() and all(map(torch.equal, ours.values(), theirs.values()))


@contextmanager
def unchanged(*models):
    """Fails where anything of the models is another after the block."""
    before = [(traces(model), state_of(model)) for model in models]
    yield
    for model, (kept, numbers) in zip(models, before, strict=True):
        assert traces(model) == kept and same_bits(state_of(model), numbers)


def traces(model):
    """What could be left on a model beside its numbers, such as attributes, gradients and hooks."""
    parameters = list(model.named_parameters(remove_duplicate=False))
    return (
        [(name, id(m), m.training, sorted(vars(m))) for name, m in model.named_modules()],
        [(name, id(p), p.requires_grad) for name, p in parameters],
        [p.grad is None or p.grad.sum().item() for _, p in parameters],
        [p._post_accumulate_grad_hooks for _, p in parameters],
        (hook_count(model), torch.is_grad_enabled()),
    )


def contents(folder):
    """Bytes of all files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
