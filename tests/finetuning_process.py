"""One of several processes that fine-tune one model, for `test_finetune_processes`."""

import sys
from pathlib import Path

import torch
from accelerate import PartialState
from transformers import AutoModelForCausalLM, AutoTokenizer

from actlib.finetune import finetune, light_lora


def tuned(folder, case):
    """Weights by name and losses after a fine-tuning of the model in a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    settings = dict(case)
    items, rank = settings.pop("items"), settings.pop("lora_rank", None)
    lora = light_lora(rank) if rank else None
    losses = finetune(model, tokenizer, items, lora=lora, progress=False, **settings)
    return {name: p.detach().clone() for name, p in model.named_parameters()}, losses


def refusal(folder, case):
    """What is said to processes that cannot share a batch evenly."""
    try:
        tuned(folder, case | {"batch_size": 3})
    except ValueError as error:
        return str(error)


def main(folder):
    torch.set_num_threads(1)
    state = PartialState()
    cases = torch.load(folder / "cases.pt", weights_only=True)
    found = {name: tuned(folder, case) for name, case in cases.items()}
    found["refusal"] = refusal(folder, cases["all weights"])
    torch.save(found, folder / f"found-{state.process_index}.pt")
    state.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
