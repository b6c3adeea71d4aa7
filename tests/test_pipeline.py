"""dvc.yaml says what the code does: stages, parameters and the files that each stage uses."""

import inspect
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.closure import ROOT, files_used_by
from tests.orchestration.miniature import DVC
from vatt.__main__ import STAGES, TASK_STAGES
from vatt.params import TASKS, FinetuneParams, Params

PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def test_every_stage_is_a_file_a_command_and_a_stage_of_dvc() -> None:
    files = {path.stem for path in (ROOT / "vatt/stages").glob("*.py")}
    assert files - {"__init__"} == set(STAGES) == set(PIPELINE)
    assert {name: stage["cmd"] for name, stage in PIPELINE.items()} == {
        name: f"python -m vatt {name}" + (" ${item.task}" if name in TASK_STAGES else "")
        for name in STAGES
    }


def test_a_stage_of_tasks_is_a_matrix_of_all_tasks() -> None:
    matrices = {name: stage["matrix"] for name, stage in PIPELINE.items() if "matrix" in stage}
    assert matrices == {name: {"task": list(TASKS)} for name in TASK_STAGES}
    assert list(FinetuneParams.model_fields) == list(TASKS)
    for name in TASK_STAGES:
        for kind in ("outs", "metrics"):  # no two tasks write the same file
            assert all("${item.task}" in str(path) for path in PIPELINE[name][kind])


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_the_sections_that_dvc_watches(name: str) -> None:
    """A stage of tasks takes one task of the section `finetune`; DVC watches that part alone."""
    needs = list(inspect.signature(import_module(f"vatt.stages.{name}").main).parameters)
    watched = [section.removesuffix(".${item.task}") for section in PIPELINE[name]["params"]]
    assert needs == watched
    of_task = {section for section in PIPELINE[name]["params"] if "." in section}
    assert of_task == ({"finetune.${item.task}"} if name in TASK_STAGES else set())


def test_every_section_is_used_by_a_stage() -> None:
    sections = {info.alias or field for field, info in Params.model_fields.items()}
    watched = {section for stage in PIPELINE.values() for section in stage["params"]}
    assert sections == {section.removesuffix(".${item.task}") for section in watched}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_that_it_uses(name: str) -> None:
    """A missing folder would leave stale results behind; one too many repeats work for nothing.

    Launchers decide where a stage runs, never what it makes, so that mending one repeats nothing.
    """
    used = {path.relative_to(ROOT) for path in files_used_by(ROOT / f"vatt/stages/{name}.py")}
    stages = Path("vatt/stages")
    rooms = {str(path if path.parent == stages else Path(*path.parts[:2])) for path in used}
    listed = [dep for dep in PIPELINE[name]["deps"] if dep.startswith("vatt/")]
    assert sorted(listed) == sorted(rooms - {"vatt/launch"})


def test_dvc_watches_the_model_that_is_evaluated(tmp_path: Path) -> None:
    """Its files, wherever they are; the champion makes no circle, though promote writes it."""
    project, outside = tmp_path / "project", tmp_path / "outside"
    project.mkdir()
    outside.mkdir()
    (project / "champion").write_bytes((ROOT / "champion").read_bytes())
    stages = {}
    for name in ("pretrain", "evaluate", "promote"):
        stage = PIPELINE[name]
        deps = [dep for dep in stage["deps"] if dep in ("data/pretrain", "${evaluate.model}")]
        script = f"mkdir -p data/{name} && date +%N >> runs.{name} && cp runs.{name} data/{name}"
        outs = [out for out in stage["outs"] if f"data/{name}" in out]
        params = ["evaluate"] if "evaluate" in stage["params"] else []
        stages[name] = {"cmd": script, "deps": deps, "params": params, "outs": outs}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    subprocess.run([DVC, "init", "--no-scm", "--quiet"], cwd=project, check=True)

    def count_runs(model: str) -> tuple[int, ...]:
        (project / "params.yaml").write_text(yaml.safe_dump({"evaluate": {"model": model}}))
        subprocess.run([DVC, "repro", "--quiet"], cwd=project, check=True)
        return tuple(len((project / f"runs.{name}").read_text().splitlines()) for name in stages)

    (outside / "weights").write_text("one")
    assert count_runs("data/pretrain") == (1, 1, 1)
    assert count_runs(str(outside)) == (1, 2, 2)
    (outside / "weights").write_text("two")
    assert count_runs(str(outside)) == (1, 3, 3)
    assert count_runs("champion") == (1, 4, 4)
