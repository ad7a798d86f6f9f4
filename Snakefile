# The study as files: `snakemake --cores 2 --config preset=tiny -- study`, or sweep, or keep.
# `sweep/seedN` fills the cache, `sweep` reads all seeds, and so does `keep`, asserting sentences.
import json
import os
import sys
from pathlib import Path

from actlib.study.families import model_folder
from actlib.study.locking import locked
from actlib.study.presets import choice_of, load_preset
from actlib.study.questions import data_digest
from actlib.study.recipes import content_digest, recipe
from actlib.study.recorded import RECORDERS, recording_code
from actlib.study.sources import digest_notebook

try:
    PRESET = load_preset(CHOICE := choice_of(config.get("preset", "tiny")))
    OUT = Path(os.environ.get("ACT_STORE", "artifacts")).resolve() / PRESET.name
    # One run at a time in a preset's folder. Snakemake's own locks outlive a killed run.
    if workflow.is_main_process and not {"-n", "--dry-run", "--dryrun", "--lint"} & set(sys.argv):
        RUN_LOCK = locked(OUT / ".lock", f"running {PRESET.name}", wait=False)
except (ValueError, OSError) as error:
    sys.exit(f"error: {error}")
os.environ |= {"ACT_STORE": str(OUT.parent), "TOKENIZERS_PARALLELISM": "false"}
if all(Path(spec.load).exists() for spec in PRESET.loaded.values()):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
STEMS = sorted(path.stem for path in Path("notebooks").glob("*.ipynb"))
STEMS = [stem for stem in STEMS if stem[:2] not in PRESET.left_out]
# What is not a file that a rule makes: the questions, and models that someone brings.
GIVEN = [data_digest(PRESET.data), *(content_digest(PRESET, name, 0) for name in PRESET.loaded)]
# Small models share the machine, one core a job; large ones that someone brings get it whole.
THREADS = (workflow.cores or 8) if PRESET.loaded else 1
COUNTS = (f"{name}_NUM_THREADS={{threads}}" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"))
PYTHON = f"export {' '.join(COUNTS)}\n{sys.executable} -m "

def built(names, seeds):
    """Files that say that models are there; none for those that someone brings."""
    made = [(name, seed) for seed in seeds for name in names if name not in PRESET.loaded]
    return list(dict.fromkeys(f"{model_folder(PRESET, *m, OUT.parent)}/built.json" for m in made))

def model_of(wildcards):
    """Name and training seed of a model's folder."""
    name, _, seed = wildcards.model.rpartition("-seed")
    return (name, int(seed)) if name else (seed, 0)

def parameters_of(wildcards):
    """What papermill gives to a notebook."""
    run = PRESET.study if wildcards.run == "study" else PRESET.sweep
    one = wildcards.run.removeprefix("sweep/seed")
    values = {"preset": CHOICE, "seeds": [int(one)] if one.isdigit() else run.seeds}
    return values | run.parameters.get(wildcards.notebook[:2], {})

def inputs_of(wildcards):
    """Notebooks that 07 reads; models and scores, where rows are not read from `data/items`."""
    run, stem, seeds = wildcards.run, wildcards.notebook, parameters_of(wildcards)["seeds"]
    files = [str(OUT / run / f"notebooks/{each}.ipynb") for each in STEMS if each < "07" == stem[:2]]
    if "ACT_READ_COMMITTED" in os.environ:
        return files
    kinds = RECORDERS if stem.startswith("08") else ["differences"]
    files += [str(OUT / f"scores/{kind}-seed{seed}.json") for kind in kinds for seed in seeds]
    if stem[:2] != "07" and run in ("sweep", "keep"):
        files += [str(OUT / f"sweep/seed{seed}/notebooks/{stem}.ipynb") for seed in seeds]
    return files + built(PRESET.roles.names, seeds)

wildcard_constraints: run=r"study|keep|sweep(/seed\d+)?", model=r"[^/]+", seed=r"\d+"
for goal in ["study", "sweep", "keep"] if PRESET.sweep else ["study"]:
    rule:
        name: goal
        input: [str(OUT / goal / f"notebooks/{stem}.ipynb") for stem in STEMS]

rule model:
    message: "Model {wildcards.model}"
    input: lambda w: built(PRESET.ancestors(model_of(w)[0])[:1], [model_of(w)[1]])
    output: OUT / "models/{model}/built.json"
    log: OUT / "logs/{model}.log"
    params:
        recipe=lambda w: recipe(PRESET, *model_of(w)),
        which=lambda w: "--model {} --seed {}".format(*model_of(w)),
    threads: THREADS
    shell: PYTHON + "actlib step build --preset {CHOICE:q} {params.which} > {log:q} 2>&1"

rule scores:
    message: "Recording {wildcards.kind}, seed {wildcards.seed}"
    input: lambda w: built(PRESET.roles.names, [int(w.seed)])
    output: OUT / "scores/{kind}-seed{seed}.json"
    log: OUT / "logs/scores-{kind}-seed{seed}.log"
    params:
        given=[*GIVEN, PRESET.evaluation.model_dump_json()],
        code=lambda w: recording_code(w.kind),
        which=lambda w: f"--kind {w.kind} --seed {w.seed}",
    threads: THREADS
    shell: PYTHON + "actlib step record --preset {CHOICE:q} {params.which} > {log:q} 2>&1"

rule notebook:
    message: "Notebook {wildcards.notebook} ({wildcards.run})"
    input: inputs_of
    output: OUT / "{run}/notebooks/{notebook}.ipynb"
    log: OUT / "{run}/logs/{notebook}.log"
    params:
        partial=str(OUT / "{run}/logs/{notebook}.partial.ipynb"),
        results=lambda w: OUT / w.run / "results",
        asserting=lambda w: PRESET.name if w.run == "keep" else "",
        values=lambda w: json.dumps(parameters_of(w)),
        given=[*GIVEN, PRESET.model_dump_json()],
        text=lambda w: digest_notebook(Path(f"notebooks/{w.notebook}.ipynb")),
    threads: THREADS
    shell:
        "export ACT_RESULTS={params.results:q} ACT_KEPT_RUN={params.asserting} \n" + PYTHON +
        "papermill notebooks/{wildcards.notebook}.ipynb {params.partial:q} --cwd notebooks "
        "--kernel python3 -y {params.values:q} > {log:q} 2>&1 && mv {params.partial:q} {output:q}"
