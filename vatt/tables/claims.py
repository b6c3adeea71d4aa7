"""The numbers of runs by name, and over seeds: what docs/results.json and tables are made of."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from vatt.evaluate.retrieval import DIRECTIONS
from vatt.tables.intervals import summarise

Unit = Literal["share", "times chance"]
Metrics = Mapping[str, Any]
"""The content of metrics/evaluate.json."""
NOTHING: dict[Unit, float] = {"share": 0.0, "times chance": 1.0}
"""What a difference and a ratio are where there is nothing to claim."""
DIGITS = 6


class Value(NamedTuple):
    """One number of one run."""

    name: str
    unit: Unit
    value: float
    is_claim: bool = False
    """Whether it says that one thing is better than another."""


def read_values(metrics: Metrics) -> Iterator[Value]:
    """Yield what an evaluation found: retrieval, linear classifiers (logistic), fine-tuning."""
    for direction, title in DIRECTIONS.items():
        key = f"{direction}_r10"
        trained, chance, untrained = metrics[key], metrics["chance"][key], metrics["untrained"][key]
        if trained is not None:
            yield Value(f"{title} R@10 / chance", "times chance", trained / chance, is_claim=True)
            yield from _compare(f"{title} R@10", ("trained", trained), ("untrained", untrained))
    for label, modalities in sorted(metrics["probes"].items()):
        for modality, result in sorted(modalities.items(), reverse=True):
            if "reason" not in result:
                name = f"{modality} {_to_words(label)}, linear probe"
                trained = result[result["measure"]]
                yield from _compare(name, ("trained", trained), ("untrained", result["untrained"]))
    for task, result in _list_finetuned(metrics):
        tuned = "fine-tuned", result[result["measure"]]
        if result["scratch"] is not None:
            yield from _compare(name_task(task, result), tuned, ("scratch", result["scratch"]))


def compare_schedules(tuned: Metrics, given: Metrics) -> Iterator[Value]:
    """Yield what tuning gained on the test split; 0 of a task that only `tuned` has.

    Such a task was fine-tuned with the schedule of params.yaml, as that was the best one.
    """
    others = dict(_list_finetuned(given))
    for task, result in _list_finetuned(tuned):
        metric = result["measure"]
        other = others.get(task, result)[metric]
        name = f"{name_task(task, result)}, tuned - untuned"
        yield Value(name, "share", result[metric] - other, is_claim=True)


def name_task(task: str, result: Mapping[str, Any]) -> str:
    """Return how a fine-tuned task is called: `audio-visual action`."""
    return f"{task.replace('_', '-')} {_to_words(result['label'])}"


def summarise_runs(runs: Sequence[Sequence[Value]], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Return each number over the runs, which have one seed each; some have the same.

    The interval is over seeds, of the mean of the runs of each seed: these are not independent.
    `holds` says whether a claim's interval lies above what there is where nothing is to claim. A
    number that one of the runs lacks is left out.
    """
    found = [{value.name: value for value in values} for values in runs]
    numbers = []
    for name, first in found[0].items():
        if not all(name in values for values in found):
            continue
        own = [values[name].value for values in found]
        groups: dict[int, list[float]] = {}
        for seed, value in zip(seeds, own, strict=True):
            groups.setdefault(seed, []).append(value)
        summary = summarise([sum(group) / len(group) for group in groups.values()])
        low = summary.interval[0]
        numbers.append(
            {
                "name": name,
                "unit": first.unit,
                "runs": [round(value, DIGITS) for value in own],
                "mean": round(summary.mean, DIGITS),
                "deviation": round(summary.deviation, DIGITS),
                "interval": [round(end, DIGITS) for end in summary.interval],
                "holds": low > NOTHING[first.unit] if first.is_claim else None,
            }
        )
    return numbers


def _compare(name: str, one: tuple[str, float], other: tuple[str, float]) -> Iterator[Value]:
    """Yield two levels and their difference."""
    for word, value in (one, other):
        yield Value(f"{name}, {word}", "share", value)
    difference = one[1] - other[1]
    yield Value(f"{name}, {one[0]} - {other[0]}", "share", difference, is_claim=True)


def _list_finetuned(metrics: Metrics) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for task, result in sorted(metrics["finetuned"].items()):
        if "skipped" not in result:
            yield task, result


def _to_words(label: str) -> str:
    return label.replace("_", " ")
