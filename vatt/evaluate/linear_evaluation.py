"""Linear evaluation: how well a linear classifier reads a label from frozen features (VATT 4.2.5).

Differs from the paper: logistic regression stands beside its linear support vector machine and its
factorised classifier; the clips of the train split are learnt from, all or a random subset of them,
not one of each video.

Clips are learnt from and measured on by their splits, or by the official folds of a data set: one
whose labels of the task `fold` are "1:train" and "2:test" is learnt from in fold 1 and measured on
in fold 2, whatever its split is.
"""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.metrics import confusion_matrix

from vatt.corpus.manifest import FOLD_TASK
from vatt.evaluate import metrics
from vatt.evaluate.features import SampleClips, Seen
from vatt.evaluate.linear_classifiers import (
    DEFAULT_C,
    REGULARISATION_C,
    Lesson,
    Method,
    Predict,
    fit_by_library,
    fit_lrc,
)
from vatt.evaluate.selection import EVERYTHING, FEATURES, Subset

Metric = Literal["accuracy", "map"]
MULTI_LABEL_RATE = 0.05
"""Where more of the clips of a task have several labels, it is a task of several labels."""
NO_ORDER = "no class tells the test clips apart"


class Labelled(NamedTuple):
    """Clips or samples that have the modality and labels, as seen in some windows."""

    features: Float[np.ndarray, "N W D"]
    labels: Sequence[Sequence[str]]
    videos: Sequence[str]
    is_full: bool = False
    """Whether these are as many as may be learnt from, so that others may have been left out."""


NOTHING = Labelled(np.zeros((0, 1, 1)), [], [])


class Fold(NamedTuple):
    """A way to divide a task into clips to learn from, to choose by and to be measured on."""

    train: Labelled
    validation: Labelled
    test: Labelled


class Probe(NamedTuple):
    """The result, a mean over folds if there are several. Shares are in [0, 1]."""

    metric: Metric
    """The accuracy; mAP where a clip may have several labels."""
    value: float
    interval: metrics.Interval | None
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
    num_cut_short: int
    """The fits that did not converge, of all folds and of all that the choice was among."""
    is_full: bool
    """Whether so many training clips were as many as were allowed."""


class Skipped(NamedTuple):
    """What cannot be trained or tested, and why."""

    reason: str


class _Measured(NamedTuple):
    """What came out of one fold."""

    value: float
    statistic: metrics.Statistic
    chances: tuple[float, float]
    predicted: list[str]
    regularisation_c: float | None
    num_cut_short: int


def probe(
    folds: Sequence[Fold],
    method: Method = "logistic",
    num_steps: int = 0,
    metric: Metric | None = None,
) -> Probe | Skipped:
    """Fit on the training clips, choose the regularisation on the validation clips, test once.

    Ties between regularisations go to the strongest. `num_steps` are those of LRC. Without a
    `metric` it is mAP where many clips have several labels, else accuracy of the best label.
    """
    counts = [len(row) > 1 for fold in folds for part in fold for row in part.labels]
    has_many = bool(counts) and float(np.mean(counts)) > MULTI_LABEL_RATE
    is_multi_label = metric == "map" if metric else has_many
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
        targets = metrics.mark_classes(fold.test.labels, _list_classes(fold.test))
        if is_multi_label and not metrics.find_measurable(targets).any():
            return Skipped(NO_ORDER)
    measured = [_measure(fold, method, num_steps, is_multi_label) for fold in folds]
    return _join_folds(folds, measured, is_multi_label)


def _measure(fold: Fold, method: Method, num_steps: int, is_multi_label: bool) -> _Measured:
    """Learn and test one fold."""
    classes = _list_classes(fold.train)
    targets = metrics.mark_classes(fold.train.labels, classes)
    lesson = Lesson(fold.train.features[:, 0], targets, is_multi_label)
    predict, chosen_c, cut = _fit(lesson, fold.validation, classes, method, num_steps)
    scores = predict(fold.test.features)
    if is_multi_label:
        everything = _list_classes(fold.train, fold.test)
        scores = metrics.add_unknown(scores, classes, everything)
        targets = metrics.mark_classes(fold.test.labels, everything)
        value, chance = metrics.measure_ranking(scores, targets).map, metrics.expect_map(targets)
        assert value is not None  # else the fold was skipped
        statistic = metrics.statistic_of("map", scores, targets)
        return _Measured(value, statistic, (chance, chance), [], chosen_c, cut)
    predicted = [classes[number] for number in scores.argmax(axis=1)]
    truth = [row[0] for row in fold.test.labels]
    hits = (np.array(predicted) == np.array(truth)).astype(float)
    majority = classes[int(targets.sum(axis=0).argmax())]
    chances = (1 / len(classes), truth.count(majority) / len(truth))
    statistic = metrics.mean_of(hits)
    return _Measured(float(hits.mean()), statistic, chances, predicted, chosen_c, cut)


