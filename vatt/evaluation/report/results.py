"""Retrieval, linear classifiers and fine-tuned networks as tables of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vatt.evaluation.summary import DIRECTIONS, MEASURES

METHODS = ("svm", "lrc")
RIVALS = ("linear_probe", "scratch", "untrained")
MEASURE_NAMES = {"accuracy": "accuracy", "map": "mAP"}
MORE_MEASURES = {
    "top5": "top-5",
    "auc": "AUC",
    "d_prime": "d-prime",
    "d_prime_of_mean_auc": "d-prime of mean AUC",
}


def list_retrieval(metrics: Mapping[str, Any], direction: str) -> dict[str, Any]:
    """The rows of the table for one direction, as text."""
    rows = []
    for measure, name in MEASURES.items() if metrics[f"{direction}_pairs"] else ():
        key = f"{direction}_{measure}"
        numbers = [metrics[key]] + [
            metrics[part][key] for part in ("cosine", "untrained", "chance")
        ]
        is_rank = measure == "median_rank"
        show = _rank if is_rank else percent
        cells = [show(number) for number in numbers]
        ratio = "" if is_rank else f"{numbers[0] / numbers[-1]:.1f}"
        labels = ("name", "trained", "cosine", "untrained", "chance", "ratio")
        interval = _interval(metrics["intervals"][key], 1 if is_rank else 100)
        row = dict(zip(labels, (name, *cells, ratio), strict=True))
        rows.append({**row, "interval": interval})
    return {
        "title": DIRECTIONS[direction].capitalize(),
        "num_pairs": metrics[f"{direction}_pairs"],
        "num_items": metrics[f"{direction}_items"],
        "rows": rows,
    }


def list_probes(probes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the table of linear classifiers, as text; `reason` is None where there are numbers."""
    for task, modalities in probes.items():
        for modality, result in modalities.items():
            row = {"task": task, "modality": modality, "reason": result.get("reason")}
            if row["reason"] is None:
                value = result[result["measure"]]
                gain = 100 * (value - result["untrained"])
                row |= {
                    "measure": MEASURE_NAMES[result["measure"]],
                    "trained": percent(value),
                    "interval": _interval(result["interval"]),
                    "untrained": percent(result["untrained"]),
                    "chance": percent(result["chance"]),
                    "gain": f"{gain:+.1f}",
                    "colour": "good" if gain > 0 else "bad" if gain < 0 else "",
                    **{name: _show_other(result.get(name)) for name in METHODS},
                    **{
                        name: result[name]
                        for name in ("num_classes", "num_folds", "num_train", "num_test")
                    },
                }
            yield row


def list_finetuned(finetuned: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the table of fine-tuned networks, as text; `skipped` is None where there are numbers.

    best: whether the network is above all that it is compared with.
    """
    for task, result in finetuned.items():
        row = {"task": task, "skipped": result.get("skipped")}
        if row["skipped"] is None:
            value = result[result["measure"]]
            others = [result[name] for name in (*RIVALS, "chance") if result[name] is not None]
            row |= {
                "label": result["label"],
                "measure": MEASURE_NAMES[result["measure"]],
                "value": percent(value),
                "interval": _interval(result["interval"]),
                **{name: _show(result[name]) for name in RIVALS},
                **{f"{name}_interval": _interval(result[f"{name}_interval"]) for name in RIVALS},
                "chance": percent(result["chance"]),
                "best": value > max(others),
                "more": _list_more(result),
                **{name: result[name] for name in ("num_classes", "num_test", "num_unknown")},
            }
        yield row


def list_published(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table of published numbers, as text."""
    return [
        {**row, "value": percent(row["value"]) if row["value"] <= 1 else f"{row['value']:.1f}"}
        for row in rows
    ]


def _list_more(result: Mapping[str, Any]) -> str:
    """Return the further measures of a task in one line."""
    shown = []
    for name, title in MORE_MEASURES.items():
        value = result.get(name)
        if value is not None:
            shown.append(f"{title} {percent(value) if name in ('top5', 'auc') else f'{value:.3f}'}")
    return ", ".join(shown)


def _show_other(result: Mapping[str, Any] | None) -> str:
    return "" if result is None else percent(result[result["measure"]])


def _show(value: float | None) -> str:
    return "" if value is None else percent(value)


def _interval(interval: Sequence[float] | None, scale: float = 100) -> str:
    """Return an interval of 95 % as text; empty where there is none."""
    if interval is None:
        return ""
    low, high = (f"{scale * end:.1f}" for end in interval)
    return f"{low}–{high}{'%' if scale == 100 else ''}"


def _rank(rank: float) -> str:
    return f"{rank:.1f}"


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.1f}%"
