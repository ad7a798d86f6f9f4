"""What one job of a study asks for where a scheduler shares a cluster: memory, time, cores, GPUs.

    job_needs(load_preset("smol"), "notebook")              # {"mem_mb": 6000, "runtime": 60}
    job_needs(load_preset("qwen2.5-7b"), "record")          # with "gpu": 1

These are limits, above which a scheduler ends a job, and no estimates. The `Snakefile` declares
them for each rule; on one machine without a scheduler nothing is held to them.
"""

from pathlib import Path

from actlib.study.presets import LoadedModel, Preset

MINUTES = {"build": 30, "record": 30, "sweep": 120, "notebook": 60, "tuning": 60}
"""Limit of a job by its kind, for the small families that the project builds itself."""
BROUGHT_MINUTES = 480
"""Limit of any job on models that someone brings, whose speed nobody here knows."""
BROUGHT_CORES = 8
MEMORY_MB = 6000
"""Enough for every job of the small families; what a job on bigger models needs comes beside it."""
TUNED_OVER_STORED = 8
"""Fine-tuning holds weights, gradients and two moments in float32: 16 bytes for each 2 stored."""


def job_needs(
    preset: Preset, kind: str, gpus: int | None = None, gpu_model: str = ""
) -> dict[str, int | str]:
    """Resources of one job, by the names that Snakemake's executors know.

    What the preset's section ``jobs`` says comes first. Else models in folders add to the memory
    what their files hold, twice, and where one is fine-tuned (kinds ``tuning`` and ``sweep``) 16
    bytes a parameter; files of bfloat16 are assumed. Nothing is known of models of the Hub.

    Args:
        preset: whose study it is.
        kind: ``build``, ``record``, ``sweep``, ``notebook``, or ``tuning`` for one that fine-tunes.
        gpus: in place of the preset's number.
        gpu_model: name by which the cluster knows a GPU; any if empty.

    Returns:
        ``mem_mb`` in MiB, ``runtime`` in minutes and, only where there are any, ``gpu`` and
        ``gpu_model``.

    Raises:
        ValueError: the kind is unknown, or the number of GPUs is negative.
    """
    if kind not in MINUTES:
        raise ValueError(f"the kind of a job must be one of {', '.join(MINUTES)}, got {kind!r}")
    jobs, count = preset.jobs, preset.jobs.gpus if gpus is None else gpus
    if count < 0:
        raise ValueError(f"the number of GPUs must not be negative, got {count}")
    minutes = BROUGHT_MINUTES if brought(preset) else MINUTES[kind]
    memory = _memory_mb(preset, kind) if jobs.memory_gb is None else round(jobs.memory_gb * 1024)
    needs: dict[str, int | str] = {
        "mem_mb": memory,
        "runtime": minutes if jobs.hours is None else max(round(jobs.hours * 60), 1),
    }
    if count:
        needs["gpu"] = count
        needs |= {"gpu_model": gpu_model} if gpu_model else {}
    return needs


def job_cores(preset: Preset) -> int:
    """CPU cores of one job on a cluster: the preset's, else 1 for the small families and 8."""
    return preset.jobs.cores or (BROUGHT_CORES if brought(preset) else 1)


def brought(preset: Preset) -> list[str]:
    """Places of the models that someone brings, folders or Hub ids, each once."""
    places = [spec.load for spec in preset.models.values() if isinstance(spec, LoadedModel)]
    return list(dict.fromkeys(places))


def _memory_mb(preset: Preset, kind: str) -> int:
    stored = [
        sum(file.stat().st_size for file in Path(place).glob("*.safetensors"))
        for place in brought(preset)
    ]
    beside = 2 * sum(stored)
    if kind in ("tuning", "sweep"):
        beside += TUNED_OVER_STORED * max(stored, default=0)
    return MEMORY_MB + round(beside / 2**20)