def _fit(
    lesson: Lesson, validation: Labelled, classes: Sequence[str], method: Method, num_steps: int
) -> tuple[Predict, float | None, int]:
    """Return the classifier whose regularisation is best on the validation clips, and that.

    The last value is the number of all fits that did not converge.
    """
    if method == "lrc":
        return fit_lrc(lesson, num_steps), None, 0
    choices = REGULARISATION_C[method] if validation.labels else (DEFAULT_C[method],)
    fitted = {c: fit_by_library(lesson, method, c) for c in choices}
    num_cut_short = sum(number for _, number in fitted.values())
    if not validation.labels:
        return fitted[DEFAULT_C[method]][0], DEFAULT_C[method], num_cut_short
    targets = metrics.mark_classes(validation.labels, classes)

    def judge(regularisation_c: float) -> float:
        scores = fitted[regularisation_c][0](validation.features)
        if lesson.is_multi_label:
            return metrics.measure_ranking(scores, targets).map or 0.0
        return float(np.take_along_axis(targets, scores.argmax(axis=1)[:, None], axis=1).mean())

    chosen = max(sorted(fitted), key=judge)
    return fitted[chosen][0], chosen, num_cut_short


def _join_folds(
    folds: Sequence[Fold], measured: Sequence[_Measured], is_multi_label: bool
) -> Probe:
    classes = sorted({name for fold in folds for name in _list_classes(fold.train, fold.test)})
    truth = [row[0] for fold in folds for row in fold.test.labels]
    answers = [name for result in measured for name in result.predicted]
    ends = np.cumsum([len(fold.test.labels) for fold in folds])[:-1]

    def find_mean(weights: metrics.Counts) -> Float[np.ndarray, " R"]:
        parts = np.split(weights, ends, axis=1)
        pairs = zip(measured, parts, strict=True)
        return np.asarray(np.mean([result.statistic(part) for result, part in pairs], axis=0))

    videos = [name for fold in folds for name in fold.test.videos]
    confusion = None
    if not is_multi_label:
        confusion = confusion_matrix(truth, answers, labels=classes).tolist()
    uniform, majority = np.mean([result.chances for result in measured], axis=0).tolist()
    return Probe(
        metric="map" if is_multi_label else "accuracy",
        value=float(np.mean([result.value for result in measured])),
        interval=metrics.bootstrap(videos, find_mean),
        chance_uniform=uniform,
        chance_majority=majority,
        classes=classes,
        confusion=confusion,
        regularisation_c=measured[0].regularisation_c,
        folds=[result.value for result in measured],
        num_train=sum(len(fold.train.labels) for fold in folds),
        num_test=len(truth),
        num_cut_short=sum(result.num_cut_short for result in measured),
        is_full=any(fold.train.is_full for fold in folds),
    )


def _list_classes(*parts: Labelled) -> list[str]:
    return sorted({name for part in parts for row in part.labels for name in row})


def build_folds(
    task: str,
    modality: str,
    splits: Mapping[str, Seen],
    subset: Subset = EVERYTHING,
    *,
    by_split: bool = False,
) -> list[Fold]:
    """Return the official folds of a task, or the splits where it has none or `by_split`.

    `splits` are train, validation and test; `subset` says what is learnt from.
    """
    parts = [splits[name] for name in ("train", "validation", "test")]
    rows = [labels for part in parts for labels in part.clips.labels if task in labels]
    marks = {mark for labels in rows for mark in labels.get(FOLD_TASK, ())}
    # A fold without test clips, of a data set that is not whole, is no fold.
    names = sorted(mark.removesuffix(":test") for mark in marks if mark.endswith(":test"))
    if by_split or not names:
        to_learn = zip(parts, (subset, None, None), strict=True)
        return [Fold(*(_take([own], task, modality, subset=x) for own, x in to_learn))]
    return [
        Fold(
            _take(parts, task, modality, f"{name}:train", subset=subset),
            NOTHING,
            _take(parts, task, modality, f"{name}:test"),
        )
        for name in names
    ]


def _take(
    parts: Sequence[Seen],
    task: str,
    modality: str,
    mark: str | None = None,
    *,
    subset: Subset | None = None,
) -> Labelled:
    """Return what has labels of the task and a mark, if that is given.

    The clips of a `subset` are learnt from by their middle windows, which networks see first of
    all; without one, samples are measured by the windows that are spread over them.
    """
    found: list[tuple[Seen, list[SampleClips]]] = []
    for seen in parts:
        samples = [
            sample
            for sample in seen.clips.find_labelled(task, FEATURES[modality])
            if mark is None or mark in seen.clips.labels[sample[0]].get(FOLD_TASK, ())
        ]
        if subset is not None:
            samples = [[number] for sample in samples for number in sample]
        found.append((seen, samples))
    num_found, is_full = sum(len(samples) for _, samples in found), False
    if subset is not None and subset.max_clips is not None:
        is_full = num_found >= subset.max_clips
        found = _draw(found, subset) if is_full else found
    features, labels, videos = [], [], []
    for (clips, arrays), samples in found:
        if samples:
            firsts = [sample[0] for sample in samples]
            windows = [
                clips.see_samples(array, samples) if subset is None else array[firsts, :1]
                for array in (arrays[name] for name in FEATURES[modality])
            ]
            features.append(np.concatenate(windows, axis=-1))
            labels += [clips.labels[number][task] for number in firsts]
            videos += [clips.videos[number] for number in firsts]
    return Labelled(np.concatenate(features), labels, videos, is_full) if features else NOTHING


def _draw(
    found: Sequence[tuple[Seen, list[SampleClips]]], subset: Subset
) -> list[tuple[Seen, list[SampleClips]]]:
    """Return the clips of a subset of single clips."""
    keys = [seen.clips.rows["key"].iloc[number] for seen, samples in found for [number] in samples]
    chosen, places = set(subset.choose(subset.draw_turns(keys)).tolist()), count()
    return [(seen, [one for one in samples if next(places) in chosen]) for seen, samples in found]
