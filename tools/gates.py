"""Hold a rebuild of the core to what commit 967e252 computes, on tiny models of every family.

    PYTHONPATH=OLD python tools/gates.py reference FOLDER    # once, with the code of 967e252
    PYTHONPATH=. python tools/gates.py compare FOLDER        # exit status 1 if a check fails

`reference` saves models, batches, masks and results; `compare` takes the saved inputs, computes the
results with whatever `actlib` it imports, and prints one line a check.
"""

import copy
import inspect
import math
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import torch
import transformers
from gate_cases import Case, save_cases
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import actlib
from actlib.scores import pool

EXCEPTIONS: dict[str, str] = {
    "*/masks/* module 1*": "less than one channel of every module is refused, not ranked globally",
    "gemma3/interventions/resample *": "norms of heads before positions are resampled, not refused",
    "*/masks/off contrast *": "scores that are all 0, here against themselves, rank nothing",
}
"""What a mended bug changes on purpose: pattern of "case/check/result", and the reason."""

TOLERANCE = 1e-6  # of a number, or of the mean size of its tensor where that is larger
CLOSE = ("scores", "moments", "weights", "activations", "interventions")  # others: the same bits
SCALES = (0.4, 1.0, -0.3)
MISSING = torch.zeros(0, dtype=torch.complex64)  # unlike any result
Steps = Iterator[tuple[str, object]]  # names "check/result", and what has tensors


def record(case: Case) -> Steps:
    """Scores, moments and masks of recordings that went through their files, alone and pooled."""
    optional = "moments" in inspect.signature(actlib.record_differences).parameters
    moments = {"moments": True} if optional else {}  # 967e252 always records them
    path, recordings = case.scratch / "scores.safetensors", []
    for batches in case.recordings:
        actlib.record_differences(case.donor, case.target, batches, **moments).save(path)
        recordings.append(actlib.ChannelScores.load(path))
    first, second, off = recordings
    for name, scores in {"one": first, "pool": pool([first, second]), "off": off}.items():
        yield f"scores/{name} tokens", torch.tensor(float(scores.tokens))
        yield f"scores/{name} values", scores.values
        yield f"scores/{name} magnitudes", scores.magnitudes
        yield f"moments/{name} means", scores.means
        yield f"moments/{name} stds", getattr(scores, "stds", None) or scores.spreads
        compared = scores.relative_to(pool([second, off]) if scores is first else off)
        for ranking in ("global", "module", "scaled", "relative", "contrast"):
            for percent in (1, 5, 20):
                yield from rank(compared, name, ranking, percent)
    items = actlib.record_activations(case.target, case.recordings[0], case.masks[0])
    yield "activations/items", items


def rank(scores: actlib.ChannelScores, name: str, ranking: str, percent: float) -> Steps:
    """A mask; or where the percent is less than a channel of every module, that it was refused."""
    try:
        yield f"masks/{name} {ranking} {percent}", scores.top(percent, ranking)
    except ValueError as error:
        yield f"masks/{name} {ranking} {percent} refused: {error}", torch.zeros(1)


def compare_parameters(case: Case) -> Steps:
    """Differences of parameters, some rows of which are equal, so that ties enter the masks."""
    scores = actlib.weight_differences(case.donor, case.target)
    yield "weights/values", scores.values
    yield "weights/magnitudes", scores.magnitudes
    for ranking in ("global", "module", "scaled"):
        for percent in (1, 5, 20, 90):
            yield from rank(scores, "weights", ranking, percent)
    fits = [not actlib.check_pair(model, case.target) for model in (case.donor, nn.Linear(3, 3))]
    yield "check_pair/fits", torch.tensor(fits)


def combine(case: Case) -> Steps:
    """Set operations, random controls, and a mask that went through its file."""
    one, other, path = case.masks[0], case.masks[1], case.scratch / "mask.safetensors"
    one.save(path)
    masks = [one | other, one & other, one - other, actlib.ChannelMask.load(path)]
    masks += [actlib.random_like(one, 7), actlib.random_like(one, 7, per_module=False)]
    yield from ((f"sets of masks/{number}", mask) for number, mask in enumerate(masks))


def transfer(case: Case) -> Steps:
    """Transfers for a while, for good, and of folders in one file and in several."""
    forms = ("target", "donor cut"), ("target cut", "donor"), ("target cut", "donor cut")
    for mask, scale, form in zip(case.masks, SCALES, forms, strict=True):
        target, out = copy.deepcopy(case.target), case.scratch / f"transfer {scale}"
        with actlib.transferred(target, case.donor, mask, scale):
            yield f"transferred/inside {scale}", target
        yield f"transferred/after {scale}", target
        actlib.transfer_(target, case.donor, mask, scale)
        yield f"transfer_/{scale}", target
        actlib.transfer_checkpoint(*(case.folder / name for name in form), mask, out, scale)
        yield f"transfer_checkpoint/{scale}", out


def merge(case: Case) -> Steps:
    """Three donors by every rule, in memory and in folders."""
    folders = [case.folder / name for name in ("donor cut", "second", "third")]
    in_memory = list(zip(case.models[1:], case.masks, SCALES, strict=True))
    in_folders = list(zip(folders, case.masks, SCALES, strict=True))
    for rule in ("sum", "average", "largest"):
        merged = actlib.merge(case.target, in_memory, rule)
        yield f"merge/{rule}", merged if isinstance(merged, nn.Module) else merged.model
        for form in ("target", "target cut"):
            out = case.scratch / f"{rule} {form}"
            actlib.merge_checkpoint(case.folder / form, in_folders, out, rule)
            yield f"merge_checkpoint/{rule} {form}", out


