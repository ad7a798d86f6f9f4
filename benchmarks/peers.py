"""Recording beside TransformerLens and nnsight, a transfer beside mergekit as whole processes.

    pip install torch==2.13.0 transformers==5.23.0 pandas nnsight==0.8.1    # each in its own venv
    pip install torch==2.13.0 transformers==5.23.0 pandas transformer-lens==4.3.0
    pip install torch==2.13.0 transformers==5.23.0 mergekit==0.1.5
    python benchmarks/peers.py --nnsight VENV/bin/python --transformer_lens ... --mergekit ...

Recording: SmolLM2-135M's shape in float32, differences summed over the same answer tokens;
TransformerLens always computes all logits and eager attention. Transfer: 4 GB in 8 shards.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pairs
import pandas as pd
import torch
import turns
from turns import Way, Worker

ANSWER = 16
OURS = "record_differences"
LAYER = ("input_layernorm", *(f"self_attn.{part}_proj" for part in "qkvo"))
LAYER += ("post_attention_layernorm", *(f"mlp.{part}_proj" for part in ("gate", "up", "down")))
HOOKS = r"(embed|ln_final|unembed|blocks\.\d+\.(ln[12]|attn\.[qkvo]|mlp\.(gate|in|out)))\.hook_out"


def actlib_ways(pair: pairs.Pair, batches: pairs.Batches) -> dict[str, Way]:
    """Ours, and the two passes that no recording can avoid."""
    import actlib

    def record() -> dict[str, float]:
        scores = actlib.record_differences(*pair, batches)
        means = sum(values.double().sum().item() for values in scores.values.values())
        return {"total": scores.tokens * means}

    return {OURS: record, "two bare passes": lambda: pairs.run_bare(pair, batches)}


def summed(batches: pairs.Batches, activations: Callable[[int, dict], dict]) -> dict[str, float]:
    """Sum over batches and channels of the differences of what donor (0) and target (1) give."""
    sums: dict[str, torch.Tensor] = {}
    for batch in batches:
        donor, target = activations(0, batch), activations(1, batch)
        for name in donor:
            difference = (donor[name].float() - target[name].float()).abs().flatten(0, 1).sum(dim=0)
            sums[name] = sums.get(name, 0) + difference
    return {"total": sum(total.double().sum().item() for total in sums.values())}


def nnsight_ways(pair: pairs.Pair, batches: pairs.Batches) -> dict[str, Way]:
    """Trace both models and save the answer tokens of our channels, in the order they run."""
    import nnsight

    models = [nnsight.NNsight(model) for model in pair]
    layers = range(pair[0].config.num_hidden_layers)
    names = [f"model.layers.{layer}.{part}" for layer in layers for part in LAYER]
    names = ["model.embed_tokens", *names, "model.norm", "lm_head"]

    def activations(which: int, batch: dict) -> dict[str, torch.Tensor]:
        envoys = {name: models[which].get(name) for name in names}
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad(), models[which].trace(**inputs, use_cache=False, logits_to_keep=ANSWER):
            saved = nnsight.save({})
            for name, envoy in envoys.items():
                saved[name] = envoy.output[:, -ANSWER:]
        return saved

    return {"nnsight": lambda: summed(batches, activations)}


def lens_ways(pair: pairs.Pair, batches: pairs.Batches) -> dict[str, Way]:
    """Cache the answer tokens of our channels."""
    from transformer_lens.model_bridge import TransformerBridge

    matches, bridges = re.compile(HOOKS).fullmatch, []
    for model in pair:
        with tempfile.TemporaryDirectory() as folder:
            pairs.write_model(model, Path(folder))
            bridge = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
            bridges.append(bridge)

    def activations(which: int, batch: dict) -> dict[str, torch.Tensor]:
        options = {"names_filter": matches, "pos_slice": slice(-ANSWER, None)}
        options |= {"attention_mask": batch["attention_mask"], "return_cache_object": False}
        with torch.no_grad():
            _, cache = bridges[which].run_with_cache(batch["input_ids"], **options)
        return cache

    return {"TransformerLens": lambda: summed(batches, activations)}


def recording(tool: str, python: str, rounds: int) -> pd.DataFrame:
    """Time in turns, and extra memory."""
    ours, theirs = Worker("actlib"), Worker(tool, python)
    runs = turns.in_turns(ours.ways | theirs.ways, rounds)
    ours.end()
    theirs.end()
    return turns.summary(f"recording, {tool}", runs, OURS)


def transfer(python: str, tiny: bool, rounds: int) -> pd.DataFrame:
    """`actlib transfer` and `mergekit-yaml`, from the shell to the folder written."""
    import actlib

    config = pairs.TINY if tiny else pairs.FOUR_GIGABYTES
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        donor, target = pairs.write_pair(folder, config, shards=8)
        mask, recipe, out = folder / "mask.safetensors", folder / "recipe.yaml", folder / "out"
        actlib.ChannelMask(pairs.scattered_channels(config)).save(mask)
        models = [{"model": str(donor), "parameters": {"weight": 0.4}}]
        task = {"merge_method": "task_arithmetic", "dtype": "bfloat16", "models": models}
        recipe.write_text(json.dumps(task | {"base_model": str(target)}))  # JSON is YAML
        actlib_command = [sys.executable, "-m", "actlib", "transfer"]
        actlib_command += ["--target", target, "--donor", donor, "--mask", mask]
        actlib_command += ["--out", out, "--scale", "0.4"]
        mergekit_command = [Path(python).with_name("mergekit-yaml"), recipe, out]
        ways = {
            "actlib transfer": partial(whole, actlib_command),
            "mergekit-yaml": partial(whole, mergekit_command),
        }
        runs = turns.in_turns(ways, rounds, lambda: shutil.rmtree(out, ignore_errors=True))
    return turns.summary("transfer, 4 GB in 8 shards", runs, "actlib transfer")


def whole(command: list) -> dict[str, float]:
    """Run a command to its end; its peak memory."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = turns.peak_memory(process.wait, process.pid)
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with status {process.returncode}")
    return {"peak memory GiB": peak}


def main() -> None:
    """Measure against the tools that are named, and write peers.csv."""
    python = "the Python of its environment"
    chosen = turns.options(__doc__, nnsight=python, transformer_lens=python, mergekit=python)
    if chosen.serve:
        config = pairs.TINY if chosen.tiny else pairs.SMOLLM_135M
        pair = pairs.random_pair(config, torch.float32)
        return turns.serve(SIDES[chosen.serve](pair, pairs.random_batches(config.vocab_size)))
    if not (chosen.nnsight or chosen.transformer_lens or chosen.mergekit):
        sys.exit("name a tool to measure beside, such as --mergekit VENV/bin/python")
    paths = {tool: path for tool, path in vars(chosen).items() if tool in SIDES and path}
    tables = [recording(tool, path, chosen.turns) for tool, path in paths.items()]
    if chosen.mergekit:
        tables.append(transfer(chosen.mergekit, chosen.tiny, chosen.turns))
    turns.save([pd.concat(tables)], "peers", chosen.results)


if __name__ == "__main__":
    SIDES = {"actlib": actlib_ways, "nnsight": nnsight_ways, "transformer_lens": lens_ways}
    main()
