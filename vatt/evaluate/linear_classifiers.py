"""Linear classifiers of frozen features: logistic regression, a linear SVM, LRC (VATT 4.2.5).

LRC, the low-rank classifier of the paper, is two matrices with much dropout between them.
"""

import warnings
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

Scores = Float[np.ndarray, "N C"]
Predict = Callable[[Float[np.ndarray, "N W D"]], Scores]
"""Scores of clips for each class, of any scale, from the features of their windows."""
Method = Literal["logistic", "svm", "lrc"]
REGULARISATION_C: dict[Method, tuple[float, ...]] = {
    "logistic": (0.003, 0.03, 0.3, 3.0),
    "svm": (1e-4, 1e-3, 1e-2),
    "lrc": (),
}
"""What is chosen from; LRC has none."""
DEFAULT_C: dict[Method, float] = {"logistic": 0.03, "svm": 1e-3}
"""Taken where there is no validation clip to choose by; for the SVM that of MMV for UCF101."""
MAX_ITERATIONS = 10_000
"""Where a fit that does not converge is cut short; those of the demo end within 300 iterations."""
LRC_WIDTH, LRC_BATCH = 128, 64
LRC_DROPOUT, LRC_LEARNING_RATE = 0.9, 5e-4
LRC_PENALTY = 0.1
"""The factor of the squares of the second matrix; as released, the paper does not name it."""


class Lesson(NamedTuple):
    """Clips to learn from, each by one window, and the classes of each."""

    features: Float[np.ndarray, "N D"]
    targets: Bool[np.ndarray, "N C"]
    is_multi_label: bool


def fit_by_library(lesson: Lesson, method: Method, regularisation_c: float) -> tuple[Predict, int]:
    """Fit logistic regression or a linear support vector machine to standardised features.

    Also returns how many fits were cut short before they converged; a task of several labels has a
    fit for each class. The features are averaged over the windows of a clip, which for a linear
    classifier is the same as averaging its decision values.
    """
    classifier: LogisticRegression | LinearSVC | OneVsRestClassifier
    settings: dict[str, float] = {"C": regularisation_c, "max_iter": MAX_ITERATIONS}
    if method == "logistic":
        classifier = LogisticRegression(**settings)
    else:
        classifier = LinearSVC(**settings, dual="auto", random_state=0)
    if lesson.is_multi_label:
        classifier = OneVsRestClassifier(classifier)
    answers = lesson.targets if lesson.is_multi_label else lesson.targets.argmax(axis=1)
    pipeline = make_pipeline(StandardScaler(), classifier)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore", UserWarning)  # classes that all clips have
        warnings.simplefilter("always", ConvergenceWarning)
        pipeline.fit(lesson.features, answers)
    cut_short = [own for own in caught if own.category is ConvergenceWarning]
    for own in caught:
        if own not in cut_short:
            warnings.warn_explicit(own.message, own.category, own.filename, own.lineno)

    def predict(windows: Float[np.ndarray, "N W D"]) -> Scores:
        values: Scores = pipeline.decision_function(windows.mean(axis=1))
        return np.stack([-values, values], axis=1) if values.ndim == 1 else values

    return predict, len(cut_short)


def fit_lrc(lesson: Lesson, num_steps: int, seed: int = 0) -> Predict:
    """Fit the paper's factorised classifier; its shares are averaged over the windows of a clip.

    Differs from the paper: the penalty is that of the released code, and tasks with several labels
    have sigmoids.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _train_lrc(lesson, num_steps).eval()

    @torch.inference_mode()
    def predict(windows: Float[np.ndarray, "N W D"]) -> Scores:
        logits = network(torch.from_numpy(np.ascontiguousarray(windows, dtype=np.float32)))
        shares = logits.sigmoid() if lesson.is_multi_label else logits.softmax(-1)
        return np.asarray(shares.mean(1).double())

    return predict


def _train_lrc(lesson: Lesson, num_steps: int) -> nn.Module:
    features = torch.from_numpy(np.ascontiguousarray(lesson.features, dtype=np.float32))
    targets = torch.from_numpy(lesson.targets.astype(np.float32))
    first = nn.Linear(features.shape[1], LRC_WIDTH)
    second = nn.Linear(LRC_WIDTH, targets.shape[1])
    nn.init.xavier_normal_(first.weight)
    nn.init.xavier_uniform_(second.weight)
    for layer in (first, second):
        nn.init.zeros_(layer.bias)
    network = nn.Sequential(first, nn.Dropout(LRC_DROPOUT), second)
    optimizer = torch.optim.Adam(network.parameters(), LRC_LEARNING_RATE, eps=1e-7, fused=True)
    for rows in _draw_batches(len(features), num_steps):
        logits = network(features[rows])
        if lesson.is_multi_label:
            losses = binary_cross_entropy_with_logits(logits, targets[rows], reduction="none")
            loss = losses.sum(1).mean()
        else:
            loss = cross_entropy(logits, targets[rows])
        optimizer.zero_grad()
        (loss + LRC_PENALTY * second.weight.square().sum()).backward()
        optimizer.step()
    return network


def _draw_batches(num_clips: int, num_steps: int) -> list[torch.Tensor]:
    """Return the rows of each step: permutations of all clips, one after the other."""
    size = min(LRC_BATCH, num_clips)
    num_epochs = -(-num_steps * size // num_clips)
    order = torch.cat([torch.randperm(num_clips) for _ in range(num_epochs)])
    return list(order[: num_steps * size].split(size))
