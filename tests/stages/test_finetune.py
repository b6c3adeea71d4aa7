"""The stage in this process: what it demands, writes and starts from; two ranks are as one."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from tests.ranks import Ranks
from tests.stages.conftest import EXPORTED, LETTER, change_index, export, list_checkpoints, sections
from tests.train.corpus import LAUNCH
from vatt import load, load_classifier
from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.model.towers import collect_weights
from vatt.params import LaunchParams, ScheduleParams, TaskName
from vatt.stages.finetune import main, prepare_task
from vatt.train.finetuning import read_validations
from vatt.train.recipe import Job
from vatt.train.worker import run_job

MODEL_DIR, BEST = Path("data/finetune/video/model"), Path("data/tune/video/best.json")
VERDICT = Path("metrics/validate.json")


def finetune(name: TaskName = "video", **updates: Any) -> dict[str, Any]:
    return dict(main(**sections(name, **updates)))


@pytest.mark.parametrize("name", ["video", "audio", "image", "audio_visual"])
def test_it_writes_a_classifier_that_everyone_can_load(project: Path, name: TaskName) -> None:
    metrics = finetune(name)
    exported = load_classifier(f"data/finetune/{name}/model")
    assert exported.params.classes == ("a", "b")
    assert (exported.params.label, exported.params.task_name) == ("letter", name)
    assert exported.params.frame_rate_hz == EXPORTED.frame_rate_hz
    shapes = {"video": (4, 32, 32, 3), "audio": (38400,)}
    if name == "image":
        shapes["video"] = (2, 32, 32, 3)  # a patch long
    assert exported.input_shapes == {key: shapes[key] for key in exported.input_shapes}
    views = [torch.zeros(3, 2, *shape) for shape in exported.input_shapes.values()]
    assert exported.classify(*views).shape == (3, 2)
    rows = Path(f"metrics/finetune_{name}_curve.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [4]
    assert metrics["validation_model"].keys() == {"step", "loss", "accuracy"}
    assert metrics["num_train"] == {"a": 2, "b": 2}
    assert metrics["num_parameters"] == sum(p.numel() for p in exported.model.parameters())
    assert not metrics["is_tuned"]


def test_a_finished_run_exports_the_same_again_and_a_changed_one_does_not(project: Path) -> None:
    def read_weights() -> list[bytes]:
        return [path.read_bytes() for path in sorted(MODEL_DIR.parent.glob("*/model.safetensors"))]

    metrics, checkpoints = finetune(compare_with_scratch=True), list_checkpoints()
    model, scratch = weights = read_weights()
    assert model != scratch
    assert metrics["validation_scratch"] != metrics["validation_model"]
    assert finetune(compare_with_scratch=True, checkpoint_every_steps=1) == metrics
    assert (read_weights(), list_checkpoints()) == (weights, checkpoints)
    finetune(num_steps=3)
    (changed,) = read_weights()
    assert changed != model


def test_it_starts_from_the_towers_of_the_pretrained_network(project: Path) -> None:
    crawl = LETTER.schedule.model_copy(update={"learning_rate": 1e-12}).model_dump()
    export(EXPORTED, noise=0.5)
    finetune(schedule=crawl)
    (tower,) = load_classifier(MODEL_DIR).model.towers
    found = collect_weights(tower)
    expected = collect_weights(load("data/pretrain").model.video)
    for weight_name, weight in found.items():
        torch.testing.assert_close(weight, expected[weight_name], rtol=0, atol=1e-6)


def write_best(value: float | None = 0.5, **changes: object) -> ScheduleParams:
    """Leave what tune writes; return the best schedule."""
    best = LETTER.schedule.model_copy(update=changes)
    schedules = {"schedule": best.model_dump(), "own": LETTER.schedule.model_dump()}
    write_json(BEST, {**schedules, "value": value, "trial": 2, "study": "video-abc"})
    return best


def test_the_tuned_schedule_is_taken_in_place_of_the_own_one(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finetune()
    schedule = write_best(learning_rate=0.05, optimizer="adamw")
    metrics = finetune()
    assert "finetune video: schedule of trial 2 of study video-abc" in capsys.readouterr().out
    assert metrics["is_tuned"]
    assert metrics["schedule"] == schedule.model_dump()
    assert metrics["validation_model"] != before["validation_model"]
    task = load_classifier(MODEL_DIR).params.task
    assert task is not None
    assert task.schedule == schedule
    write_best(value=None)
    assert finetune() == before


@pytest.mark.parametrize(
    ("updates", "message"),
    [
        (
            {"schedule": LETTER.schedule.model_copy(update={"learning_rate": 0.25}).model_dump()},
            r"was found with finetune\.video\.schedule\.learning_rate = 0\.005, .* 0\.25",
        ),
        ({"num_steps": 3}, r"warmup_steps = 4 is above finetune\.video\.num_steps = 3"),
        ({}, "cannot be used"),
    ],
)
def test_a_schedule_that_was_tuned_for_another_training_is_refused(
    project: Path, updates: dict[str, Any], message: str
) -> None:
    write_best(warmup_steps=4)
    if not updates:
        BEST.write_text('{"value": 1, "schedule": {"learning_rate": 1}}')
    with pytest.raises(StageError, match=rf"best\.json: .*{message}"):
        finetune(**updates)


def test_a_task_without_labels_is_left_out_and_says_so(project: Path) -> None:
    finetune()
    metrics = finetune(label="rhythm")
    assert "no segment of the split train with a picture has a label" in metrics["skipped"]
    assert metrics["skipped"].endswith("tasks with labels there: letter")
    (left,) = Path("data/finetune/video").iterdir()
    assert left.name == "skipped.json"
    assert json.loads(left.read_text()) == {"reason": metrics["skipped"]}
    assert Path("metrics/finetune_video_curve.jsonl").read_text() == ""


def test_an_empty_split_validation_is_no_obstacle(project: Path) -> None:
    change_index("split", lambda row: row["split"].replace("validation", "test"))
    metrics = finetune()
    assert metrics["notes"] == ["the split validation has no segment to measure with"]
    assert metrics["validation_model"] is None
    assert metrics["num_validation"] == 0
    load_classifier(MODEL_DIR)


def test_labels_that_training_does_not_know_are_noted(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = json.dumps({"letter": ["c"]})
    change_index("labels", lambda row: row["labels"] if row["split"] == "train" else odd)
    metrics = finetune()
    assert "labels in the split validation that the split train has not" in metrics["notes"][1]
    assert metrics["notes"][1] in capsys.readouterr().err
    assert metrics["validation_model"]["accuracy"] == 0.0


def test_several_labels_are_measured_by_their_precision(project: Path) -> None:
    both = json.dumps({"letter": ["a", "b"]})
    first = pq.read_table("data/preprocess/index.parquet")["key"][0].as_py()
    change_index("labels", lambda row: both if row["key"] == first else row["labels"])
    assert finetune(multi_label=True)["validation_model"].keys() == {"step", "loss", "map"}


@pytest.mark.parametrize(
    ("name", "initial", "message"),
    [
        ("video", "nowhere", "nowhere"),
        ("audio", str(MODEL_DIR), "has a tower for video, none for audio"),
    ],
)
def test_it_refuses_unfit_initial_weights(
    project: Path, name: TaskName, initial: str, message: str
) -> None:
    finetune()
    with pytest.raises(StageError, match=message):
        finetune(name, initial_weights=initial)


def test_it_needs_the_verdict_on_this_very_corpus(project: Path) -> None:
    write_json(VERDICT, {"passed": True, "index_digest": "00"})
    with pytest.raises(StageError, match="is on another corpus"):
        finetune()
    assert not Path(".cache").exists()


def share(job: Job, launch: LaunchParams, directory: Path) -> Job:
    """Return the job for other ranks, in a folder of its own."""
    recipe = job.recipe.model_copy(update={"launch": launch})
    paths = {"directory": directory, "curve_path": directory / "curve.jsonl"}
    return job.model_copy(update={"recipe": recipe, **paths})


def train_in(folder: Path, jobs: list[Job]) -> None:
    os.chdir(folder)
    for job in jobs:
        run_job(job)


def prepare(optimizer: str, learning_rate: float, zero_stage: int) -> Job:
    changes = {"optimizer": optimizer, "learning_rate": learning_rate, "layer_decay": 0.8}
    schedule = LETTER.schedule.model_copy(update=changes).model_dump()
    often: dict[str, Any] = {"checkpoint_every_steps": 3, "validate_every_steps": 2}
    often |= {"keep_checkpoints": 2, "ema_decay": 0.5 if zero_stage < 3 else None}
    return prepare_task(**sections(batch_size=4, **often, schedule=schedule))[0]


@pytest.mark.slow  # tests/train/test_finetuning_engine.py goes through all stages on one process
def test_two_ranks_compute_what_one_process_does(project: Path) -> None:
    """Both see the same batches; nothing random is in the network."""
    jobs, shared = [], []
    for optimizer, stages in {("sgd", 0.05): (2, 1, 3), ("adamw", 1e-3): (1, 3)}.items():
        for zero_stage in stages:
            jobs.append(prepare(*optimizer, zero_stage))
            launch = LAUNCH.model_copy(update={"num_processes": 2, "zero_stage": zero_stage})
            shared.append(share(jobs[-1], launch, project / f"{optimizer[0]}-{zero_stage}"))
    with Ranks(2) as ranks:
        ranks.run(train_in, project, shared)
    for alone, together in zip(jobs, shared, strict=True):
        run_job(alone)
        assert_close(together, alone)
        rows = zip(read_validations(together), read_validations(alone), strict=True)
        for found, expected in rows:
            assert found == pytest.approx(expected, rel=1e-3)
        # What two ranks left, one takes up; the last checkpoint is gone.
        together.weights_path.unlink()
        shutil.rmtree(together.directory / "step-00000004")
        run_job(share(together, LAUNCH, together.directory))
        assert_close(together, alone)


def assert_close(job: Job, other: Job) -> None:
    """Compare the weights that two jobs left.

    Biases of keys have no gradient but rounding errors, which Adam makes as large as any other.
    """
    found, expected = load_file(job.weights_path), load_file(other.weights_path)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        if not name.endswith("key_value.bias"):
            torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-4, msg=name)
