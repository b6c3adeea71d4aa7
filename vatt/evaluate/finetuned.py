"""Fine-tuned classifiers on the test split, beside what they must beat (VATT 4.2.1 and 4.2.2)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.metrics import confusion_matrix

from vatt.core.errors import StageError
from vatt.evaluate import metrics
from vatt.evaluate.features import Seen
from vatt.evaluate.linear_evaluation import (
    NO_ORDER,
    Metric,
    Skipped,
    build_folds,
    probe,
)
from vatt.evaluate.networks import Labeller
from vatt.evaluate.selection import EVERYTHING, FEATURES, Subset
from vatt.loading.tasks import TaskInput
from vatt.params import SKIPPED
from vatt.weights.export import build_untrained
from vatt.weights.inference import load_classifier
from vatt.weights.registry import digest_export

TOP_K = 5
RANKED = {"auc": 0.5, "d_prime": 0.0, "d_prime_of_mean_auc": 0.0}
"""The metrics beside mAP, and what a random order gives."""
RIVALS = ("scratch", "untrained", "linear_probe")


class Score(NamedTuple):
    """A number and its interval over test videos."""

    value: float
    interval: metrics.Interval | None = None


ScoreByName = Mapping[str, Score]
"""By network, and of `chance`: of guessing, or of a random order where several labels may hold."""
Logits = Mapping[str, Float[np.ndarray, "M C"]]
Labels = Sequence[Sequence[str]]


class TaskEntry(NamedTuple):
    """What was fine-tuned to a task, and what each of its networks makes of the test clips."""

    task: str
    label: str
    is_multi_label: bool
    classes: Sequence[str]
    """The classes of the logits, in their order."""
    logits: Mapping[str, Float[np.ndarray, "N W C"]]
    """Those of the windows by network: `model`, `untrained` and, where it was trained, `scratch`;
    none where a split has no clips."""
    initial: str
    """What `model` was fine-tuned from, in words."""


Finetuned = tuple[TaskEntry | Skipped, dict[str, Labeller]]
"""What is measured of a task, yet without logits, and the networks that make these, by their names;
none of a task that was skipped."""


class TaskResult(NamedTuple):
    """How the networks of a task do on the test split."""

    entry: TaskEntry
    metric: Metric
    scores: ScoreByName
    """By `metric`; that of the `linear_probe` too, where there is one: chance then is that of
    always answering the commonest class, if that is higher."""
    further: Mapping[str, ScoreByName]
    """By further metrics: top-5 of more than 5 classes; AUC and d-primes beside mAP."""
    num_test: int
    num_unknown: int
    """Samples with a label that training does not know. It counts as wrong: in mAP, all clips fit
    it equally badly."""
    num_left_out: int | None = None
    """Classes that mAP leaves out."""
    num_cut_short: int = 0
    """Fits of the linear probe that did not converge."""
    confusion: list[list[int]] | None = None
    """Samples of known classes by true class (rows) and predicted class of `model`."""


def load_finetuned(folder: Path, export_digest: str) -> Finetuned:
    """Load the networks of a task, which the folder is called after, or say why there are none.

    `export_digest` is that of the pre-trained network that they are measured beside.

    Raises StageError if the folder is not as the stage finetune leaves it.
    """
    advice = f"run `python -m vatt finetune {folder.name}`"
    if (folder / SKIPPED).is_file():
        try:
            content = json.loads((folder / SKIPPED).read_text(encoding="utf-8"))
            return Skipped(content["reason"]), {}
        except (OSError, ValueError) as error:
            raise StageError(f"{folder / SKIPPED}: cannot be read: {error}; {advice}") from error
    if not folder.is_dir():
        return Skipped("was not fine-tuned"), {}
    if not (folder / "model").is_dir():
        raise StageError(f"{folder}: has no model; {advice}")
    loaded = {
        name: (load_classifier(folder / name), digest_export(folder / name))
        for name in ("model", "scratch")
        if (folder / name).is_dir()
    }
    params, digest = loaded["model"][0].params, loaded["model"][1]
    if params.task_name is None or params.clip is None:
        raise StageError(f"{folder}: the network was not fine-tuned by the stage finetune")
    networks = {name: (exported.model, own) for name, (exported, own) in loaded.items()}
    networks["untrained"] = (build_untrained(params), f"{digest} untrained")
    seen = TaskInput(params.task_name, params.clip, params.audio_stride)
    labellers = {
        name: Labeller(network, seen, params.frame_rate_hz, own, str(folder / name))
        for name, (network, own) in networks.items()
    }
    origins = {None: "random weights", export_digest: "this network"}
    entry = TaskEntry(
        task=folder.name,
        label=params.label or "",
        is_multi_label=params.classifier.is_multi_label,
        classes=params.classes or (),
        logits={},
        initial=origins.get(params.initial_digest, "other weights"),
    )
    return entry, labellers


def measure_task(
    entry: TaskEntry,
    splits: Mapping[str, Seen],
    subset: Subset = EVERYTHING,
    *,
    with_probe: bool = True,
) -> TaskResult | Skipped:
    """Measure the networks of a task on the test split, and a linear probe of the same modality.

    `splits` are train, validation and test as the pre-trained network sees them. Without the probe,
    which learns from a `subset` of the split train, chance is that of guessing.
    """
    clips, modality = splits["test"].clips, "video" if entry.task == "image" else entry.task
    samples = clips.find_labelled(entry.label, FEATURES[modality])
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
    if isinstance(result, Skipped) or not with_probe:
        return result
    folds = build_folds(entry.label, modality, splits, subset, by_split=True)
    linear = probe(folds, metric=result.metric)
    if isinstance(linear, Skipped):
        return result
    chance = Score(max(result.scores["chance"].value, linear.chance_majority))
    beside = {"linear_probe": Score(linear.value, linear.interval), "chance": chance}
    scores = {**result.scores, **beside}
    return result._replace(scores=scores, num_cut_short=linear.num_cut_short)


def _measure_one(
    entry: TaskEntry, logits: Logits, labels: Labels, videos: Sequence[str]
) -> TaskResult:
    """Measure a task of one label: accuracy of the label that fits best."""
    numbers = {name: number for number, name in enumerate(entry.classes)}
    num_classes = len(numbers)
    right = np.array([numbers.get(row[0], -1) for row in labels])
    known = right >= 0

    def score(k: int) -> dict[str, Score]:
        scores = {"chance": Score(k / num_classes)}
        for name, values in logits.items():
            hits = np.where(known, metrics.find_within(k, metrics.rank_rows(values, right)), 0.0)
            scores[name] = Score(
                float(hits.mean()), metrics.bootstrap(videos, metrics.mean_of(hits))
            )
        return scores

    confusion = None
    if known.any():
        answers = logits["model"][known].argmax(axis=1)
        confusion = confusion_matrix(right[known], answers, labels=range(num_classes)).tolist()
    return TaskResult(
        entry=entry,
        metric="accuracy",
        scores=score(1),
        further={"top5": score(TOP_K)} if num_classes > TOP_K else {},
        num_test=len(labels),
        num_unknown=int((~known).sum()),
        confusion=confusion,
    )


def _measure_many(
    entry: TaskEntry, logits: Logits, labels: Labels, videos: Sequence[str]
) -> TaskResult | Skipped:
    """Measure a task of several labels: mAP over the classes that tell something."""
    known = set(entry.classes)
    everything = [*entry.classes, *sorted({name for row in labels for name in row} - known)]
    targets = metrics.mark_classes(labels, everything)
    measurable = metrics.find_measurable(targets)
    if not measurable.any():
        return Skipped(NO_ORDER)
    chances = {"map": metrics.expect_map(targets), **RANKED}
    scores = {metric: {"chance": Score(chance)} for metric, chance in chances.items()}
    for name, values in logits.items():
        ranked = metrics.add_unknown(values, entry.classes, everything)
        intervals = {
            metric: metrics.bootstrap(videos, metrics.statistic_of(metric, ranked, targets))
            for metric in ("map", "auc", "d_prime")
        }
        # d-prime rises with the area: its ends are those of the area's interval.
        ends = metrics.compute_d_prime(np.array(intervals["auc"] or np.nan))
        intervals["d_prime_of_mean_auc"] = ends.tolist() if np.isfinite(ends).all() else None
        for metric, value in metrics.measure_ranking(ranked, targets)._asdict().items():
            if value is not None:  # an infinite d-prime is left out
                scores[metric][name] = Score(value, intervals[metric])
    return TaskResult(
        entry=entry,
        metric="map",
        scores=scores.pop("map"),
        further=scores,
        num_test=len(labels),
        num_unknown=sum(not known.issuperset(row) for row in labels),
        num_left_out=int((~measurable).sum()),
    )


def summarise_task(result: TaskResult | Skipped) -> dict[str, Any]:
    """Return all numbers of a task for metrics/evaluate.json."""
    if isinstance(result, Skipped):
        return {"skipped": result.reason}
    further = {name: scores for name, scores in result.further.items() if "model" in scores}
    left_out = {} if result.num_left_out is None else {"num_left_out": result.num_left_out}
    cut_short = {"linear_probe_fits_cut_short": result.num_cut_short}
    return {
        "label": result.entry.label,
        "measure": result.metric,
        result.metric: result.scores["model"].value,
        **_list_beside(result.scores, RIVALS),
        "num_classes": len(result.entry.classes),
        "num_test": result.num_test,
        "num_unknown": result.num_unknown,
        "initial": result.entry.initial,
        **left_out,
        **(cut_short if result.num_cut_short else {}),
        **{name: scores["model"].value for name, scores in further.items()},
        "more": {name: _list_beside(scores, RIVALS[:2]) for name, scores in further.items()},
    }


def _list_beside(scores: ScoreByName, rivals: Iterable[str]) -> dict[str, Any]:
    """Return the interval of `model`, chance, and the others; None for those that there are not."""
    model, chance = scores["model"], scores["chance"]
    numbers: dict[str, Any] = {"interval": model.interval, "chance": chance.value}
    for name in rivals:
        value, interval = scores.get(name, (None, None))
        numbers |= {name: value, f"{name}_interval": interval}
    return numbers
