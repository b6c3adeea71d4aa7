"""Linear probes: how well a linear classifier reads a label from frozen features (VATT section 4.2.5).

Differs from the paper: logistic regression in place of a linear support vector machine or the
factorised classifier. Features are averaged over the windows of a test clip, which for a linear
classifier is the same as averaging its decision values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

REGULARISATION_C = (0.003, 0.03, 0.3, 3.0)
DEFAULT_C = 0.03
"""Where there is no validation clip to choose by."""


class Labelled(NamedTuple):
    """Features of the clips of one split that have both the modality and a label."""

    features: Float[np.ndarray, "N D"]
    labels: Sequence[str]


class Probe(NamedTuple):
    """The result on the test split. Shares are in [0, 1].

    classes: all labels of the training and test clips, sorted; a label that only the test clips
    have always counts as wrong. confusion: test clips by true class (rows) and predicted class.
    chance_majority: accuracy of always answering the commonest label of the training clips.
    """

    accuracy: float
    chance_uniform: float
    chance_majority: float
    classes: list[str]
    confusion: list[list[int]]
    regularisation_c: float
    num_train: int
    num_test: int


class Skipped(NamedTuple):
    """A probe that cannot be trained or tested, and why."""

    reason: str


def probe(train: Labelled, validation: Labelled, test: Labelled) -> Probe | Skipped:
    """Fit on the training clips, choose the regularisation on the validation clips, test once.

    The features are standardised by the training clips. Ties between regularisations go to the
    strongest.
    """
    trained_classes = sorted(set(train.labels))
    if len(trained_classes) < 2:
        return Skipped(f"needs 2 classes in the train split, found {len(trained_classes)}")
    if not test.labels:
        return Skipped("no clips in the test split")
    classifiers = {c: _fit(train, c) for c in REGULARISATION_C}
    chosen = _choose(classifiers, validation)
    predicted = classifiers[chosen].predict(test.features)
    classes = sorted({*trained_classes, *test.labels})
    majority = max(trained_classes, key=list(train.labels).count)
    return Probe(
        accuracy=float(np.mean(predicted == np.array(test.labels))),
        chance_uniform=1 / len(trained_classes),
        chance_majority=list(test.labels).count(majority) / len(test.labels),
        classes=classes,
        confusion=confusion_matrix(test.labels, predicted, labels=classes).tolist(),
        regularisation_c=chosen,
        num_train=len(train.labels),
        num_test=len(test.labels),
    )


def select_labelled(
    features: Float[np.ndarray, "N D"], present: Bool[np.ndarray, "N"], labels: Sequence[str | None]
) -> Labelled:
    """Keep the clips whose modality is present and that have a label."""
    kept = {
        index: label for index, label in enumerate(labels) if label is not None and present[index]
    }
    return Labelled(features[list(kept)], list(kept.values()))


def _fit(train: Labelled, regularisation_c: float) -> Pipeline:
    classifier = LogisticRegression(C=regularisation_c, max_iter=2000)
    return make_pipeline(StandardScaler(), classifier).fit(train.features, train.labels)


def _choose(classifiers: dict[float, Pipeline], validation: Labelled) -> float:
    if not validation.labels:
        return DEFAULT_C
    return max(
        sorted(classifiers),
        key=lambda c: classifiers[c].score(validation.features, validation.labels),
    )
