"""One of several processes that record and fine-tune, for `test_processes`; saves what it gets."""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actlib.attribution import record_attributions
from actlib.finetune import finetune
from actlib.processes import rank_and_count
from actlib.recording import record_differences
from actlib.two_passes import record_differences_in_two_passes

# Answers of other lengths, so that two processes have unequal shares of a batch.
QUESTIONS = [{"question": f"{n} + {n}?", "answer": "so " * (n % 5) + str(2 * n)} for n in range(16)]


def tune(folder):
    """Weights by name and losses after a fine-tuning of the model in a folder."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = {"steps": 8, "learning_rate": 5e-3, "batch_size": 4, "mixed_precision": False}
    losses = finetune(model, AutoTokenizer.from_pretrained(folder), QUESTIONS, **settings)
    return model.state_dict(), losses


def main(folder):
    """Scores of three batches, of one that leaves a process without any, and of two passes."""
    torch.set_num_threads(1)
    donor, target, batches = torch.load(folder / "given.pt", weights_only=False)
    loaders, kept = (lambda: donor, lambda: target), folder / "kept"
    scores = {
        "three": record_differences(donor, target, batches, moments=True),
        "one": record_differences(donor, target, batches[:1], moments=True),
        "attributions": record_attributions(donor, target, batches, points=2),
        "two passes": record_differences_in_two_passes(*loaders, batches, kept, moments=True),
    }
    rank, _ = rank_and_count()
    for name, each in scores.items():
        each.save(folder / f"{name}-{rank}.safetensors")
    torch.save(tune(folder / "target"), folder / f"tuned-{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
