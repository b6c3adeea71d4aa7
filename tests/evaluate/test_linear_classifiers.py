"""The paper's factorised classifier learns as its equations say, written out in float64.

Those of the library are fitted until they converge.
"""

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from vatt.evaluate import linear_classifiers
from vatt.evaluate.linear_classifiers import Lesson, fit_by_library, fit_lrc

Weights = list[np.ndarray]


def make_lesson(*, is_multi_label: bool = False) -> Lesson:
    """Twelve clips of three classes; fewer than a batch, so that each step sees them all."""
    generator = np.random.default_rng(0)
    targets = np.eye(3, dtype=bool)[np.arange(12) % 3]
    if is_multi_label:
        targets |= generator.random((12, 3)) < 0.3
    return Lesson(generator.normal(size=(12, 5)), targets, is_multi_label)


def train(lesson: Lesson, num_steps: int) -> Weights:
    """First matrix and bias, second matrix and bias."""
    torch.manual_seed(7)
    network = linear_classifiers._train_lrc(lesson, num_steps)
    return [weight.detach().double().numpy() for weight in network.parameters()]


def train_slowly(weights: Weights, lesson: Lesson, num_steps: int) -> Weights:
    """Adam with learning rate 0.0005 on the mean loss of a clip and the penalty, in float64."""
    parts = [torch.tensor(weight, requires_grad=True) for weight in weights]
    first, first_bias, second, second_bias = parts
    optimizer = torch.optim.Adam(parts, 5e-4, betas=(0.9, 0.999), eps=1e-7)
    targets = torch.tensor(lesson.targets.astype(float))
    for _ in range(num_steps):
        hidden = torch.tensor(lesson.features) @ first.T + first_bias
        logits = hidden @ second.T + second_bias
        if lesson.is_multi_label:
            shares = 1 / (1 + (-logits).exp())
            losses = -(targets * shares.log() + (1 - targets) * (1 - shares).log())
        else:
            losses = -targets * (logits.exp() / logits.exp().sum(1, keepdim=True)).log()
        loss = losses.sum() / len(targets) + 0.1 * (second**2).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return [part.detach().numpy() for part in parts]


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_without_dropout_it_takes_the_steps_of_its_equations(
    monkeypatch: pytest.MonkeyPatch, *, is_multi_label: bool
) -> None:
    lesson = make_lesson(is_multi_label=is_multi_label)
    monkeypatch.setattr(linear_classifiers, "LRC_DROPOUT", 0.0)
    trained = train(lesson, 20)
    monkeypatch.setattr(linear_classifiers, "_draw_batches", lambda *_: [])
    untrained = train(lesson, 20)
    assert [weight.shape for weight in untrained] == [(128, 5), (128,), (3, 128), (3,)]
    for ours, expected, before in zip(
        trained, train_slowly(untrained, lesson, 20), untrained, strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-4)
        assert np.abs(ours - before).max() > 5e-3


def test_a_tenth_is_learnt_from_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of a component that is dropped have no gradient, so that they stay."""
    monkeypatch.setattr(linear_classifiers, "LRC_PENALTY", 0.0)
    lesson = make_lesson()
    single = lesson._replace(features=lesson.features[:1], targets=lesson.targets[:1])
    after = train(single, 1)[2]
    monkeypatch.setattr(linear_classifiers, "_draw_batches", lambda *_: [])
    changed = (after != train(single, 1)[2]).any(axis=0)
    assert 4 <= changed.sum() <= 26  # 13 of 128 are expected, with a deviation of 3.4


@pytest.mark.parametrize("is_multi_label", [False, True])
def test_shares_of_windows_are_averaged_and_nothing_is_dropped(*, is_multi_label: bool) -> None:
    lesson = make_lesson(is_multi_label=is_multi_label)
    predict = fit_lrc(lesson, 50)
    windows = 10 * np.random.default_rng(1).normal(size=(8, 4, 5))
    shares = predict(windows)
    assert np.array_equal(predict(windows), shares)
    single = [predict(windows[:, [number]]) for number in range(4)]
    np.testing.assert_allclose(shares, np.mean(single, axis=0), atol=1e-6)
    if not is_multi_label:
        np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-6)
    logits = np.log(np.array(single)).mean(axis=0)  # averaged in place of shares
    assert np.abs(np.exp(logits) - shares).max() > 0.01


def test_it_does_not_touch_the_generator_of_others() -> None:
    torch.manual_seed(3)
    expected = nn.Linear(4, 4).weight
    torch.manual_seed(3)
    fit_lrc(make_lesson(), 2)
    assert torch.equal(nn.Linear(4, 4).weight, expected)


def test_a_fit_ends_at_the_optimum_that_another_solver_finds() -> None:
    """Features that differ 10,000 times in how much they vary together, 300 of 400 clips."""
    generator = np.random.default_rng(0)
    scales, mixing = np.logspace(0, -4, 300), generator.normal(size=(300, 300))
    features = generator.normal(size=(400, 300)) * scales @ mixing
    lesson = Lesson(features, np.eye(5, dtype=bool)[generator.integers(0, 5, 400)], False)
    predict, num_cut_short = fit_by_library(lesson, "logistic", 3.0)
    scaled = (features - features.mean(0)) / features.std(0)
    newton = LogisticRegression(C=3.0, solver="newton-cg", tol=1e-6, max_iter=1000)
    expected = newton.fit(scaled, lesson.targets.argmax(1)).decision_function(scaled)
    assert num_cut_short == 0
    assert np.abs(predict(features[:, None]) - expected).max() < 0.02 * expected.std()


@pytest.mark.parametrize("method", ["logistic", "svm"])
def test_fits_that_are_cut_short_are_counted(
    method: linear_classifiers.Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One for each class of a task of several labels, but for a class that all clips have."""
    lesson = make_lesson(is_multi_label=True)
    lesson.targets[:, 2] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fit_by_library(lesson, method, 0.3)[1] == 0
        monkeypatch.setattr(linear_classifiers, "MAX_ITERATIONS", 1)
        predict, num_cut_short = fit_by_library(lesson, method, 0.3)
    assert num_cut_short == 2
    assert predict(lesson.features[:, None]).shape == (12, 3)
