"""Linear evaluation: how well a linear classifier reads a label from frozen features (VATT 4.2.5).

Differs from the paper: logistic regression stands beside its linear support vector machine and its
factorised classifier; every clip of the train split is learnt from, not one of each video.

Clips are learnt from and measured on by their splits, or by the official folds of a data set: one
whose labels of the task `fold` are "1:train" and "2:test" is learnt from in fold 1 and measured on
in fold 2, whatever its split is.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import confusion_matrix

from vatt.corpus.manifest import FOLD_TASK
from vatt.evaluate.classifiers import (
    DEFAULT_C,
    REGULARISATION_C,
    Lesson,
    Method,
    Predict,
    Scores,
    fit_by_library,
    fit_lrc,
)
from vatt.evaluate.clips import Seen
from vatt.evaluate.measures import (
    Counts,
    Interval,
    Statistic,
    bootstrap,
    expect_map,
    find_measurable,
    mean_of,
    measure_ranking,
    statistic_of,
)

Measure = Literal["accuracy", "map"]
MULTI_LABEL_RATE = 0.05
"""Where more of the clips of a task have several labels, it is a task of several labels."""
NO_ORDER = "no class tells the test clips apart"
FEATURES: Mapping[str, tuple[str, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "audio_visual": ("video", "audio"),
}
"""What is read: the features of one modality, or of both side by side."""


class Labelled(NamedTuple):
    """Clips or samples that have the modality and labels, as seen in some windows."""

    features: Float[np.ndarray, "N W D"]
    labels: Sequence[Sequence[str]]
    videos: Sequence[str]


class Fold(NamedTuple):
    """A way to divide a task into clips to learn from, to choose by and to be measured on."""

    train: Labelled
    validation: Labelled
    test: Labelled


class Probe(NamedTuple):
    """The result, a mean over folds if there are several. Shares are in [0, 1]."""

    measure: Measure
    """The accuracy; mAP where a clip may have several labels."""
    value: float
    interval: Interval | None
    chance_uniform: float
    """The accuracy of guessing; for mAP, both chances are what a random order gives."""
    chance_majority: float
    """The accuracy of always answering the commonest label of the training clips."""
    classes: list[str]
    """All labels of training and test clips, sorted. One that only test clips have always counts as
    wrong: in mAP, all clips fit it equally badly."""
    confusion: list[list[int]] | None
    """The test clips of all folds by true class (rows) and predicted class; None for mAP."""
    regularisation_c: float | None
    """That of the first fold; None where the classifier has none."""
    folds: list[float]
    num_train: int
    num_test: int


class Skipped(NamedTuple):
    """What cannot be trained or tested, and why."""

    reason: str


class _Measured(NamedTuple):
    """What came out of one fold."""

    value: float
    statistic: Statistic
    chances: tuple[float, float]
    predicted: list[str]
    regularisation_c: float | None


def probe(
    folds: Sequence[Fold],
    method: Method = "logistic",
    num_steps: int = 0,
    measure: Measure | None = None,
) -> Probe | Skipped:
    """Fit on the training clips, choose the regularisation on the validation clips, test once.

    Ties between regularisations go to the strongest. `num_steps` are those of LRC. Without a
    `measure` it is mAP where many clips have several labels, else accuracy of the best label.
    """
    is_multi_label = measure == "map" if measure else _has_many_labels(folds)
    if not is_multi_label:
        folds = [
            Fold(*(part._replace(labels=[row[:1] for row in part.labels]) for part in fold))
            for fold in folds
        ]
    for fold in folds:
        num_classes = len(_list_classes(fold.train))
        if num_classes < 2:
            return Skipped(f"needs 2 classes in the train split, found {num_classes}")
        if not fold.test.labels:
            return Skipped("no clips in the test split")
        targets = mark_classes(fold.test.labels, _list_classes(fold.test))
        if is_multi_label and not find_measurable(targets).any():
            return Skipped(NO_ORDER)
    measured = [_measure(fold, method, num_steps, is_multi_label) for fold in folds]
    return _summarise(folds, measured, is_multi_label)


def _summarise(folds: Sequence[Fold], measured: Sequence[_Measured], is_multi_label: bool) -> Probe:
    classes = sorted({name for fold in folds for name in _list_classes(fold.train, fold.test)})
    truth = [row[0] for fold in folds for row in fold.test.labels]
    answers = [name for result in measured for name in result.predicted]
    sizes = [len(fold.test.labels) for fold in folds]
    statistic = _mean_over([result.statistic for result in measured], sizes)
    uniform, majority = np.mean([result.chances for result in measured], axis=0).tolist()
    return Probe(
        measure="map" if is_multi_label else "accuracy",
        value=float(np.mean([result.value for result in measured])),
        interval=bootstrap([name for fold in folds for name in fold.test.videos], statistic),
        chance_uniform=uniform,
        chance_majority=majority,
        classes=classes,
        confusion=(
            None if is_multi_label else confusion_matrix(truth, answers, labels=classes).tolist()
        ),
        regularisation_c=measured[0].regularisation_c,
        folds=[result.value for result in measured],
        num_train=sum(len(fold.train.labels) for fold in folds),
        num_test=len(truth),
    )


def _measure(fold: Fold, method: Method, num_steps: int, is_multi_label: bool) -> _Measured:
    """Learn and test one fold."""
    classes = _list_classes(fold.train)
    lesson = Lesson(
        fold.train.features[:, 0], mark_classes(fold.train.labels, classes), is_multi_label
    )
    predict, regularisation_c = _fit(lesson, fold.validation, classes, method, num_steps)
    scores = predict(fold.test.features)
    if is_multi_label:
        everything = _list_classes(fold.train, fold.test)
        scores = add_unknown(scores, classes, everything)
        targets = mark_classes(fold.test.labels, everything)
        value, chance = measure_ranking(scores, targets).map, expect_map(targets)
        assert value is not None  # else the fold was skipped
        statistic = statistic_of("map", scores, targets)
        return _Measured(value, statistic, (chance, chance), [], regularisation_c)
    predicted = [classes[number] for number in scores.argmax(axis=1)]
    truth = [row[0] for row in fold.test.labels]
    hits = np.array(predicted) == np.array(truth)
    majority = classes[int(lesson.targets.sum(axis=0).argmax())]
    chances = (1 / len(classes), truth.count(majority) / len(truth))
    statistic = mean_of(hits.astype(float))
    return _Measured(float(hits.mean()), statistic, chances, predicted, regularisation_c)


def _fit(
    lesson: Lesson, validation: Labelled, classes: Sequence[str], method: Method, num_steps: int
) -> tuple[Predict, float | None]:
    """Return the classifier whose regularisation is best on the validation clips, and that."""
    if method == "lrc":
        return fit_lrc(lesson, num_steps), None
    if not validation.labels:
        return fit_by_library(lesson, method, DEFAULT_C[method]), DEFAULT_C[method]
    fitted = {c: fit_by_library(lesson, method, c) for c in REGULARISATION_C[method]}
    targets = mark_classes(validation.labels, classes)

    def judge(regularisation_c: float) -> float:
        scores = fitted[regularisation_c](validation.features)
        if lesson.is_multi_label:
            return measure_ranking(scores, targets).map or 0.0
        return float(np.take_along_axis(targets, scores.argmax(axis=1)[:, None], axis=1).mean())

    chosen = max(sorted(fitted), key=judge)
    return fitted[chosen], chosen


def mark_classes(
    labels: Sequence[Sequence[str]], classes: Sequence[str]
) -> Bool[np.ndarray, "N C"]:
    """Return which of the classes each clip has; labels that are none of them are left out."""
    numbers = {name: number for number, name in enumerate(classes)}
    targets = np.zeros((len(labels), len(classes)), dtype=bool)
    for clip, names in enumerate(labels):
        targets[clip, [numbers[name] for name in names if name in numbers]] = True
    return targets


def _list_classes(*parts: Labelled) -> list[str]:
    return sorted({name for part in parts for row in part.labels for name in row})


def _has_many_labels(folds: Sequence[Fold]) -> bool:
    """Whether clips have several labels; a few clips between two labels do not count."""
    counts = [len(row) > 1 for fold in folds for part in fold for row in part.labels]
    return bool(counts) and float(np.mean(counts)) > MULTI_LABEL_RATE


def add_unknown(scores: Scores, classes: Sequence[str], everything: Sequence[str]) -> Scores:
    """Give classes that were not learnt the lowest score for all clips alike."""
    numbers = {name: number for number, name in enumerate(classes)}
    lowest = np.full(len(scores), scores.min())
    columns = [scores[:, numbers[name]] if name in numbers else lowest for name in everything]
    return np.stack(columns, axis=1)


def _mean_over(statistics: Sequence[Statistic], sizes: Sequence[int]) -> Statistic:
    """Return the mean over folds of the statistics of their clips, which follow one another."""
    ends = np.cumsum(sizes)[:-1]

    def measure(weights: Counts) -> Float[np.ndarray, " R"]:
        parts = np.split(weights, ends, axis=1)
        values = [part_of(part) for part_of, part in zip(statistics, parts, strict=True)]
        mean: Float[np.ndarray, " R"] = np.mean(values, axis=0)
        return mean

    return measure


NOTHING = Labelled(np.zeros((0, 1, 1)), [], [])


def build_folds(
    task: str, modality: str, splits: Mapping[str, Seen], *, by_split: bool = False
) -> list[Fold]:
    """Return the official folds of a task, or the splits where it has none or `by_split`.

    `splits` are train, validation and test.
    """
    parts = [splits[name] for name in ("train", "validation", "test")]
    marks = {
        mark
        for part in parts
        for labels in part.clips.labels
        if task in labels
        for mark in labels.get(FOLD_TASK, ())
    }
    # A fold without test clips, of a data set that is not whole, is no fold.
    names = sorted(mark.removesuffix(":test") for mark in marks if mark.endswith(":test"))
    if by_split or not names:
        kinds = zip(parts, (True, False, False), strict=True)
        return [Fold(*(_take(part, task, modality, to_learn=learn) for part, learn in kinds))]

    def join(mark: str, *, to_learn: bool) -> Labelled:
        taken = [_take(part, task, modality, mark, to_learn=to_learn) for part in parts]
        filled = [part for part in taken if part.labels]
        features = [part.features for part in filled]
        return Labelled(
            np.concatenate(features) if filled else NOTHING.features,
            [labels for part in filled for labels in part.labels],
            [video for part in filled for video in part.videos],
        )

    return [
        Fold(join(f"{name}:train", to_learn=True), NOTHING, join(f"{name}:test", to_learn=False))
        for name in names
    ]


def _take(
    part: Seen, task: str, modality: str, mark: str | None = None, *, to_learn: bool
) -> Labelled:
    """Return what has labels of the task and a mark, if that is given.

    Clips are learnt from by their middle windows, which networks see first of all; samples are
    measured by the windows that are spread over them.
    """
    clips = part.clips
    samples = [
        sample
        for sample in clips.find_labelled(task, FEATURES[modality])
        if mark is None or mark in clips.labels[sample[0]].get(FOLD_TASK, ())
    ]
    if not samples:
        return NOTHING
    if to_learn:
        samples = [[number] for sample in samples for number in sample]
    firsts = [sample[0] for sample in samples]
    values = [part.arrays[name] for name in FEATURES[modality]]
    seen = [
        array[firsts, :1] if to_learn else clips.see_samples(array, samples) for array in values
    ]
    labels = [clips.labels[number][task] for number in firsts]
    return Labelled(np.concatenate(seen, axis=-1), labels, [clips.videos[n] for n in firsts])
