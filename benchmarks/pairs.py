"""Random models and batches of given shapes; only shapes count for time and memory."""

import copy
import math
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models

Config = transformers.PretrainedConfig
Batches = list[dict[str, torch.Tensor]]
Pair = tuple[transformers.PreTrainedModel, transformers.PreTrainedModel]


def shape(
    family: type, layers: int, width: int, mlp: int, vocabulary: int, heads: int, key_values: int
) -> Config:
    """A config by its sizes; embedding and LM head are untied."""
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": mlp}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": key_values}
    return family(**sizes, vocab_size=vocabulary, tie_word_embeddings=False)


TINY = shape(transformers.LlamaConfig, 2, 64, 176, 128, 1, 1)
SMOLLM_135M = shape(transformers.LlamaConfig, 30, 576, 1536, 49152, 9, 3)
SMOLLM_135M.tie_word_embeddings = True
QWEN_7B = shape(transformers.Qwen2Config, 28, 3584, 18944, 152064, 28, 4)
TWO_GIGABYTES = shape(transformers.LlamaConfig, 17, 2048, 5632, 32000, 32, 32)  # in bfloat16
FOUR_GIGABYTES = shape(transformers.LlamaConfig, 36, 2048, 5632, 32000, 32, 32)


def random_pair(config: Config, dtype: torch.dtype, device: str = "cpu") -> Pair:
    """Donor and target of random weights, which differ in every parameter by 5 %."""
    torch.manual_seed(0)
    with torch.device(device):
        donor = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    target = copy.deepcopy(donor)
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(1.05)
    return donor, target


def random_batches(
    vocabulary: int, batches: int = 2, items: int = 16, tokens: int = 52, answer: int = 16
) -> Batches:
    """Left-padded batches; items end in their answers, and every other is a quarter shorter."""
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
    with torch.no_grad():
        for batch in batches:
            inputs = {key: batch[key].to(pair[0].device) for key in ("input_ids", "attention_mask")}
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            for model in pair:
                model(**inputs, use_cache=False, logits_to_keep=int(batch["answer_mask"][0].sum()))


def write_pair(folder: Path, config: Config, shards: int) -> list[Path]:
    """Donor's and target's folder of a random pair in bfloat16."""
    folders = [folder / "donor", folder / "target"]
    for model, place in zip(random_pair(config, torch.bfloat16), folders, strict=True):
        write_model(model, place, shards)
    return folders


def write_model(model: transformers.PreTrainedModel, folder: Path, shards: int = 1) -> None:
    """Write a model in about so many files, and a tokenizer of as many words as it has tokens."""
    size = sum(parameter.nbytes for parameter in model.parameters())
    model.save_pretrained(folder, max_shard_size=math.ceil(1.04 * size / shards))
    vocabulary = {f"w{word}": word for word in range(model.config.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "w0"))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="w1")
    fast.save_pretrained(folder)


def scattered_channels(config: Config) -> dict[str, torch.Tensor]:
    """A mask of 5 % of the channels of a Llama, drawn evenly over its modules, embedding too."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    shapes = {name.removesuffix(".weight"): each.shape for name, each in model.named_parameters()}
    sizes = {name: shape[-1 if "embed" in name else 0] for name, shape in shapes.items()}
    drawn = {name: torch.rand(size, generator=generator) for name, size in sizes.items()}
    return {name: values < 0.05 for name, values in drawn.items()}
