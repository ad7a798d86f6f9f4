"""The inputs of `gates.py`: tiny models that differ as fine-tuned ones do, with batches and masks.

    for case_folder in save_cases(folder):
        case = Case(case_folder, scratch)

Saved, since another version of a library may draw other numbers from the same seed.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

import actlib
from actlib.channels import channel_modules

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from tiny_models import EVERY_ARCHITECTURE, VOCAB, tiny_model  # noqa: E402, needs the line above

ROLES = ("target", "donor", "second", "third")
BFLOAT16 = ("llama", "llama_tied", "gpt2", "gemma2", "qwen2_moe")
KEYS = ("input_ids", "attention_mask", "answer_mask")
LONGEST = 11  # tokens of an item


class Case:
    """Models of one family, and what to compare them on.

    Attributes:
        folder: models "target" to "third", and in shards "target cut" and "donor cut".
        scratch: where the checks write.
        models: the four models, of which `target` and `donor` are the first two.
        recordings: three recordings of two left-padded batches each.
        masks: three masks that overlap.
    """

    def __init__(self, folder: Path, scratch: Path) -> None:
        """Load a case that `save_cases` wrote."""
        self.folder, self.scratch = folder, scratch
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.models = [load(folder / role, dtype="auto").eval() for role in ROLES]
        self.target, self.donor = self.models[:2]
        rows = load_file(folder.parent / "batches.safetensors")
        batches = [{key: rows[f"{key} {number}"] for key in KEYS} for number in range(6)]
        self.recordings = batches[:2], batches[2:4], batches[4:]
        saved = json.loads((folder / "masks.json").read_text(encoding="utf-8"))
        masks = [{name: torch.tensor(row) for name, row in mask.items()} for mask in saved]
        self.masks = [actlib.ChannelMask(channels) for channels in masks]


def save_cases(folder: Path) -> list[Path]:
    """Write every family, some in bfloat16 too, and a trained one, to a folder that is new."""
    half, full = torch.bfloat16, torch.float32
    cases = {name: random_models(name, [full] * 4) for name in EVERY_ARCHITECTURE}
    cases |= {f"{name} bfloat16": random_models(name, [half] * 4) for name in BFLOAT16}
    cases |= {"llama mixed": random_models("llama", [half, full, half, full])}
    cases |= {"llama trained": trained_models()}
    folder.mkdir(parents=True)
    save_batches(folder)
    for name, models in cases.items():
        save_models(folder / name, models)
        save_masks(folder / name, models[0])
    store_twice(folder / "llama_tied bfloat16" / "target" / "model.safetensors")
    return [folder / name for name in cases]


def save_batches(folder: Path) -> None:
    """Write six batches of four items, of 3 to 11 tokens with 1 to 3 in the answer."""
    generator = torch.Generator().manual_seed(3)
    rows, position = {}, torch.arange(LONGEST)
    for number in range(6):
        ids = torch.randint(3, VOCAB, (4, LONGEST), generator=generator)
        lengths = torch.randint(3, LONGEST + 1, (4, 1), generator=generator)
        answers = torch.randint(1, 4, (4, 1), generator=generator)
        real = position >= LONGEST - lengths
        batch = ids.where(real, 2), real.long(), position >= LONGEST - answers
        rows |= {f"{key} {number}": row for key, row in zip(KEYS, batch, strict=True)}
    save_file(rows, folder / "batches.safetensors")


def random_models(architecture: str, dtypes: list[torch.dtype]) -> list[nn.Module]:
    """A random target, and three that differ from it in three quarters of the rows."""
    target = tiny_model(architecture, 0)
    models = [copy.deepcopy(target), *(perturbed(target, seed) for seed in (1, 2, 3))]
    return [model.to(dtype) for model, dtype in zip(models, dtypes, strict=True)]


def perturbed(model: nn.Module, seed: int) -> nn.Module:
    """A copy with noise on three quarters of the rows of each parameter."""
    generator, model = torch.Generator().manual_seed(seed), copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.05 * torch.randn(parameter.shape, generator=generator)
            rows = torch.rand(len(parameter), generator=generator) < 0.75
            parameter[rows] += noise[rows]
    return model


def trained_models() -> list[nn.Module]:
    """A Llama of three layers, and three copies trained further on their own sequences."""
    config = copy.deepcopy(tiny_model("llama", 0).config)
    config.num_hidden_layers = 3
    torch.manual_seed(0)
    target = transformers.LlamaForCausalLM(config)
    train_(target, [1, 2, 3])
    others = [copy.deepcopy(target) for _ in ROLES[1:]]
    for step, model in enumerate(others):
        train_(model, [step + 5])
    return [target, *others]


def train_(model: nn.Module, steps: list[int]) -> None:
    """Train for 40 batches to count in these steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for batch in range(40):
        step = steps[batch % len(steps)]
        ids = (torch.randint(VOCAB, (16, 1)) + step * torch.arange(12)) % VOCAB
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def save_models(folder: Path, models: list[nn.Module]) -> None:
    """Write each model in one file, and target and donor in three or four too."""
    for role, model in zip(ROLES, models, strict=True):
        model.save_pretrained(folder / role)
        if role in ("target", "donor"):
            size = sum(parameter.nbytes for parameter in model.parameters())
            model.save_pretrained(folder / f"{role} cut", max_shard_size=int(0.4 * size))


def store_twice(path: Path) -> None:
    """Add the tied LM head, which `save_pretrained` leaves out, as some published models do."""
    rows = load_file(path)
    rows["lm_head.weight"] = rows["model.embed_tokens.weight"].clone()
    save_file(rows, path, {"format": "pt"})


def save_masks(folder: Path, model: nn.Module) -> None:
    """Write one mask of 30 % of each module, and two with empty and with whole modules."""
    generator, masks = torch.Generator().manual_seed(6), []
    for shares in ((0.3,), (0.3, 0.0, 1.1), (0.4, 1.1, 0.0, 0.2, 0.3)):
        mask = {}
        for number, (name, module) in enumerate(channel_modules(model).items()):
            drawn = torch.rand(module.channels, generator=generator)
            mask[name] = (drawn < shares[number % len(shares)]).tolist()
        masks.append(mask)
    (folder / "masks.json").write_text(json.dumps(masks), encoding="utf-8")
