"""Presets, and steps of the study."""

from bad_inputs.mistakes import RUN, Case, gpt2, preset, rows, write

PRESETS = [
    Case("preset that is none", "run nope", ("nope", "smol", "YAML")),
    Case("preset that is a folder", "run donor", ("donor", "YAML")),
    Case(
        "preset with a key twice", RUN, ("pair.yaml", "lost", "twice"), preset("lost: [en-maths]\n")
    ),
    Case(
        "preset with a tab",
        RUN,
        ("pair.yaml", "YAML", "tab"),
        preset("evaluation:\n\tbatch_size: 2\n"),
    ),
    Case("preset with an open bracket", RUN, ("pair.yaml", "YAML", "line"), preset("seeds: [0\n")),
    Case("preset of no byte", RUN, ("pair.yaml", "donor"), write("pair.yaml", "")),
    Case(
        "preset in Latin-1",
        RUN,
        ("pair.yaml", "UTF-8"),
        write("pair.yaml", "name: é".encode("latin-1")),
    ),
    Case(
        "preset with an unknown key", RUN, ("pair.yaml", "retaind"), preset("retaind: [en-maths]\n")
    ),
    Case("preset without questions", RUN, ("pair.yaml", "questions"), preset(questions=None)),
    Case(
        "preset with questions that are not there",
        RUN,
        ("pair.yaml", "nowhere.jsonl"),
        preset(questions="nowhere.jsonl"),
    ),
    Case("preset of an unknown ability", RUN, ("de-maths", "fr-maths"), preset(lost=["de-maths"])),
    Case(
        "preset with a word that YAML reads as no word",
        RUN,
        ("pair.yaml", "lost", "quote"),
        preset(lost=[False]),
    ),
    Case(
        "preset with a parameter that no notebook has",
        RUN,
        ("percent", "notebook 03", "percents"),
        preset(study={"parameters": {"03": {"percent": 5}}}),
    ),
    Case(
        "preset with an endless learning rate",
        RUN,
        ("pair.yaml", "learning_rate", "finite"),
        preset(sft={"learning_rate": float("inf")}),
    ),
    Case(
        "preset with a negative seed",
        RUN,
        ("pair.yaml", "seeds", "0"),
        preset(study={"seeds": [-1]}),
    ),
    Case(
        "preset with a number for a model", RUN, ("pair.yaml", "donor"), preset(donor={"load": 3})
    ),
    Case(
        "preset whose model is not there", RUN, ("nowhere/at/all",), preset(donor="nowhere/at/all")
    ),
    Case(
        "preset of an unknown role",
        "step build --preset pair.yaml --model nobody",
        ("nobody", "donor"),
    ),
    Case("preset of models that do not fit", RUN, ("do not fit",), gpt2("donor")),
    Case(
        "preset with too few questions",
        RUN,
        ("fr-maths", "too few"),
        rows(
            *(
                {"question": f"{n}", "answer": "b", "ability": a}
                for n in range(2)
                for a in ("fr-maths", "en-maths")
            )
        ),
    ),
    Case(
        "seed below 0",
        "step build --preset tiny --model base --seed -1",
        ("--seed", "-1", "equal to 0"),
        status=2,
    ),
    Case(
        "seed below 0, recorded",
        "step record --preset tiny --seed -1",
        ("--seed", "-1", "equal to 0"),
        status=2,
    ),
    Case(
        "seed too large",
        "step build --preset tiny --model base --seed 4294967296",
        ("--seed", "4294967296"),
        status=2,
    ),
    Case("notebook that is none", "run pair.yaml --notebooks 77", ("notebooks", "77", "01")),
    Case("no core", RUN + " --cores 0", ("--cores", "0", "equal to 1"), status=2),
]
