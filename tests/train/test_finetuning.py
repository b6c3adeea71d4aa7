"""What is measured of fine-tuning, and what is said of it while it goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.train.corpus import PRETRAIN, build_engine, build_run
from vatt.train.engine import Engine
from vatt.train.finetuning import measure_logits
from vatt.train.loop import Validation, train


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


class EnoughError(Exception):
    pass


def test_every_measurement_is_reported_in_order_also_after_a_stop(tmp_path: Path) -> None:
    """The step that ended the run is reported again: its checkpoint was not yet there."""
    reported: list[tuple[int, dict[str, float]]] = []
    pretrain = PRETRAIN.model_copy(update={"num_steps": 12, "validate_every_steps": 3})

    def measure(engine: Engine) -> dict[str, float]:
        with engine.evaluating() as objective:
            weight = next(objective.parameters())
            return {"mean": float(weight.abs().mean())}

    def start(last_step: int | None) -> None:
        def report(step: int, numbers: dict[str, float]) -> None:
            reported.append((step, numbers))
            if step == last_step:
                raise EnoughError

        validation = Validation("validation", measure, tell=report)
        run = build_run(tmp_path, pretrain, validation=validation)
        train(build_engine(pretrain=pretrain), *run)

    start(None)
    whole, reported = reported, []
    assert [step for step, _ in whole] == [3, 6, 9, 12]
    start(None)  # a finished run: nothing is trained, all is reported
    assert reported == whole
    rows = (tmp_path / "run/validation.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [3, 6, 9, 12]

    for checkpoint in (tmp_path / "run").glob("step-*"):
        checkpoint.rename(tmp_path / checkpoint.name)
    reported = []
    with pytest.raises(EnoughError):
        start(9)
    assert reported == whole[:3]
    reported = []
    start(None)
    assert reported == whole
