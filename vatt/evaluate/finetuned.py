"""Fine-tuned classifiers on the test split, beside what they must beat (VATT sections 4.2.1 and 4.2.2)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import confusion_matrix

from vatt.evaluate.measures import (
    Interval,
    auc_of,
    bootstrap,
    compute_d_prime,
    count_hits,
    d_prime_of,
    expect_map,
    find_measurable,
    map_of,
    mean_of,
    measure_ranking,
)
from vatt.evaluate.probes import (
    MODALITIES,
    NO_ORDER,
    Measure,
    Seen,
    Skipped,
    add_unknown,
    build_folds,
    mark_classes,
    probe,
)

TOP_K = 5
RANKED = {"auc": 0.5, "d_prime": 0.0, "d_prime_of_mean_auc": 0.0}
"""Measures beside mAP, and what a random order gives."""
STATISTICS = {"map": map_of, "auc": auc_of, "d_prime": d_prime_of}


class TaskEntry(NamedTuple):
    """What was fine-tuned to a task, and what each of its networks makes of the test clips.

    modality: video, audio or audio_visual. classes: of the logits, in their order. logits: those of
    the windows by network: `model`, `untrained` and, where it was trained, `scratch`; none of a split
    without clips. initial: what `model` was fine-tuned from, in words.
    """

    task: str
    label: str
    modality: str
    is_multi_label: bool
    classes: Sequence[str]
    logits: Mapping[str, Float[np.ndarray, "N W C"]]
    initial: str


class Score(NamedTuple):
    """A number by the measure of a task, and its interval over test videos."""

    value: float
    interval: Interval | None


class TaskResult(NamedTuple):
    """How the networks of a task do on the test split.

    scores: by network, that of the linear probe too, where there is one. more: by further measure,
    top-5 of more than 5 classes, AUC and d-primes where several labels may hold: of the networks
    but not the probe, and of chance. num_left_out: classes that mAP leaves out. chance: of guessing
    or of always answering the commonest class; where several labels may hold, what a random order
    gives. confusion: test samples by true class (rows) and predicted class of `model`, those of
    classes that it knows. num_unknown: samples with a label that is none of `classes`; it counts as
    wrong: in mAP, all clips fit it equally badly. initial: what `model` was fine-tuned from.
    """

    task: str
    label: str
    measure: Measure
    scores: Mapping[str, Score]
    more: Mapping[str, Mapping[str, Score]]
    num_left_out: int | None
    chance: float
    classes: Sequence[str]
    confusion: list[list[int]] | None
    num_test: int
    num_unknown: int
    initial: str


def measure_task(
    entry: TaskEntry, splits: Mapping[str, Seen], *, with_probe: bool = True
) -> TaskResult | Skipped:
    """Measure the networks of a task on the test split, and a linear probe of the same modality.

    `splits` are train, validation and test as the pre-trained network sees them. Without the probe,
    which learns from all of the split train, chance is that of guessing.
    """
    clips = splits["test"].clips
    samples = clips.find_labelled(entry.label, MODALITIES[entry.modality])
    if not samples:
        return Skipped(f"no test clip has the modality and a label of the task {entry.label}")
    labels = [clips.labels[sample[0]][entry.label] for sample in samples]
    videos = [clips.videos[sample[0]] for sample in samples]
    logits: Logits = {
        name: clips.see_samples(values, samples).mean(axis=1, dtype=np.float64)
        for name, values in entry.logits.items()
    }
    measure = _measure_many if entry.is_multi_label else _measure_one
    result = measure(entry, logits, labels, videos)
    if isinstance(result, Skipped):
        return result
    if not with_probe:
        return result
    folds = build_folds(entry.label, entry.modality, splits, by_split=True)
    linear = probe(folds, measure=result.measure)
    if isinstance(linear, Skipped):
        return result
    return result._replace(
        scores={**result.scores, "linear_probe": Score(linear.value, linear.interval)},
        chance=max(result.chance, linear.chance_majority),
    )


Logits = Mapping[str, Float[np.ndarray, "M C"]]
Labels = Sequence[Sequence[str]]


def _measure_one(
    entry: TaskEntry, logits: Logits, labels: Labels, videos: Sequence[str]
) -> TaskResult:
    """Measure a task of one label: accuracy of the label that fits best."""
    numbers = {name: number for number, name in enumerate(entry.classes)}
    right = np.array([numbers.get(row[0], -1) for row in labels])
    known = right >= 0

    def score(k: int) -> dict[str, Score]:
        hits = {
            name: np.where(known, count_hits(values, right, k), 0.0)
            for name, values in logits.items()
        }
        return {
            name: Score(float(row.mean()), bootstrap(videos, mean_of(row)))
            for name, row in hits.items()
        }

    chosen = logits["model"]
    num_classes = len(entry.classes)
    more = {}
    if num_classes > TOP_K:
        more["top5"] = {**score(TOP_K), "chance": Score(TOP_K / num_classes, None)}
    return TaskResult(
        task=entry.task,
        label=entry.label,
        measure="accuracy",
        scores=score(1),
        more=more,
        num_left_out=None,
        chance=1 / num_classes,
        classes=entry.classes,
        confusion=confusion_matrix(
            right[known], chosen[known].argmax(axis=1), labels=range(num_classes)
        ).tolist()
        if known.any()
        else None,
        num_test=len(labels),
        num_unknown=int((~known).sum()),
        initial=entry.initial,
    )


def _measure_many(
    entry: TaskEntry, logits: Logits, labels: Labels, videos: Sequence[str]
) -> TaskResult | Skipped:
    """Measure a task of several labels: mAP over the classes that tell something."""
    known = set(entry.classes)
    unknown = sorted({name for row in labels for name in row} - known)
    everything = [*entry.classes, *unknown]
    targets = mark_classes(labels, everything)
    if not find_measurable(targets).any():
        return Skipped(NO_ORDER)
    num_left_out = int((~find_measurable(targets)).sum())
    measured = {
        name: _rank(add_unknown(values, entry.classes, everything), targets, videos)
        for name, values in logits.items()
    }
    return TaskResult(
        task=entry.task,
        label=entry.label,
        measure="map",
        scores={name: scores["map"] for name, scores in measured.items()},
        more={measure: _collect(measure, measured) for measure in RANKED},
        num_left_out=num_left_out,
        chance=expect_map(targets),
        classes=entry.classes,
        confusion=None,
        num_test=len(labels),
        num_unknown=sum(not known.issuperset(row) for row in labels),
        initial=entry.initial,
    )


def _rank(
    scores: Float[np.ndarray, "M C"], targets: Bool[np.ndarray, "M C"], videos: Sequence[str]
) -> dict[str, Score]:
    """Return mAP and what comes with it of one network; an infinite d-prime is left out."""
    ranking = measure_ranking(scores, targets)
    intervals = {
        measure: bootstrap(videos, statistic_of(scores, targets))
        for measure, statistic_of in STATISTICS.items()
    }
    # d-prime rises with the area: its ends are those of the area's interval.
    ends = compute_d_prime(np.array(intervals["auc"] or np.nan))
    intervals["d_prime_of_mean_auc"] = ends.tolist() if np.isfinite(ends).all() else None
    values = {measure: getattr(ranking, measure) for measure in intervals}
    return {
        measure: Score(value, intervals[measure])
        for measure, value in values.items()
        if value is not None
    }


def _collect(measure: str, measured: Mapping[str, Mapping[str, Score]]) -> dict[str, Score]:
    """Return one of the measures that come with mAP, of all networks and of chance."""
    scores = {name: scores[measure] for name, scores in measured.items() if measure in scores}
    return {**scores, "chance": Score(RANKED[measure], None)}


def summarise_task(result: TaskResult | Skipped) -> dict[str, Any]:
    """Return all numbers of a task for metrics/evaluate.json."""
    if isinstance(result, Skipped):
        return {"skipped": result.reason}
    own = result.scores["model"]
    numbers: dict[str, Any] = {
        "label": result.label,
        "measure": result.measure,
        result.measure: own.value,
        "interval": own.interval,
        "chance": result.chance,
        "num_classes": len(result.classes),
        "num_test": result.num_test,
        "num_unknown": result.num_unknown,
        "initial": result.initial,
    }
    numbers |= _flatten(result.scores, ("scratch", "untrained", "linear_probe"))
    if result.num_left_out is not None:
        numbers["num_left_out"] = result.num_left_out
    measured = {name: scores for name, scores in result.more.items() if "model" in scores}
    numbers |= {name: scores["model"].value for name, scores in measured.items()}
    numbers["more"] = {
        name: {
            "interval": scores["model"].interval,
            "chance": scores["chance"].value,
            **_flatten(scores, ("scratch", "untrained")),
        }
        for name, scores in measured.items()
    }
    return numbers


def _flatten(scores: Mapping[str, Score], names: Sequence[str]) -> dict[str, Any]:
    """Return `<name>` and `<name>_interval` of these networks, None for those that there are not."""
    numbers: dict[str, Any] = {}
    for name in names:
        score = scores.get(name)
        numbers[name] = score.value if score else None
        numbers[f"{name}_interval"] = score.interval if score else None
    return numbers
