# The study as files: models, recorded scores, executed notebooks. Run by `make study`, or alone:
#
#     snakemake --cores 2 --config preset=tiny figures=artifacts/tiny/figures
#
# A model is rebuilt when its recipe changes, scores when a model or the recording code does, a
# notebook when it, its preset, the package or what it reads does.
import os
import sys
from pathlib import Path

from actlib.families import model_folder, recipe
from actlib.presets import LoadedModel, TunedModel, WheelModel, load_preset, preset_file

CHOICE = config.get("preset", "smol")
FIGURES = config.get("figures", "")
try:
    PRESET = load_preset(CHOICE)
except ValueError as error:
    sys.exit(f"error: {error}")
PRESET_FILE = os.path.relpath(preset_file(CHOICE))
STORE = Path(os.environ.get("ACT_STORE", "artifacts"))
OUT = STORE / PRESET.name
CODE = sorted(str(path) for path in Path("actlib").glob("*.py"))
RECORDING_CODE = [f"actlib/{name}.py" for name in ("localize", "hooks", "channels", "prompts")]
# Measured on two CPU cores; other presets have no estimate.
MINUTES = {
    "smol": {"wheel": 0.5, "step": 0.06, "record": 1, "notebook": 2},
    "tiny": {"step": 0.002, "record": 0.3, "notebook": 0.5},
}

LOADED = [spec.load for spec in PRESET.models.values() if isinstance(spec, LoadedModel)]
# Small models share the machine, one core a job; large ones that someone brings get it whole.
JOB_THREADS = (workflow.cores or 1) if LOADED else 1
if all(Path(place).exists() for place in LOADED):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
THREADS = "export " + " ".join(
    f"{name}_NUM_THREADS={{threads}}" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
)


def built(name, seed):
    """Files that say a model is there; none for one on the Hub."""
    folder = Path(model_folder(PRESET, name, seed, STORE))
    if isinstance(PRESET.models[name], LoadedModel):
        return [str(folder / "config.json")] if folder.is_dir() else []
    return [str(folder / "built.json")]


def needs(*names, scores=False):
    """Models of all seeds, and the recorded scores, that a notebook reads."""
    files = [file for seed in PRESET.seeds for name in names for file in built(name, seed)]
    recorded = [str(OUT / f"scores/seed{seed}/recorded.json") for seed in PRESET.seeds]
    return list(dict.fromkeys(files)) + recorded * scores


def steps_ahead(name):
    """Training steps of the longest chain that starts with a model: the longest goes first."""
    children = [
        child
        for child, spec in PRESET.models.items()
        if isinstance(spec, TunedModel) and spec.start == name
    ]
    own = getattr(PRESET.models[name], "steps", 0)
    return own + max(map(steps_ahead, children), default=0)


def expected(kind, amount=1):
    """Time that a job takes, for its message."""
    minutes = MINUTES.get(PRESET.name, {}).get(kind)
    if minutes is None:
        return ""
    return f", about {max(amount * minutes * 60, 1):.0f} s" if amount * minutes < 1 else (
        f", about {amount * minutes:.0f} min"
    )


ROLES = PRESET.roles
PAIR = [ROLES.donor, ROLES.target]
DONORS = [ROLES.second_donor] if ROLES.second_donor else []
NOTEBOOKS = {
    "00_models_and_data": needs(*PRESET.models),
    "01_concentration": needs(*PAIR, scores=True),
    "02_disentanglement": needs(*PAIR, scores=True),
    "03_sufficiency": needs(*PAIR, scores=True),
    "04_stability": needs(*PAIR, *DONORS, scores=True),
    "05_transfer": needs(*PAIR, scores=True),
    "06_merging": needs(ROLES.base, *ROLES.specialists),
}
# The longest first, so that none of them is left to run alone at the end.
LONG = {"05_transfer": 3, "03_sufficiency": 2, "06_merging": 1}
# Only what differs from the notebook's own parameters, so that a default run adds no cell.
PARAMETERS = [f"-r preset '{CHOICE}'"] * (CHOICE != "smol") + [f"-r figures '{FIGURES}'"] * bool(FIGURES)


rule all:
    input:
        expand(str(OUT / "notebooks/{notebook}.ipynb"), notebook=NOTEBOOKS),
    default_target: True


for model, spec in PRESET.models.items():
    # A model out of a wheel has no seed: one folder serves them all.
    wheel = isinstance(spec, WheelModel)
    for seed in PRESET.seeds[:1] if wheel else PRESET.seeds:
        if not isinstance(spec, LoadedModel):

            rule:
                name:
                    f"model_{model}" if wheel else f"model_{model}_seed{seed}"
                message:
                    (
                        f"Model {model} out of its wheel{expected('wheel')}"
                        if wheel
                        else f"Model {model}, seed {seed}: {spec.steps} training steps"
                        + expected("step", spec.steps)
                    )
                input:
                    built(spec.start, seed) if isinstance(spec, TunedModel) else [],
                output:
                    built(model, seed),
                params:
                    recipe=recipe(PRESET, model, seed),
                    build=f"--preset '{CHOICE}' --model {model} --seed {seed}",
                threads: JOB_THREADS
                resources:
                    mem_mb=6000,
                    runtime=30,
                priority: steps_ahead(model)
                shell:
                    THREADS + "\n{sys.executable} -m actlib build {params.build}"


for seed in PRESET.seeds:

    rule:
        name:
            f"record_seed{seed}"
        message:
            f"Activation differences of donor and target, seed {seed}{expected('record')}"
        input:
            [file for name in [*PAIR, *DONORS] for file in built(name, seed)],
            RECORDING_CODE,
        output:
            OUT / f"scores/seed{seed}/recorded.json",
        params:
            record=f"--preset '{CHOICE}' --seed {seed}",
        threads: JOB_THREADS
        resources:
            mem_mb=6000,
            runtime=30,
        shell:
            THREADS + "\n{sys.executable} -m actlib record {params.record}"


for notebook, inputs in NOTEBOOKS.items():

    rule:
        name:
            f"notebook_{notebook}"
        message:
            f"Notebook {notebook}{expected('notebook')}"
        input:
            inputs,
            notebook=f"notebooks/{notebook}.ipynb",
            preset=PRESET_FILE,
            code=CODE,
        output:
            OUT / f"notebooks/{notebook}.ipynb",
        log:
            OUT / f"logs/{notebook[:2]}.log",
        params:
            partial=OUT / f"logs/{notebook}.partial.ipynb",
            parameters=" ".join(PARAMETERS),
        threads: JOB_THREADS
        priority: LONG.get(notebook, 0)
        resources:
            mem_mb=6000,
            runtime=60,
        shell:
            THREADS + """
            {sys.executable} -m papermill {input.notebook} {params.partial} {params.parameters} \
                --kernel python3 --progress-bar 2>&1 | tee {log}
            mv {params.partial} {output}
            """
