"""Random models and batches of given shapes; only shapes count for time and memory."""

import copy
import inspect

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

Batches = list[dict[str, torch.Tensor]]
Pair = tuple[PreTrainedModel, PreTrainedModel]


def smollm() -> LlamaConfig:
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


def llama(layers: int = 2, width: int = 64, vocabulary: int = 128) -> LlamaConfig:
    """A Llama of heads of 64 channels, its MLP 2.75 times as wide; tiny by default."""
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=width * 11 // 4,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
        tie_word_embeddings=False,
    )


def random_pair(config: PretrainedConfig, dtype: torch.dtype, device: str = "cpu") -> Pair:
    """Donor and target of random weights, which differ in every parameter by 5 %."""
    torch.manual_seed(0)
    with torch.device(device):
        donor = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    target = copy.deepcopy(donor)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.05)
    return donor, target


def random_batches(
    vocabulary: int, batches: int = 2, items: int = 16, tokens: int = 52, answer: int = 16
) -> Batches:
    """Left-padded batches whose items end in their answers; every other item is a quarter shorter.

    The defaults are as the study records: 32 questions of about 50 tokens, 16 of them answer.
    """
    generator = torch.Generator().manual_seed(0)
    padding = torch.arange(items) % 2 * (tokens // 4)
    position = torch.arange(tokens).expand(items, tokens)
    shape = (items, tokens)
    return [
        {
            "input_ids": torch.randint(3, vocabulary, shape, generator=generator),
            "attention_mask": (position >= padding[:, None]).long(),
            "answer_mask": (position >= tokens - answer).long(),
        }
        for _ in range(batches)
    ]


def run_bare(pair: Pair, batches: Batches) -> None:
    """Each batch through the donor, then through the target; logits at answer tokens only."""
    accepts = inspect.signature(pair[0].forward).parameters
    with torch.no_grad():
        for batch in batches:
            inputs = {key: batch[key].to(pair[0].device) for key in ("input_ids", "attention_mask")}
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            optional = {"use_cache": False, "logits_to_keep": int(batch["answer_mask"][0].sum())}
            inputs |= {key: value for key, value in optional.items() if key in accepts}
            for model in pair:
                model(**inputs)
