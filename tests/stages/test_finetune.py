"""The stage in this process: what it demands, what it writes, what it starts from."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.stages.conftest import EXPORTED, export
from tests.train.corpus import LAUNCH
from tests.train.tasks import TASK
from vatt import load
from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.model.towers import collect_weights
from vatt.params import LaunchParams, RunParams, ScheduleParams, Task, TaskName, TaskParams
from vatt.stages.finetune import main
from vatt.weights.inference import load_classifier

RUN = RunParams(seed=3)
LETTER = TASK.model_copy(
    update={"label": "letter", "initial_weights": "pretrain", "num_steps": 4, "batch_size": 2}
)


def sections(
    name: TaskName = "video", launch: LaunchParams = LAUNCH, **updates: Any
) -> dict[str, Any]:
    """Return what a stage of tasks takes; tasks are alike, but for the fusion that one needs."""
    fusion = "concatenation" if name == "audio_visual" else None
    task = TaskParams.model_validate({**LETTER.model_dump(), "fusion": fusion, **updates})
    shared = {"run": RUN, "clip": EXPORTED.clip, "model": EXPORTED.model, "launch": launch}
    return {**shared, "finetune": Task(name, task)}


def finetune(name: TaskName = "video", **updates: Any) -> dict[str, Any]:
    return dict(main(**sections(name, **updates)))


def pass_validation() -> None:
    content = Path("data/preprocess/index.parquet").read_bytes()
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    write_json(Path("metrics/validate.json"), {"passed": True, "index_digest": digest})


def change_index(column: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a column of the index, row by row, and let the corpus pass."""
    path = Path("data/preprocess/index.parquet")
    index = pq.read_table(path)
    position = index.schema.get_field_index(column)
    values = pa.array([change(row) for row in index.to_pylist()])
    pq.write_table(index.set_column(position, index.schema.field(column), values), path)
    pass_validation()


@pytest.fixture
def validated(project: Path) -> Path:
    """The current folder after `validate` passed the corpus and `pretrain` was done."""
    pass_validation()
    return project


@pytest.mark.parametrize("name", ["video", "audio", "image", "audio_visual"])
def test_it_writes_a_classifier_that_everyone_can_load(validated: Path, name: TaskName) -> None:
    metrics = finetune(name)
    exported = load_classifier(Path(f"data/finetune/{name}/model"))
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


def test_a_finished_run_exports_the_same_again_and_a_changed_one_does_not(validated: Path) -> None:
    def weights(name: str) -> bytes:
        return Path(f"data/finetune/video/{name}/model.safetensors").read_bytes()

    metrics = finetune(compare_with_scratch=True)
    model, scratch = weights("model"), weights("scratch")
    assert model != scratch
    assert metrics["validation_scratch"] != metrics["validation_model"]
    checkpoints = {path: path.stat().st_mtime_ns for path in Path(".cache").rglob("step-*")}
    assert finetune(compare_with_scratch=True, checkpoint_every_steps=1) == metrics
    assert (weights("model"), weights("scratch")) == (model, scratch)
    assert checkpoints == {path: path.stat().st_mtime_ns for path in Path(".cache").rglob("step-*")}
    finetune(num_steps=3)
    assert weights("model") != model
    assert not Path("data/finetune/video/scratch").exists()


def test_it_starts_from_the_towers_of_the_pretrained_network(validated: Path) -> None:
    crawl = LETTER.schedule.model_copy(update={"learning_rate": 1e-12}).model_dump()
    export(EXPORTED, noise=0.5)
    finetune(schedule=crawl)
    (tower,) = load_classifier(Path("data/finetune/video/model")).model.towers
    found = collect_weights(tower)
    expected = collect_weights(load("data/pretrain").model.video)
    for weight_name, weight in found.items():
        torch.testing.assert_close(weight, expected[weight_name], rtol=0, atol=1e-6)


def write_best(value: float | None = 0.5, **changes: object) -> ScheduleParams:
    """Leave what tune writes; return the best schedule."""
    best = LETTER.schedule.model_copy(update=changes)
    schedules = {"schedule": best.model_dump(), "own": LETTER.schedule.model_dump()}
    found = {**schedules, "value": value, "trial": 2, "study": "video-abc"}
    write_json(Path("data/tune/video/best.json"), found)
    return best


