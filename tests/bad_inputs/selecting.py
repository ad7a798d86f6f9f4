"""Scores, percents and rankings."""

from bad_inputs.mistakes import MASK, RECORD, Case, cut, flip, other_model, scores_of

SELECTING = [
    Case("no scores", MASK.replace("scores", "nowhere"), ("nowhere", "actlib record")),
    Case("scores that are a folder", MASK.replace("scores", "donor"), ("donor", "actlib record")),
    Case(
        "scores that are a mask",
        MASK.replace("scores", "mask", 1)
        .replace("mask", "mask mask", 1)
        .replace("mask mask mask", "mask mask"),
        ("mask", "ChannelMask", "actlib record"),
    ),
    Case(
        "scores that are text", MASK.replace("scores", "own.jsonl"), ("own.jsonl", "actlib record")
    ),
    Case("scores cut off", MASK, ("scores", "actlib record"), cut("scores", 0.7)),
    Case(
        "scores with a flipped bit in the header",
        MASK,
        ("scores", "actlib record"),
        flip("scores", 9),
    ),
    Case("NaN among the scores", MASK, ("scores", "NaN"), lambda: scores_of(float("nan"))),
    Case("scores that are all 0", MASK, ("scores", "0"), lambda: scores_of(None)),
    *(
        Case(
            f"percent {given}",
            f"mask scores --out new --percent={given}",
            ("percent", told, "at most 100"),
        )
        for given, told in (
            ("-1", "-1"),
            ("0", "0"),
            ("101", "101"),
            ("nan", "nan"),
            ("inf", "inf"),
            ("1e-400", "0"),
        )
    ),
    Case(
        "percent that is no number",
        "mask scores --out new --percent five",
        ("percent", "five"),
        status=2,
    ),
    Case("ranking that is none", MASK + " --ranking best", ("ranking", "best", "global")),
    Case(
        "ranking without its reference", MASK + " --ranking relative", ("relative", "--reference")
    ),
    Case(
        "reference of other channels",
        MASK + " --ranking contrast --reference other",
        ("other", "another model"),
        other_model("other"),
    ),
    Case("role that is none", MASK + " --without lm_head", ("without", "lm_head", "head, linear")),
    Case("mask over its scores", "mask scores --percent 5 --out scores", ("scores", "another")),
    Case(
        "mask below a file", "mask scores --percent 5 --out own.jsonl/new", ("own.jsonl", "folder")
    ),
    Case(
        "mask in the place of a folder", "mask scores --percent 5 --out donor", ("donor", "folder")
    ),
    Case(
        "mask of a name too long", f"mask scores --percent 5 --out {'x' * 300}", ("xxx", "shorter")
    ),
    Case(
        "scores below a file",
        RECORD.replace("out new", "out own.jsonl/new"),
        ("own.jsonl", "folder"),
    ),
    Case(
        "scores over the questions",
        RECORD.replace("out new", "out own.jsonl"),
        ("own.jsonl", "another"),
    ),
    Case("no step", "steal scores", ("steal", "--help"), status=2),
]
