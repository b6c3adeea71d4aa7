"""Fine-tuning: what is minimised and measured, against slow loops; what is reported."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model.networks import VIDEO
from tests.train.corpus import PRETRAIN, build_engine, build_run
from tests.train.tasks import TASK, build_objective, change, draw_batch
from vatt.core.batch import LabelledBatch
from vatt.model.classifier import build_network
from vatt.model.losses import balanced_sigmoid_loss, softmax_loss
from vatt.params import TaskParams
from vatt.train.engine import Engine
from vatt.train.finetuning import (
    ClassificationObjective,
    build_finetuning_optimizer,
    count_hits,
    keep_best,
    measure_logits,
    mix,
)
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

        validation = Validation("validation", measure, report=report)
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


def test_clips_and_labels_are_mixed_with_one_partner_each() -> None:
    torch.manual_seed(0)
    batch = draw_batch(7)
    signals, labels = mix(batch.signals, batch.labels, 5.0)
    assert signals.keys() == batch.signals.keys()
    partners = []
    for clip in range(7):
        others = [index for index in range(7) if index != clip and labels[clip, index] > 0]
        assert len(others) <= 1
        partner = others[0] if others else clip
        partners.append(partner)
        share = float(labels[clip, clip]) if others else 1.0
        assert float(labels[clip].sum()) == pytest.approx(1.0)
        for name, signal in batch.signals.items():
            expected = share * signal[clip] + (1 - share) * signal[partner]
            torch.testing.assert_close(signals[name][clip], expected, rtol=1e-5, atol=1e-6)
    assert sorted(partners) == list(range(7))
    assert partners != list(range(7))


def test_shares_have_the_beta_distribution() -> None:
    torch.manual_seed(0)
    num_clips = 4000
    labels = torch.arange(num_clips, dtype=torch.float64)[:, None] + 1
    values = torch.randn(num_clips, 1, dtype=torch.float64)
    # Of a signal that is 1 for one half and 0 for the other, the mixed one is a share.
    halves = (torch.arange(num_clips) % 2).double()[:, None]
    signals, _ = mix({"share": halves, "other": values}, labels, 5.0)
    shares = signals["share"][(signals["share"] > 0) & (signals["share"] < 1)]
    assert len(shares) > 1500
    deviation = math.sqrt(1 / (4 * (2 * 5 + 1)))
    assert float(shares.mean()) == pytest.approx(0.5, abs=4 * deviation / math.sqrt(len(shares)))
    assert float(shares.std()) == pytest.approx(deviation, rel=0.08)


def test_a_step_is_drawn_from_torchs_seed() -> None:
    objective = build_objective(change(TASK, mixup_alpha=5.0, head_dropout_rate=0.5)).train()
    batch = draw_batch()
    losses = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        losses.append(objective(batch)[0].item())
    assert losses[0] == losses[1] != losses[2]


def test_labels_are_smoothed_in_training_only() -> None:
    objective, batch = build_objective(TASK), draw_batch()
    logits = objective.model(batch.signals["video"])
    for training, smoothing in ((True, 0.1), (False, 0.0)):
        objective.train(training)
        expected = softmax_loss(logits, batch.labels, smoothing)
        torch.testing.assert_close(objective(batch)[0], expected)


@pytest.mark.parametrize("kind", [None, "concatenation"])
def test_many_labels_have_balanced_sigmoids(kind: str | None) -> None:
    objective = build_objective(TASK.model_copy(update={"multi_label": True}), kind)
    batch = draw_batch()
    labels = (torch.arange(28).view(4, 7) % 3 == 0).float()
    signals = [batch.signals[name] for name in objective.model.modalities]
    logits = objective.model(*signals)
    loss, accuracy = objective(LabelledBatch(batch.signals, labels))
    torch.testing.assert_close(loss, balanced_sigmoid_loss(logits, labels))
    hits = [labels[clip, int(logits[clip].argmax())].item() for clip in range(4)]
    assert accuracy.item() == pytest.approx(sum(hits) / 4)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([[0.0, 1.0, 0.0]], 1.0),
        ([[1.0, 0.0, 0.0]], 0.0),
        ([[0.4, 0.6, 0.0]], 1.0),  # mixed: the larger one counts
        ([[0.6, 0.4, 0.0]], 0.0),
        ([[1.0, 1.0, 0.0]], 1.0),  # several: any counts
        ([[0.0, 0.0, 0.0]], 0.0),  # none
        ([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], 0.5),
    ],
)
def test_hits(labels: list[list[float]], expected: float) -> None:
    logits = torch.tensor([[0.1, 0.9, -0.5]]).expand(len(labels), 3)
    assert count_hits(logits, torch.tensor(labels)).item() == expected


def take_steps(objective: ClassificationObjective, task: TaskParams) -> list[dict[str, Tensor]]:
    """Take some steps; return the weights after each."""
    optimizer, batch = build_finetuning_optimizer(objective, task), draw_batch()
    weights = []
    for _ in range(6):
        objective(batch)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
        objective.after_update()
        weights.append({name: value.clone() for name, value in objective.model.named_parameters()})
    return weights


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_the_average_follows_the_weights(decay: float) -> None:
    task = change(
        TASK.model_copy(update={"ema_decay": decay, "freeze": 1}), learning_rate=0.5, warmup_steps=0
    )
    objective = build_objective(task)
    history = take_steps(objective, task)
    assert objective.average is not None
    found = keep_best(objective.state_dict())
    assert found.keys() == objective.model.state_dict().keys()
    for name in history[0]:
        expected = history[0][name].double()
        for number, weights in enumerate(history[1:], start=1):
            kept = min(decay, (1 + number) / (10 + number))
            expected = kept * expected + (1 - kept) * weights[name].double()
        torch.testing.assert_close(found[name].double(), expected, rtol=1e-5, atol=1e-6)
        is_frozen = ".stem." in name or ".blocks.0." in name
        assert torch.equal(found[name], history[-1][name]) == is_frozen, name

    batch = draw_batch()
    average = build_network(VIDEO).eval()
    average.load_state_dict(found)
    expected = average(batch.signals["video"])
    objective.eval()
    torch.testing.assert_close(objective.classify(batch.signals), expected)
    torch.testing.assert_close(objective(batch)[0], softmax_loss(expected, batch.labels, 0.0))
    assert (objective.model(batch.signals["video"]) - expected).abs().max() > 1e-3


def test_without_an_average_the_last_weights_predict() -> None:
    objective = build_objective(TASK)
    history = take_steps(objective, TASK)
    best = keep_best(objective.state_dict())
    assert best.keys() == objective.model.state_dict().keys()
    assert all(torch.equal(best[name], history[-1][name]) for name in history[-1])


def test_only_the_model_is_trained() -> None:
    task = TASK.model_copy(update={"ema_decay": 0.9})
    objective = build_objective(task, "bilinear")
    trained = {name for name, value in objective.named_parameters() if value.requires_grad}
    assert trained == {f"model.{name}" for name, _ in objective.model.named_parameters()}
    groups = build_finetuning_optimizer(objective, task).param_groups
    assert sum(len(group["params"]) for group in groups) == len(trained)
