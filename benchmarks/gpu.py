"""Everything that a GPU has to show, in one table and under 8 minutes.

    python benchmarks/gpu.py                             # a GPU of 60 GB; writes results/gpu.csv
    python benchmarks/gpu.py --tiny --results SCRATCH    # tiny shapes, also without a GPU

A case that fails is a row that says why; the others still run, and the table is written after each.
"""

import copy
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import accelerate
import pandas as pd
import torch
from pairs import QWEN_7B, SMOLLM_135M, TINY, random_batches, random_pair, run_bare
from turns import RESULTS, ROOT, in_turns, options, save, summary

import actlib
from actlib import record_differences_in_two_passes as in_two_passes

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def large_pair(tiny: bool, turns: int) -> Iterator[pd.DataFrame]:
    """Recording, transfer, merge and patch on a random pair of Qwen2.5-7B's shape in bfloat16.

    Recording is beside two bare passes over 32 items of 256 tokens, 64 of them answer; the others
    move 5 % of the channels and are beside `load_state_dict` of tensors on the same GPU. At last
    the pair is recorded one at a time, and offloaded to memory, on the first batch alone.
    """
    config, shape = (TINY, "tiny shape") if tiny else (QWEN_7B, "Qwen2.5-7B's shape")
    tokens = {"tokens": 24, "answer": 16} if tiny else {"tokens": 256, "answer": 64}
    donor, target = random_pair(config, torch.bfloat16, DEVICE)
    batches = random_batches(config.vocab_size, batches=4, items=8, **tokens)
    batches = [{key: value.to(DEVICE) for key, value in batch.items()} for batch in batches]
    bare, record = "two bare passes", partial(actlib.record_differences, donor, target, batches)
    runs = in_turns({bare: lambda: run_bare((donor, target), batches), "record": record}, turns)
    yield summary(f"recording, {shape}", runs, bare)

    mask, load = record().top(5.0), "load_state_dict"
    state = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    restore = partial(target.load_state_dict, state)
    transfer = partial(actlib.transfer_, target, donor, mask, scale=0.4)
    pairs = [(donor, mask, 0.4), (donor, actlib.random_like(mask, 0), 0.4)]
    merge = partial(actlib.merge_, target, pairs)
    runs = in_turns({load: restore, "transfer_": transfer, "merge_": merge}, turns, restore)
    yield summary(f"transfer and merge, {shape}", runs, load)
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder) / "patch.safetensors"
        restore()
        actlib.make_patch(target=target, donor=donor, mask=mask, path=patch)
        apply = partial(actlib.apply_patch, target, patch)
        runs = in_turns({load: restore, "apply_patch": apply}, turns, restore)
        yield summary(f"patch, {shape}", runs, load)
    for model in (donor, target):
        model.cpu()
    with tempfile.TemporaryDirectory() as folder:
        sources = [lambda m=m: copy.deepcopy(m).to(DEVICE) for m in (donor, target)]
        ways = {"in two passes": partial(in_two_passes, *sources, batches[:1], folder)}
        yield summary(f"one at a time, {shape}", in_turns(ways, 1))
    for model in (donor, target):
        accelerate.cpu_offload(model, torch.device(DEVICE))
    ways = {"offloaded": partial(actlib.record_differences, donor, target, batches[:1])}
    yield summary(f"offloaded, {shape}", in_turns(ways, 1))


def second_device() -> Iterator[pd.DataFrame]:
    """Seconds and exit status of the tests that need a GPU beside the CPU, by pytest."""
    case, tests = "tests of two devices", "tests/test_transfer.py"
    if DEVICE != "cuda":
        yield not_run(case, "there is no second device")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-k", "another_device", tests]
    start = time.perf_counter()
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    run = {"turn": 1, "way": DEVICE, "seconds": time.perf_counter() - start, "exit status": status}
    yield summary(case, pd.DataFrame([run]))


def not_run(case: str, reason: str) -> pd.DataFrame:
    """The row of a case that was not run."""
    return pd.DataFrame([{"case": case, "measure": f"not run: {reason}", "runs": 0}])


def both_devices(tiny: bool) -> Iterator[pd.DataFrame]:
    """Scores of one pair recorded on the CPU and on the GPU, in float32: do they agree?"""
    config, shape = (TINY, "tiny shape") if tiny else (SMOLLM_135M, "SmolLM2-135M's shape")
    pair = random_pair(config, torch.float32)
    batches = random_batches(config.vocab_size)
    on_cpu = actlib.record_differences(*pair, batches)
    on_gpu = actlib.record_differences(*(model.to(DEVICE) for model in pair), batches)
    errors = [
        ((on_gpu.values[name] - values).abs() / values.clamp(min=1e-12)).max().item()
        for name, values in on_cpu.values.items()
    ]
    run = {"turn": 1, "way": "record", "largest relative difference": max(errors)}
    run |= {"Jaccard of the masks at 5 %": on_cpu.top(5.0).jaccard(on_gpu.top(5.0))}
    yield summary(f"CPU and GPU, {shape}", pd.DataFrame([run]))


def end_to_end(preset: str) -> Iterator[pd.DataFrame]:
    """A family from nothing: trained, recorded, transferred and evaluated on this device."""
    from actlib.study.session import Study  # needs more than the rest of this script

    with tempfile.TemporaryDirectory() as folder:
        os.environ["ACT_STORE"] = folder
        study, start = Study.open(preset), time.perf_counter()
        donor, target = study.models(study.pair())
        trained = time.perf_counter() - start
        mask = study.scores(study.pair(), study.lost).top(5.0)
        before = study.evaluate(target, study.lost)["nll"].mean()
        with actlib.transferred(target, donor, mask, scale=1.0):
            after = study.evaluate(target, study.lost)["nll"].mean()
    run = {"turn": 1, "way": target.device.type, "seconds of training": trained}
    run |= {"seconds": time.perf_counter() - start}
    run |= {"NLL of the lost abilities": before, "NLL after the transfer": after}
    yield summary(f"end to end, {Path(preset).stem}", pd.DataFrame([run]))


def main() -> int:
    """Run every case; exit status 1 where one could not be run."""
    chosen = options(__doc__, preset="family of the run from end to end, tiny if none is named")
    if chosen.results == RESULTS and DEVICE == "cpu":
        sys.exit("the kept table is a GPU's; name another folder with --results")
    cases = {
        "large pair": large_pair(chosen.tiny, chosen.turns),
        "CPU and GPU": both_devices(chosen.tiny),
        "end to end": end_to_end(chosen.preset or "tiny"),
        "second device": second_device(),
    }
    tables, failed = [], False
    for name, case in cases.items():
        try:
            for table in case:
                tables.append(table)
                save(tables, "gpu", chosen.results)
        except Exception as error:  # a machine that is lent for minutes: the other cases still run
            traceback.print_exc()
            failed = True
            tables.append(not_run(name, f"{type(error).__name__}: {error}".splitlines()[0]))
            save(tables, "gpu", chosen.results)
        torch.cuda.empty_cache()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
