"""`make results`: the demo over seeds, each by two numerical paths; writes docs/results.json.

A numerical path stands for a processor: it changes the last digits of sums, and so, after hundreds
of steps, what is learned by chance.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from vatt.core.files import write_json
from vatt.params import TASKS
from vatt.tables.claims import Value, compare_schedules, read_values, summarise_runs
from vatt.tables.document import RESULTS_PATH
from vatt.tables.run import STAGES, Run, Stage, skip

SEEDS = (2021, 2022, 2023, 2024, 2025)
"""The design of the demo was searched with the seeds 11 to 20: these saw none of it."""
RUNS_DIR = Path(".cache/results")

SHARED = ("data/preprocess", "data/pretrain", "metrics/validate.json", ".cache/evaluate")
"""What is measured and from what it starts, and what networks made of it."""


class NumericalPath(NamedTuple):
    """How the same numbers are computed."""

    name: str
    words: str
    environment: dict[str, str]
    launch: dict[str, Any]
    """What differs from the section of that name."""


PATHS = (
    NumericalPath("native", "as `make demo` computes on this machine", {}, {}),
    NumericalPath(
        "narrow",
        "ATen and NumPy without AVX-512, oneDNN without AVX2, one thread",
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX",
            "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",
        },
        {"threads_per_process": 1},
    ),
)
"""With MKL_CBWR=COMPATIBLE other matrix products would come too, in 2.3 times the time."""


def measure_results(seeds: Sequence[int] = SEEDS) -> None:
    """Run the pipeline for each seed and path, and write docs/results.json.

    Raises:
        StageError: a stage failed.
    """
    plan = [(seed, path) for seed in seeds for path in PATHS]
    num_stages = len(STAGES) + len(TASKS) + 1  # the most that `build_given` has
    values, num_cpu_s = [], 0.0
    with tqdm(total=len(plan) * num_stages, unit="stage", smoothing=0) as bar:
        for number, (seed, path) in enumerate(plan, 1):
            run = build_run(seed, path)
            run.carry_out(bar)
            given = build_given(run)
            given.carry_out(bar)
            skip(bar, number * num_stages - int(bar.n))
            values.append(_read_run(run, given))
            num_cpu_s += sum([*run.read_cpu_s().values(), *given.read_cpu_s().values()])
    content = {
        "runs": [{"seed": seed, "path": path.name} for seed, path in plan],
        "paths": {path.name: path.words for path in PATHS},
        "numbers": summarise_runs(values, [seed for seed, _ in plan]),
        "cpu_minutes": round(num_cpu_s / 60, 1),
    }
    write_json(RESULTS_PATH, content)


def build_run(seed: int, path: NumericalPath = PATHS[0], stages: Sequence[Stage] = STAGES) -> Run:
    """Return the demo with another seed and path, or the first stages of it."""
    settings = {"run": {"seed": seed}, "launch": path.launch}
    return Run(RUNS_DIR / path.name / str(seed), settings, stages, path.environment)


def build_given(run: Run) -> Run:
    """Return what a finished run lacks: fine-tuning with the schedules of params.yaml, measured.

    It is made of the tasks whose best schedule is another one; the rest was fine-tuned so already.
    """
    tasks = [task for task in TASKS if is_tuned(run, task)]
    settings = {
        **run.settings,
        "finetune": {task: {"compare_with_scratch": False} for task in tasks},
        "evaluate": {"probe_tasks": [], "lrc_steps": 0},
    }
    stages: list[Stage] = [*(("finetune", task) for task in tasks)]
    return replace(
        run,
        folder=run.folder / "given",
        settings=settings,
        stages=[*stages, ("evaluate",)] if stages else [],
        base=run,
        shared=SHARED,
    )


def is_tuned(run: Run, task: str) -> bool:
    """Return whether tuning found a schedule that is better than that of params.yaml."""
    path = run.folder / "data/tune" / task / "best.json"
    if not path.is_file():  # the task is left out
        return False
    best = json.loads(path.read_text(encoding="utf-8"))
    return bool(best["schedule"] != best["own"])


def _read_run(run: Run, given: Run) -> list[Value]:
    """Return all numbers of a seed and path."""
    tuned = run.read_metrics("evaluate")
    found = given.read_metrics("evaluate")["finetuned"] if given.stages else {}
    tasks = {stage[-1] for stage in given.stages}  # what else lies there is of an older run
    others = {"finetuned": {task: own for task, own in found.items() if task in tasks}}
    return [*read_values(tuned), *compare_schedules(tuned, others)]
