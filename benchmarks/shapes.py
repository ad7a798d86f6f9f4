"""Random models and batches of given shapes; only shapes count for time and memory."""

import copy

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from actlib.channels import channel_modules

Batches = list[dict[str, torch.Tensor]]
ANSWER = 16
"""Answer tokens of each item of `study_batches`."""


def smol() -> LlamaConfig:
    """SmolLM2-135M."""
    return LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )


def qwen_7b() -> Qwen2Config:
    """Qwen2.5-7B."""
    return Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        tie_word_embeddings=False,
    )


def llama(layers: int, width: int, vocabulary: int = 32000) -> LlamaConfig:
    """A Llama of heads of 64 channels; the MLP is 2.75 times as wide."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
        tie_word_embeddings=False,
    )


def tiny() -> LlamaConfig:
    """What tries the scripts."""
    return llama(layers=2, width=64, vocabulary=128)


def random_pair(
    config: PretrainedConfig, dtype: torch.dtype, device: str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Donor and target of random weights, which differ in every parameter."""
    torch.manual_seed(0)
    with torch.device(device):
        donor = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    target = copy.deepcopy(donor)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.05)
    return donor, target


def random_batches(
    config: PretrainedConfig, batches: int, items: int, tokens: int, answer: int
) -> Batches:
    """Left-padded batches; each item's last tokens are its answer.

    Args:
        config: of the models, for the vocabulary.
        batches: number of batches.
        items: of each batch.
        tokens: of the longest items; every other one is a quarter shorter.
        answer: answer tokens of each item.

    Raises:
        ValueError: the shorter items have no room for their answer.
    """
    if answer > tokens - tokens // 4:
        raise ValueError(f"{answer} answer tokens do not fit into {tokens - tokens // 4} tokens")
    generator = torch.Generator().manual_seed(0)
    short = torch.tensor([(item % 2) * tokens // 4 for item in range(items)])
    place = torch.arange(tokens).expand(items, tokens)
    attention = (place >= short[:, None]).long()
    return [
        {
            "input_ids": torch.randint(3, config.vocab_size, (items, tokens), generator=generator),
            "attention_mask": attention,
            "answer_mask": (place >= tokens - answer).long(),
        }
        for _ in range(batches)
    ]


def study_batches(config: PretrainedConfig, quick: bool = False) -> Batches:
    """As the study's own recordings: 32 questions of about 50 tokens, of which 16 are answer."""
    if quick:
        return random_batches(config, batches=1, items=2, tokens=24, answer=ANSWER)
    return random_batches(config, batches=2, items=16, tokens=52, answer=ANSWER)


def channel_layout(config: PretrainedConfig) -> dict[str, int]:
    """Channels of each module, in module order; no memory is taken for weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: found.channels for name, found in channel_modules(model).items()}
