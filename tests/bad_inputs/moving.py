"""Masks, scales, patches and outputs."""

from bad_inputs.mistakes import (
    APPLY,
    MAKE,
    MERGE,
    TRANSFER,
    Case,
    cut,
    flip,
    no_channel,
    numbers_for_a_mask,
    other_model,
    patched,
    write,
)

MOVING = [
    Case(
        "mask for another model",
        TRANSFER,
        ("mask", "another model", "no module"),
        other_model("mask"),
    ),
    Case(
        "mask that are scores",
        TRANSFER.replace("mask mask", "mask scores"),
        ("scores", "ChannelScores", "actlib mask"),
    ),
    Case(
        "mask that is a model",
        TRANSFER.replace("mask mask", "mask donor/model.safetensors"),
        ("donor/model.safetensors", "actlib mask"),
    ),
    Case("mask cut off", TRANSFER, ("mask", "actlib mask"), cut("mask", 0.5)),
    Case("mask of numbers", TRANSFER, ("mask", "yes and no"), lambda: numbers_for_a_mask()),
    Case("mask of no channel", TRANSFER, ("mask", "empty"), lambda: no_channel()),
    *(
        Case(f"scale {given}", TRANSFER + f" --scale={given}", ("scale", given, "finite"))
        for given in ("nan", "inf", "-inf")
    ),
    Case("scale beyond the numbers", TRANSFER + " --scale 1e300", ("1e+300", "infinite")),
    Case("scale that is no number", TRANSFER + " --scale much", ("scale", "much"), status=2),
    Case(
        "scale that is no number, merged", MERGE.replace("0.4", "much"), ("donor", "much", "number")
    ),
    Case("rule that is none", MERGE + " --collisions best", ("best", "largest"), status=2),
    Case(
        "output that holds something", TRANSFER, ("out", "not empty"), write("out/kept.txt", "mine")
    ),
    Case(
        "output that is the target",
        TRANSFER.replace("out out", "out target"),
        ("target", "not empty"),
    ),
    Case(
        "output that is a file",
        TRANSFER.replace("out out", "out own.jsonl"),
        ("own.jsonl", "folder"),
    ),
    Case("patch over its mask", MAKE.replace("out new", "out mask"), ("mask", "another")),
    Case(
        "patch that is not there",
        APPLY.replace("patch patch", "patch nowhere", 1).replace(
            "patch apply patch", "patch apply nowhere"
        ),
        ("nowhere", "actlib patch make"),
    ),
    Case("patch cut off", APPLY, ("patch", "copy"), cut("patch", 0.9)),
    Case(
        "patch with a flipped bit in its numbers",
        APPLY,
        ("patch", "damaged", "copy"),
        flip("patch", -3),
    ),
    Case(
        "patch for another target",
        APPLY.replace("target target", "target base"),
        ("patch", "made for"),
    ),
    Case(
        "patch applied twice",
        APPLY.replace("target target", "target moved"),
        ("already", "patch"),
        lambda: patched(),
    ),
    Case(
        "patch taken back from where it is not",
        APPLY.replace("apply", "revert"),
        ("patch", "target"),
    ),
    Case("patch with metadata of its own", MAKE + " --metadata scale=2", ("scale", "patch")),
    Case("metadata without a text", MAKE + " --metadata license", ("KEY=TEXT", "license")),
]