def patch(case: Case) -> Steps:
    """A patch applied and reverted in memory and in folders, and one without the old values."""
    path, bare, model = case.scratch / "patch", case.scratch / "bare", copy.deepcopy(case.target)
    pair = case.folder / "target", case.folder / "donor cut"
    actlib.make_patch(*pair, case.masks[0], path, scale=0.4)
    actlib.make_patch(*pair, case.masks[1], bare, scale=1.0, reversible=False)
    folders = {form: case.folder / form for form in ("target", "target cut")}
    for move in (actlib.apply_patch, actlib.revert_patch):
        move(model, path)
        yield f"patches/{move.__name__}", model
        for form, folder in folders.items():
            out = folders[form] = case.scratch / f"{form} {move.__name__}"
            move(folder, path, out)
            yield f"patches of folders/{move.__name__} {form}", out
    actlib.apply_patch(model, bare)
    yield "patches/bare", model


@torch.no_grad()
def intervene(case: Case) -> Steps:
    """Logits of the real tokens under patched and ablated channels, packed experts left out."""
    modules = dict(case.target.named_modules())
    masks = case.masks[0], case.masks[0] - case.masks[1]  # no whole LM head, all logits then 0
    for number, batch in enumerate(case.recordings[0]):
        channels = masks[number].channels.items()
        mask = actlib.ChannelMask({name: row & (name in modules) for name, row in channels})
        means = {name: torch.linspace(-1, 1, len(row)) for name, row in channels}
        for name, context in {
            "patched": actlib.patched(case.target, case.donor, mask),
            "zero": actlib.ablated(case.target, mask, "zero"),
            "mean": actlib.ablated(case.target, mask, "mean", means=means),
            "resample": actlib.ablated(case.target, mask, "resample", seed=3),
        }.items():
            real = batch["attention_mask"]
            try:
                with context:
                    logits = case.target(batch["input_ids"], attention_mask=real).logits
                yield f"interventions/{name} {number}", logits[real.bool()]
            except ValueError:  # of "resample", where heads come before positions (Gemma 3)
                yield f"interventions/{name} {number} refused", torch.ones(1)


def tensors(value: object) -> Mapping[str, Tensor]:
    """The tensors of a model, of a folder by file, of a mask in module order, or of a mapping."""
    if isinstance(value, Path):
        files = {path.name: load_file(path) for path in value.glob("*.safetensors")}
        return {f"{file} {name}": rows for file in files for name, rows in files[file].items()}
    if isinstance(value, actlib.ChannelMask):
        return {"": torch.cat(list(value.channels.values()))}
    if isinstance(value, nn.Module):
        return dict(value.named_parameters())
    return value if isinstance(value, Mapping) else {"": value}


def compute(folder: Path) -> dict[str, Tensor]:
    """All results of a case; a step that fails gives its error as the name of one."""
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        case = Case(folder, Path(scratch))
        for step in (record, compare_parameters, combine, transfer, merge, patch, intervene):
            try:
                for result, value in step(case):
                    for name, tensor in tensors(value).items():
                        results[f"{result} {name}"] = tensor.detach().clone().contiguous()
            except Exception as error:  # the other steps still have something to say
                results[f"stopped/{step.__name__}: {error!r}"] = torch.zeros(1)
    return results


def deviation(check: str, ours: Tensor, reference: Tensor) -> float:
    """Largest relative deviation, or of results with the same bits how many bytes differ."""
    if ours.shape != reference.shape or ours.dtype != reference.dtype:
        return math.inf
    if check not in CLOSE:
        one, other = ours.flatten().view(torch.uint8), reference.flatten().view(torch.uint8)
        return float((one != other).sum())
    one, other = ours.double(), reference.double()
    unit = other.abs().clamp_min(max(other.abs().mean().item(), 1e-30))
    return float(((one - other).abs() / unit).nan_to_num(nan=math.inf).max())


def compare(folder: Path) -> int:
    """Print a line a check, and the first failure of each check and case; 1 if any failed."""
    worst, failed = defaultdict(dict), {}
    for path in sorted(folder.glob("*/results.safetensors")):
        case, reference, ours = path.parent.name, load_file(path), compute(path.parent)
        for name in sorted(reference.keys() | ours.keys()):
            check = name.partition("/")[0]
            apart = deviation(check, ours.get(name, MISSING), reference.get(name, MISSING))
            if any(fnmatch(f"{case}/{name}", pattern) for pattern in EXCEPTIONS):
                continue
            worst[check][case] = max(apart, worst[check].get(case, 0.0))
            if apart > (TOLERANCE if check in CLOSE else 0):
                failed.setdefault((check, case), f"FAILED {case}/{name} by {apart:.2g}")
    for check, cases in worst.items():
        unit, most = ("relative", TOLERANCE) if check in CLOSE else ("bytes", 0)
        passed, most = sum(apart <= most for apart in cases.values()), max(cases.values())
        print(f"{check:20} {passed:2} of {len(cases)} cases, worst {most:.2g} {unit}")
    excepted = [f"EXCEPTED {pattern}: {reason}" for pattern, reason in EXCEPTIONS.items()]
    print(*failed.values(), *excepted, f"{len(failed)} failures", sep="\n")
    return int(bool(failed) or not worst)


def write_reference(folder: Path) -> int:
    """Write the inputs of every case and what this code computes of them; 1 if a step fails."""
    stopped = []
    for case in save_cases(folder):
        results = compute(case)
        save_file(results, case / "results.safetensors")
        stopped += [f"{case.name}/{name}" for name in results if name.startswith("stopped")]
    print("written", *stopped, sep="\n")
    return int(bool(stopped))


if __name__ == "__main__":
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    print(f"actlib of {Path(actlib.__file__).parents[1]}")
    command = {"reference": write_reference, "compare": compare}[sys.argv[1]]
    sys.exit(command(Path(sys.argv[2])))
