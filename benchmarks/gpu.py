"""Everything that a GPU has to show, in one table and under 8 minutes.

    python benchmarks/gpu.py                             # a GPU of 60 GB; writes results/gpu.csv
    python benchmarks/gpu.py --tiny --results SCRATCH    # tiny shapes, also without a GPU

A case that fails is a row that says why; the others still run, and the table is written after each.
"""

import argparse
import gc
import itertools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from pairs import llama, qwen_7b, random_batches, random_pair, run_bare, smollm
from turns import RESULTS, ROOT, in_turns, save, summary

sys.path.insert(0, str(ROOT))
import actlib

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def large_pair(tiny: bool, turns: int) -> Iterator[pd.DataFrame]:
    """Recording, transfer and patch on a random pair of Qwen2.5-7B's shape in bfloat16.

    Recording is beside two bare passes over 32 items of 256 tokens, 64 of them answer; transfer and
    patch move 5 % of the channels and are beside `load_state_dict` of tensors on the same GPU.
    """
    config, shape = (llama(), "tiny shape") if tiny else (qwen_7b(), "Qwen2.5-7B's shape")
    tokens = {"tokens": 24, "answer": 16} if tiny else {"tokens": 256, "answer": 64}
    donor, target = random_pair(config, torch.bfloat16, DEVICE)
    batches = random_batches(config.vocab_size, batches=4, items=8, **tokens)
    batches = [{key: value.to(DEVICE) for key, value in batch.items()} for batch in batches]
    recording: dict[str, Callable] = {
        "two bare passes": lambda: run_bare((donor, target), batches),
        "record_differences": lambda: actlib.record_differences(donor, target, batches),
    }
    runs = in_turns({name: partial(gpu_peak, way) for name, way in recording.items()}, turns)
    yield summary(f"recording, {shape}", runs, "two bare passes")

    mask = actlib.record_differences(donor, target, batches).top(5.0)
    state = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    restore = partial(target.load_state_dict, state)
    writing: dict[str, Callable] = {
        "load_state_dict": restore,
        "transfer_": lambda: actlib.transfer_(target, donor, mask, scale=0.4),
    }
    ways = {name: partial(gpu_peak, way) for name, way in writing.items()}
    yield summary(f"transfer, {shape}", in_turns(ways, turns, restore), "load_state_dict")
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder) / "patch.safetensors"
        restore()
        actlib.make_patch(donor, target, mask, patch, scale=0.4)
        writing = {
            "load_state_dict": restore,
            "apply_patch": lambda: actlib.apply_patch(target, patch),
        }
        ways = {name: partial(gpu_peak, way) for name, way in writing.items()}
        yield summary(f"patch, {shape}", in_turns(ways, turns, restore), "load_state_dict")


def gpu_peak(way: Callable) -> dict[str, float]:
    """Run a way; the most bytes that tensors held on the GPU meanwhile, 0 where there is none."""
    if DEVICE == "cpu":
        way()
        return {"GPU peak GiB": 0.0}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    way()
    torch.cuda.synchronize()
    return {"GPU peak GiB": torch.cuda.max_memory_allocated() / 2**30}


def both_devices(tiny: bool) -> Iterator[pd.DataFrame]:
    """Scores of one pair recorded on the CPU and on the GPU, in float32: do they agree?"""
    config, shape = (llama(), "tiny shape") if tiny else (smollm(), "SmolLM2-135M's shape")
    pair = random_pair(config, torch.float32)
    batches = random_batches(config.vocab_size)
    on_cpu = actlib.record_differences(*pair, batches)
    on_gpu = actlib.record_differences(*(model.to(DEVICE) for model in pair), batches)
    errors = [
        ((on_gpu.values[name] - values).abs() / values.clamp(min=1e-12)).max().item()
        for name, values in on_cpu.values.items()
    ]
    measures = {
        "largest relative difference of a score": max(errors),
        "Jaccard of the masks at 5 %": on_cpu.top(5.0).jaccard(on_gpu.top(5.0)),
    }
    yield rows(f"CPU and GPU, {shape}", "record_differences", measures)


def end_to_end(preset: str) -> Iterator[pd.DataFrame]:
    """A family from nothing: trained, recorded, transferred and evaluated on this device."""
    from actlib.study.session import Study  # needs more than the rest of this script

    with tempfile.TemporaryDirectory() as folder:
        os.environ["ACT_STORE"] = folder
        study, clock = Study.open(preset, figures=folder), [time.perf_counter()]
        donor, target = study.model("donor"), study.model("target")
        clock.append(time.perf_counter())
        mask = study.scores(study.lost).top(5.0)
        clock.append(time.perf_counter())
        before = study.judge(target, study.lost)["nll"].mean()
        with actlib.transferred(target, donor, mask, scale=1.0):
            after = study.judge(target, study.lost)["nll"].mean()
        clock.append(time.perf_counter())
    steps = ("to train", "to record", "to transfer and evaluate")
    seconds = [later - earlier for earlier, later in itertools.pairwise(clock)]
    measures = {f"seconds {step}": value for step, value in zip(steps, seconds, strict=True)}
    measures |= {"NLL of the lost abilities": before, "NLL after the transfer": after}
    yield rows(f"end to end, {Path(preset).stem}", str(target.device.type), measures)


def rows(case: str, way: str, measures: dict[str, float]) -> pd.DataFrame:
    """Rows of things measured once, in the columns of `summary`."""
    values = [{"measure": key, "median": value} for key, value in measures.items()]
    return pd.DataFrame(values).assign(case=case, way=way, runs=1)


def main() -> int:
    """Run every case; exit status 1 where one could not be run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and one turn")
    parser.add_argument("--preset", default="tiny", help="family of the run from end to end")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of gpu.csv")
    chosen = parser.parse_args()
    if chosen.results == RESULTS and (chosen.tiny or DEVICE == "cpu"):
        parser.error("the kept table is for a GPU and full shapes; name another with --results")
    cases = {
        "large pair": large_pair(chosen.tiny, turns=1 if chosen.tiny else 5),
        "CPU and GPU": both_devices(chosen.tiny),
        "end to end": end_to_end(chosen.preset),
    }
    tables, failed = [], False
    for name, case in cases.items():
        try:
            for table in case:
                tables.append(table)
                save(pd.concat(tables), "gpu", chosen.results)
        except Exception as error:  # a machine that is lent for minutes: the other cases still run
            traceback.print_exc()
            failed = True
            reason = f"not run: {type(error).__name__}: {error}".splitlines()[0]
            tables.append(pd.DataFrame([{"case": name, "measure": reason, "runs": 0}]))
            save(pd.concat(tables), "gpu", chosen.results)
        gc.collect()
        torch.cuda.empty_cache()
    print(pd.concat(tables).to_string(index=False, float_format="{:.4g}".format))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
