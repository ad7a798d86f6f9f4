# The study as files: models, recorded scores, executed notebooks. Run by `make study`, or alone:
#
#     snakemake --cores 2 --config preset=tiny figures=artifacts/tiny/figures
#
# or for a pair of one's own, with a report at the end, by `actlib run mine.yaml`.
#
# A model is rebuilt when its recipe changes, scores when a model or the recording code does, a
# notebook when it, its preset, the package or what it reads does. `make sweep` asks for the rule
# `sweep`, whose jobs keep each cell on disk; its tables, kept in data/sweeps, are only read here.
import os
import sys
from pathlib import Path

from actlib.study.families import model_folder
from actlib.study.job_needs import job_cores, job_needs
from actlib.study.locking import claim
from actlib.study.presets import LoadedModel, TunedModel, WheelModel, load_preset, preset_file
from actlib.study.recipes import recipe
from actlib.study.questions import question_files
from actlib.study.sweep_parts import PARTS
from actlib.study.sweeps import KEPT, MEASURING

CHOICE = config.get("preset", "smol")
FIGURES = config.get("figures", "")
try:
    PRESET = load_preset(CHOICE)
except ValueError as error:
    sys.exit(f"error: {error}")
PRESET_FILE = os.path.relpath(preset_file(CHOICE))
STORE = Path(os.environ.get("ACT_STORE", "artifacts"))
OUT = STORE / PRESET.name
# One run at a time in a preset's folder. Snakemake's own locks outlive a killed run, this one does
# not, so the profiles turn those off.
if workflow.is_main_process and not {"-n", "--dry-run", "--dryrun", "--lint"} & set(sys.argv):
    try:
        RUN_LOCK = claim(OUT / ".lock", f"run of {PRESET.name}")
    except ValueError as error:
        sys.exit(f"error: {error}")
CODE = sorted(str(path) for path in Path("actlib").rglob("*.py"))
RECORDING = "recording activations kernels forward hooks channels experts scores processes prompts"
RECORDING_CODE = [f"actlib/{name}.py" for name in RECORDING.split()]
# Measured on two CPU cores; other presets have no estimate.
MINUTES = {
    "smol": {"wheel": 0.5, "step": 0.06, "record": 1, "notebook": 2, "sweep": 6},
    "tiny": {"step": 0.002, "record": 0.3, "notebook": 0.5, "sweep": 1},
}

SWEEP = PRESET.sweep
SEEDS = sorted({*PRESET.seeds, *(SWEEP.seeds if SWEEP else [])})
LOADED = [spec.load for spec in PRESET.models.values() if isinstance(spec, LoadedModel)]
# Small models share the machine, one core a job; large ones that someone brings get it whole. Of a
# cluster, which has no total of cores, a job asks for a number.
ON_CLUSTER = workflow.non_local_exec or workflow.remote_exec or workflow.dryrun
JOB_THREADS = job_cores(PRESET) if ON_CLUSTER or not LOADED else workflow.cores or 1
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


def asked(kind):
    """Resources of a job; GPUs by --config gpus=N gpu_model=NAME, or by the preset, or none."""
    return job_needs(PRESET, kind, config.get("gpus"), config.get("gpu_model", ""))


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
    "00_models_and_data": needs(*PRESET.judged_models),
    "01_concentration": needs(*PAIR, scores=True),
    "02_disentanglement": needs(*PAIR, scores=True),
    "03_sufficiency": needs(*PAIR, scores=True),
    "04_stability": needs(*PAIR, *DONORS, scores=True),
    "05_transfer": needs(*PAIR, scores=True),
    "06_merging": needs(ROLES.base, *ROLES.specialists),
}
NOTEBOOKS = {name: files for name, files in NOTEBOOKS.items() if name[:2] not in PRESET.left_out}
# The last puts together what the others left, beside the kept tables of the other families.
OTHERS = [*Path("figures").glob("*/tab*.csv"), *KEPT.glob("*/*.parquet")]
if "07" not in PRESET.left_out:
    NOTEBOOKS["07_claims"] = [str(OUT / f"notebooks/{name}.ipynb") for name in NOTEBOOKS]
    NOTEBOOKS["07_claims"] += sorted(
        os.path.relpath(path) for path in OTHERS if path.parent.name != PRESET.name
    )
# The shipped questions are part of the project; those of one's own may change between two runs.
OWN_QUESTIONS = [str(path) for path in question_files(PRESET.data)] if LOADED else []
# Where a sweep of the preset is kept, notebooks read its tables; no rule of `all` makes them.
SWEPT = sorted(os.path.relpath(path) for path in (KEPT / PRESET.name).glob("*.parquet"))
# The longest first, so that none of them is left to run alone at the end.
LONG = {"05_transfer": 3, "03_sufficiency": 2, "06_merging": 1}


