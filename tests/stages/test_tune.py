"""The stage with real training: what it writes, and that the split test is out of its reach."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.closure import ROOT
from tests.stages.conftest import EXPORTED
from tests.stages.test_finetune import RUN, change_index, params_with, pass_validation
from tests.stages.tuned_twice import TUNE
from tests.train.corpus import LAUNCH
from vatt.data.labelled import Wanted, read_labelled
from vatt.data.splits import hide_test_split
from vatt.params import ScheduleParams, StageError, TaskName
from vatt.stages.tune import main

CAN_TUNE = [*(ROOT / "vatt/tuning").glob("*.py"), *(ROOT / "vatt/train").rglob("*.py")]
CAN_TUNE += [ROOT / "vatt/stages/tune.py", ROOT / "vatt/stages/finetuning.py"]
CAN_TUNE += [ROOT / "vatt/data/splits.py"]


def tune(task: TaskName = "video", label: str = "letter") -> dict[str, Any]:
    return dict(main(task, RUN, EXPORTED.clip, params_with(label=label), TUNE, LAUNCH))


def test_it_finds_the_same_without_the_split_test_and_never_opens_it(project: Path) -> None:
    command = [sys.executable, "-m", "tests.stages.tuned_twice", "video"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    opened = {Path(line.partition(": ")[2]).name for line in lines if line.startswith("opened: ")}
    assert {"train-000000.tar", "validation-000000.tar"} <= opened
    assert not any(name.startswith("test") for name in opened)

    found = {name: read(Path(f"data/{name}/trials.json")) for name in ("healthy", "poisoned")}
    assert found["healthy"].pop("study") != found["poisoned"].pop("study")  # of other data
    assert found["healthy"] == found["poisoned"]
    trials = found["healthy"]["trials"]
    assert [trial["trial"] for trial in trials] == [0, 1, 2]
    assert len({trial["schedule"]["learning_rate"] for trial in trials}) == 3
    assert all([row["step"] for row in trial["steps"]] == [4] for trial in trials)

    best = read(Path("data/healthy/best.json"))
    ScheduleParams.model_validate(best["schedule"])
    values = [trial["value"] for trial in trials]
    assert best["value"] == max(values)
    assert best["trial"] == values.index(max(values))
    assert Path("data/healthy/history.svg").read_text().startswith("<?xml")
    assert sum("3 of 3" in line for line in lines) == 2


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_the_corpus_of_tuning_has_no_split_test(project: Path) -> None:
    wanted = Wanted("letter", ("video",), multi_label=False)
    hide_test_split(Path("data/preprocess"), Path("hidden"))
    for folder, num_segments in (("data/preprocess", 4), ("hidden", 0)):
        corpus = read_labelled(Path(folder), wanted, ("train", "validation", "test"))
        assert (len(corpus.splits["train"]), len(corpus.splits["validation"])) == (4, 1)
        assert len(corpus.splits["test"]) == num_segments
    shards = {path.name for path in Path("hidden/shards").iterdir()}
    assert shards == {"train-000000.tar", "validation-000000.tar"}


def test_no_module_that_tunes_or_trains_names_the_split_test() -> None:
    named = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in CAN_TUNE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == "test"
    ]
    assert len(CAN_TUNE) > 30
    assert not named


def test_a_task_without_labels_is_left_out(project: Path) -> None:
    pass_validation()
    metrics = tune(label="colour")
    assert "has a label of the task 'colour'" in metrics["skipped"]
    assert read(Path("data/tune/video/skipped.json")) == {"reason": metrics["skipped"]}
    assert [path.name for path in Path("data/tune/video").iterdir()] == ["skipped.json"]


def test_a_task_that_cannot_be_measured_is_left_out(project: Path) -> None:
    change_index("labels", lambda row: "{}" if row["split"] == "validation" else row["labels"])
    metrics = tune()
    assert metrics == {"skipped": "the split validation has no segment to measure with"}
    assert [path.name for path in Path("data/tune/video").iterdir()] == ["skipped.json"]


def test_a_corpus_that_was_not_validated_is_refused(project: Path) -> None:
    with pytest.raises(StageError, match="on another corpus"):
        tune()
