"""What is measured of fine-tuning, its jobs, and what it tells while it goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.corpus import CLIP, LAUNCH, PRETRAIN, build_engine, build_run
from tests.train.tasks import TASK
from vatt.model.classifier import ClassifierParams
from vatt.params import RunParams, TowerSize
from vatt.train.engine import Engine
from vatt.train.finetuning import give_schedule, measure_logits
from vatt.train.loop import Validation, train
from vatt.train.recipe import FinetuneRecipe, Job, name_run

NETWORK = ClassifierParams(
    input="video",
    size=TowerSize(num_layers=1, width=8, mlp_width=8, num_heads=1, head_width=8),
    patch=(1, 8, 8),
    grid=(2, 2, 2),
    post_projection_width=None,
    dropout_rate=0.0,
    drop_token_rate=0.0,
    num_classes=2,
    head_dropout_rate=0.0,
    multi_label=False,
)
RECIPE = FinetuneRecipe(
    run=RunParams(seed=1),
    task_name="video",
    task=TASK,
    clip=CLIP,
    network=NETWORK,
    classes=("a", "b"),
    launch=LAUNCH,
    index_digest="",
)
JOB = Job(
    recipe=RECIPE,
    initial_weights=None,
    preprocess_dir=Path("data/preprocess"),
    directory=Path("run"),
    curve_path=Path("curve.jsonl"),
)


def draw(num_clips: int, num_classes: int, *, multi_label: bool) -> tuple[Tensor, Tensor]:
    """Return logits with ties, and labels; some clips have none, one class has no clip."""
    generator = np.random.default_rng(7)
    logits = generator.integers(-4, 5, (num_clips, num_classes)) / 2
    labels = np.zeros((num_clips, num_classes))
    for row in labels[3:]:
        number = generator.integers(1, 4) if multi_label else 1
        row[generator.permutation(num_classes - 1)[:number]] = 1
    return torch.from_numpy(logits).float(), torch.from_numpy(labels).float()


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over positives of the precision among all that score as high or higher."""
    precisions = [truth[scores >= score].mean() for score in scores[truth > 0]]
    return float(np.mean(precisions))


def test_accuracy_counts_clips_of_unknown_labels_as_wrong() -> None:
    logits, labels = draw(40, 5, multi_label=False)
    found = measure_logits(logits, labels, multi_label=False)
    right = [labels[row, logits[row].argmax()] == 1 for row in range(40)]
    assert found["accuracy"] == pytest.approx(sum(map(bool, right)) / 40)
    losses = [
        -float((labels[row] * (logits[row] - logits[row].exp().sum().log())).sum())
        for row in range(40)
    ]
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_mean_average_precision_is_over_the_classes_that_are_there() -> None:
    logits, labels = draw(60, 6, multi_label=True)
    found = measure_logits(logits, labels, multi_label=True)
    scores, truth = logits.numpy(), labels.numpy()
    assert not truth[:, 5].any()
    expected = [average_precision(scores[:, c], truth[:, c]) for c in range(5)]
    assert found["map"] == pytest.approx(np.mean(expected), rel=1e-6)
    nothing = measure_logits(logits, torch.zeros_like(labels), multi_label=True)
    assert nothing["map"] == 0.0


def test_another_schedule_is_another_run_with_its_rates_in_the_network() -> None:
    schedule = TASK.schedule.model_copy(update={"drop_token_rate": 0.5, "head_dropout_rate": 0.3})
    job = give_schedule(JOB, schedule.model_dump(), Path("trial"))
    assert isinstance(job.recipe, FinetuneRecipe)
    assert job.recipe.task.schedule == schedule
    assert job.recipe.network.head_dropout_rate == 0.3
    assert job.recipe.network.model_dump()["drop_token_rate"] == 0.5
    assert (job.directory, job.curve_path) == (Path("trial"), Path("trial/curve.jsonl"))
    assert name_run(job.recipe, None) != name_run(RECIPE, None)
    again = Job.model_validate_json(job.model_dump_json())  # as it travels to other processes
    assert again == job


def test_what_only_concerns_the_way_does_not_change_the_name_of_a_run() -> None:
    updates = {"checkpoint_every_steps": 1, "compare_with_scratch": True, "keep_checkpoints": 9}
    task = TASK.model_copy(update=updates)
    launch = LAUNCH.model_copy(update={"loader_workers": 3})
    same = RECIPE.model_copy(update={"task": task, "launch": launch})
    assert name_run(same, None) == name_run(RECIPE, None)
    for changed in (
        {"classes": ("a", "c")},
        {"index_digest": "1"},
        {"run": RunParams(seed=2)},
        {"task": TASK.model_copy(update={"ema_decay": 0.9})},
    ):
        assert name_run(RECIPE.model_copy(update=changed), None) != name_run(RECIPE, None)


class EnoughError(Exception):
    pass


def test_every_measurement_is_told_in_order_also_after_a_stop(tmp_path: Path) -> None:
    """The step that ended the run is told again: its checkpoint was not yet there."""
    told: list[tuple[int, dict[str, float]]] = []
    pretrain = PRETRAIN.model_copy(update={"num_steps": 12, "validate_every_steps": 3})

    def measure(engine: Engine) -> dict[str, float]:
        with engine.evaluating() as objective:
            weight = next(objective.parameters())
            return {"mean": float(weight.abs().mean())}

    def start(last_step: int | None) -> None:
        def tell(step: int, numbers: dict[str, float]) -> None:
            told.append((step, numbers))
            if step == last_step:
                raise EnoughError

        validation = Validation("validation", measure, tell=tell)
        run = build_run(tmp_path, pretrain, validation=validation)
        train(build_engine(pretrain=pretrain), *run)

    start(None)
    whole, told = told, []
    assert [step for step, _ in whole] == [3, 6, 9, 12]
    start(None)  # a finished run: nothing is trained, all is told
    assert told == whole
    rows = (tmp_path / "run/validation.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [3, 6, 9, 12]

    for checkpoint in (tmp_path / "run").glob("step-*"):
        checkpoint.rename(tmp_path / checkpoint.name)
    told = []
    with pytest.raises(EnoughError):
        start(9)
    assert told == whole[:3]
    told = []
    start(None)
    assert told == whole