MERGED = list(dict.fromkeys([ROLES.base, *ROLES.specialists, *(ROLES.three_specialists or [])]))
# The parts that take longest first.
URGENT = {"sft": 3, "merging": 2, "transfer": 1}


rule all:
    input:
        expand(str(OUT / "notebooks/{notebook}.ipynb"), notebook=NOTEBOOKS),
    default_target: True


for model, spec in PRESET.models.items():
    # A model out of a wheel has no seed: one folder serves them all.
    wheel = isinstance(spec, WheelModel)
    for seed in PRESET.seeds[:1] if wheel else SEEDS:
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
                    **asked("build"),
                priority: steps_ahead(model)
                shell:
                    THREADS + "\n{sys.executable} -m actlib step build {params.build}"


for seed in SEEDS:

    rule:
        name:
            f"record_seed{seed}"
        message:
            f"Activation differences of donor and target, seed {seed}{expected('record')}"
        input:
            [
                file
                for name in [*PAIR, *(DONORS if seed in PRESET.seeds else [])]
                for file in built(name, seed)
            ],
            RECORDING_CODE,
            OWN_QUESTIONS,
        output:
            OUT / f"scores/seed{seed}/recorded.json",
        params:
            record=f"--preset '{CHOICE}' --seed {seed}",
        threads: JOB_THREADS
        resources:
            **asked("record"),
        shell:
            THREADS + "\n{sys.executable} -m actlib step record {params.record}"


if SWEEP:

    rule sweep:
        message:
            "The tables of the sweep, in data/sweeps"
        input:
            [
                OUT / f"sweep/{part}-{bundle}-seed{seed}.json"
                for part in PARTS
                for bundle in PARTS[part].bundles
                for seed in SWEEP.seeds
            ],
        shell:
            f"{sys.executable} -m actlib step collect --preset '{CHOICE}'"

    for seed in SWEEP.seeds:

        rule:
            name:
                f"record_specialists_seed{seed}"
            message:
                f"Activation differences of the specialists and the base, seed {seed}"
                + expected("record")
            input:
                [file for name in MERGED for file in built(name, seed)],
                RECORDING_CODE,
            output:
                OUT / f"scores/seed{seed}/specialists.json",
            params:
                record=f"--preset '{CHOICE}' --seed {seed} --merging",
            threads: JOB_THREADS
            resources:
                **asked("record"),
            shell:
                THREADS + "\n{sys.executable} -m actlib step record {params.record}"

        for part in PARTS:
            for bundle in PARTS[part].bundles:

                rule:
                    name:
                        f"sweep_{part}_{bundle}_seed{seed}"
                    message:
                        f"Sweep: {part}, {bundle}, seed {seed}{expected('sweep')}"
                    input:
                        str(OUT / f"scores/seed{seed}/recorded.json"),
                        str(OUT / f"scores/seed{seed}/specialists.json") if part == "merging" else [],
                    output:
                        OUT / f"sweep/{part}-{bundle}-seed{seed}.json",
                    params:
                        run=f"--preset '{CHOICE}' --part {part} --bundle {bundle} --seed {seed}",
                        settings=SWEEP.model_dump_json() + str(MEASURING),
                    threads: JOB_THREADS
                    priority: URGENT.get(part, 0)
                    resources:
                        **asked("sweep"),
                    shell:
                        THREADS + "\n{sys.executable} -m actlib step sweep {params.run}"


for notebook, inputs in NOTEBOOKS.items():

    rule:
        name:
            f"notebook_{notebook}"
        message:
            f"Notebook {notebook}{expected('notebook')}"
        input:
            inputs,
            SWEPT,
            OWN_QUESTIONS,
            notebook=f"notebooks/{notebook}.ipynb",
            preset=PRESET_FILE,
            code=CODE,
        output:
            OUT / f"notebooks/{notebook}.ipynb",
        log:
            OUT / f"logs/{notebook[:2]}.log",
        params:
            partial=OUT / f"logs/{notebook}.partial.ipynb",
            choice=f"--preset '{CHOICE}'" + f" --figures '{FIGURES}'" * bool(FIGURES),
        threads: JOB_THREADS
        priority: LONG.get(notebook, 0)
        resources:
            **asked("tuning" if notebook == "05_transfer" else "notebook"),
        shell:
            THREADS + """
            {sys.executable} -m actlib step notebook --source {input.notebook} \
                --partial {params.partial} --out {output} {params.choice} 2>&1 | tee {log}
            """
