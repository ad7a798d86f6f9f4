"""The rows of the benchmark: what is measured, against what, and the ratio to reach.

Only words and numbers; the modules named here do the work, in processes of their own.
"""

from dataclasses import dataclass

RECORD, BARE = "record_differences", "two forwards"
HELD = "two forwards, answers held"
START, COPIED = "python and torch alone", "as many bytes copied"
GIB = 2**30


@dataclass(frozen=True)
class Aim:
    """A bound on a measure of ours beside the other way's.

    Attributes:
        measure: `seconds`, `extra_bytes`, `peak_bytes` or `gpu_peak_bytes`.
        kind: "times" bounds ours / other from above, "fold" other / ours from below, and "above"
            ours - other from above.
        limit: the bound; of "above" in the measure's unit.
    """

    measure: str
    kind: str
    limit: float


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: of the row and of its table.
        what: the work, as a reader of the table needs it.
        against: what it is compared with.
        module: of this package, whose `ways(case, setting)` sets up.
        ours: name of our way.
        others: names of the ways beside it; aims count for the first.
        cases: variants, each measured for itself.
        aims: what is to be reached.
        reached_in: cases for which the aims count; all of them if empty.
        peer: name of another tool whose own environment serves the others.
        watched: measure memory too, with a fresh process for each way.
        turns: counted runs of each way.
        floor: name of a way of our side that does no more than what the task cannot do without; the
            report tells how it compares with the other, which no implementation can pass.
    """

    name: str
    what: str
    against: str
    module: str
    ours: str
    others: tuple[str, ...]
    cases: tuple[str, ...]
    aims: tuple[Aim, ...]
    reached_in: tuple[str, ...] = ()
    peer: str = ""
    watched: bool = False
    turns: int = 5
    floor: str = ""


@dataclass(frozen=True)
class Growth:
    """Times over a range of sizes.

    Attributes:
        name: of the row and of its table.
        what: the work.
        axis: what grows, with its unit.
        module: of this package; its ways have names such as `WAY|SIZE`.
        turns: counted runs of each way at each size.
        watched: measure memory too, with a fresh process for each way at each size.
    """

    name: str
    what: str
    axis: str
    module: str
    turns: int = 3
    watched: bool = False


@dataclass(frozen=True)
class Profile:
    """Where the time goes, and the floor under it.

    Attributes:
        name: of the row and of its table.
        what: the work.
        module: of this package; its only way, `profile`, returns measures named `PART/NAME`.
        cases: variants.
        turns: counted runs.
    """

    name: str
    what: str
    module: str
    cases: tuple[str, ...]
    turns: int = 3


_FASTER, _SMALLER = Aim("seconds", "fold", 3.0), Aim("extra_bytes", "fold", 5.0)

ROWS = (
    Row(
        "recording-cpu",
        "recording, SmolLM2-135M-shaped pair, CPU",
        "two bare forward passes over the same batches",
        "recording",
        RECORD,
        (BARE,),
        ("bfloat16", "float32", "bfloat16 values", "float32 values"),
        (Aim("seconds", "times", 1.10),),
        watched=True,
        floor=HELD,
    ),
    Row(
        "recording-gpu",
        "recording, Qwen2.5-7B-shaped pair, bfloat16, one GPU",
        "two bare forward passes over the same batches",
        "recording",
        RECORD,
        (BARE,),
        ("cuda",),
        (Aim("seconds", "times", 1.05), Aim("gpu_peak_bytes", "above", 1.0 * GIB)),
    ),
    Row(
        "recording-transformer-lens",
        "recording, SmolLM2-135M-shaped pair, float32, CPU",
        "TransformerLens: cache both models, subtract",
        "recording",
        RECORD,
        ("cache all, subtract", "cache the same channels, subtract"),
        ("float32",),
        (_FASTER, _SMALLER),
        peer="transformer_lens",
        watched=True,
        floor=BARE,
    ),
    Row(
        "recording-nnsight",
        "recording, SmolLM2-135M-shaped pair, float32, CPU",
        "nnsight: trace both models, subtract",
        "recording",
        RECORD,
        ("trace and subtract",),
        ("float32",),
        (_FASTER, _SMALLER),
        peer="nnsight",
        watched=True,
        floor=BARE,
    ),
    Row(
        "transfer-copy",
        "checkpoint transfer, p = 5 %, 2 GB in 4 shards, imports excluded",
        "`cp -r` of the target's folder",
        "transfers",
        "transfer_checkpoint",
        ("cp -r",),
        ("warm", "cold"),
        (Aim("seconds", "times", 1.5),),
        reached_in=("warm",),
    ),
    Row(
        "transfer-mergekit",
        "checkpoint transfer, p = 5 %, 2 GB in 4 shards, whole process",
        "mergekit task_arithmetic on the same pair",
        "mergekit",
        "actlib transfer",
        ("mergekit-yaml",),
        ("warm",),
        (Aim("seconds", "fold", 3.0), Aim("peak_bytes", "fold", 4.0)),
        floor=START,
    ),
    Row(
        "patch-apply",
        "patch apply, p = 5 %, 2 GB model in memory",
        "full `load_state_dict` from tensors in memory",
        "patching",
        "apply_patch",
        ("load_state_dict", "load files, load_state_dict"),
        ("bfloat16", "bfloat16 file"),
        (Aim("seconds", "fold", 5.0),),
        floor=COPIED,
        turns=15,
    ),
    Row(
        "rankings",
        "scores to mask, p = 5 %, all channels of Qwen2.5-7B",
        "one torch.topk over the same values",
        "rankings",
        "top",
        ("torch.topk",),
        ("global", "module", "scaled", "relative", "contrast"),
        (Aim("seconds", "times", 3.0),),
        turns=15,
    ),
)

GROWTHS = (
    Growth("growth-tokens", "recording", "tokens in all batches", "growth"),
    Growth("growth-channels", "recording", "channels, by width", "growth"),
    Growth("growth-layers", "recording", "layers", "growth"),
    Growth(
        "growth-checkpoint", "checkpoint transfer, p = 5 %", "size of checkpoint (MB)", "growth"
    ),
)

LOADS = (
    Growth("load-mask", "masks", "channels", "load", watched=True),
    Growth("load-scores", "scores of Llama-3-70B's shape", "channels, by layers", "load", 3, True),
    Growth("load-examples", "questions and a tiny pair", "questions", "load", 2, True),
    Growth("load-vocabulary", "16 items and a tiny pair", "vocabulary", "load", watched=True),
)

PROFILES = (
    Profile("profile-recording", "recording", "profiles", ("bfloat16", "float32")),
    Profile("profile-transfer", "checkpoint transfer, p = 5 %, 2 GB", "profiles", ("warm",)),
)

ALL = {each.name: each for each in (*ROWS, *GROWTHS, *LOADS, *PROFILES)}
"""Every row by its name."""