def test_the_tuned_schedule_is_taken_in_place_of_the_own_one(
    validated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = finetune()
    schedule = write_best(learning_rate=0.05, optimizer="adamw")
    metrics = finetune()
    assert "finetune video: schedule of trial 2 of study video-abc" in capsys.readouterr().out
    assert metrics["is_tuned"]
    assert metrics["schedule"] == schedule.model_dump()
    assert metrics["validation_model"] != before["validation_model"]
    exported = load_classifier(Path("data/finetune/video/model"))
    assert exported.params.task is not None
    assert exported.params.task.schedule == schedule
    write_best(value=None)
    assert finetune() == before


def test_a_schedule_that_was_tuned_for_another_training_is_refused(validated: Path) -> None:
    write_best(warmup_steps=4)
    changed = LETTER.schedule.model_copy(update={"learning_rate": 0.25}).model_dump()
    expected = (
        r"best\.json: was found with finetune\.video\.schedule\.learning_rate = 0\.005, .* 0\.25"
    )
    with pytest.raises(StageError, match=expected):
        finetune(schedule=changed)
    with pytest.raises(
        StageError, match=r"warmup_steps = 4 is above finetune\.video\.num_steps = 3"
    ):
        finetune(num_steps=3)
    Path("data/tune/video/best.json").write_text('{"value": 1, "schedule": {"learning_rate": 1}}')
    with pytest.raises(StageError, match=r"best\.json: cannot be used"):
        finetune()


def test_a_task_without_labels_is_left_out_and_says_so(validated: Path) -> None:
    finetune()
    metrics = finetune(label="rhythm")
    assert "no segment of the split train with a picture has a label" in metrics["skipped"]
    assert metrics["skipped"].endswith("tasks with labels there: letter")
    left = [path.name for path in Path("data/finetune/video").iterdir()]
    assert left == ["skipped.json"]
    skipped = json.loads(Path("data/finetune/video/skipped.json").read_text())
    assert skipped == {"reason": metrics["skipped"]}
    assert Path("metrics/finetune_video_curve.jsonl").read_text() == ""


def test_an_empty_split_validation_is_no_obstacle(validated: Path) -> None:
    change_index("split", lambda row: row["split"].replace("validation", "test"))
    metrics = finetune()
    assert metrics["notes"] == ["the split validation has no segment to measure with"]
    assert metrics["validation_model"] is None
    assert metrics["num_validation"] == 0
    load_classifier(Path("data/finetune/video/model"))


def test_labels_that_training_does_not_know_are_noted(
    validated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = json.dumps({"letter": ["c"]})
    change_index("labels", lambda row: row["labels"] if row["split"] == "train" else odd)
    metrics = finetune()
    assert "labels in the split validation that the split train has not" in metrics["notes"][1]
    assert metrics["notes"][1] in capsys.readouterr().err
    assert metrics["validation_model"]["accuracy"] == 0.0


def test_several_labels_are_measured_by_their_precision(validated: Path) -> None:
    both = json.dumps({"letter": ["a", "b"]})
    is_first = {
        row["key"] for row in pq.read_table("data/preprocess/index.parquet").to_pylist()[:1]
    }
    change_index("labels", lambda row: both if row["key"] in is_first else row["labels"])
    metrics = finetune(multi_label=True)
    assert metrics["validation_model"].keys() == {"step", "loss", "map"}


@pytest.mark.parametrize(
    ("name", "initial", "message"),
    [
        ("video", "nowhere", "nowhere"),
        ("audio", "data/finetune/video/model", "has a tower for video, none for audio"),
    ],
)
def test_it_refuses_unfit_initial_weights(
    validated: Path, name: TaskName, initial: str, message: str
) -> None:
    finetune()
    with pytest.raises(StageError, match=message):
        finetune(name, initial_weights=initial)


def test_it_needs_the_verdict_on_this_very_corpus(validated: Path) -> None:
    write_json(Path("metrics/validate.json"), {"passed": True, "index_digest": "00"})
    with pytest.raises(StageError, match="is on another corpus"):
        finetune()
    assert not Path(".cache").exists()
