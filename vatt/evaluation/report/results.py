"""Retrieval, linear classifiers and fine-tuned networks as tables of text."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vatt.evaluation.summary import (
    DIRECTIONS,
    METHODS,
    RETRIEVAL,
    RIVALS,
    TITLES,
    format_interval,
    format_value,
)

LOGISTIC = "logistic regression"
TASK_TITLES = {**DIRECTIONS, "linear": "linear classifier"}


def list_retrieval(metrics: Mapping[str, Any], direction: str) -> dict[str, Any]:
    """The rows of the table for one direction, as text."""
    columns = {
        "trained": (metrics, metrics["intervals"]),
        "cosine": (metrics["cosine"], metrics["cosine_intervals"]),
        "untrained": (metrics["untrained"], metrics["untrained_intervals"]),
    }
    rows = []
    for measure in RETRIEVAL if metrics[f"{direction}_pairs"] else ():
        key = f"{direction}_{measure}"
        chance = metrics["chance"][key]
        row = {"name": TITLES[measure], "chance": format_value(measure, chance)}
        for name, (values, intervals) in columns.items():
            row[name] = format_value(measure, values[key])
            row[f"{name}_interval"] = _interval(measure, intervals[key])
        ratio = "" if measure == "median_rank" else f"{metrics[key] / chance:.1f}"
        rows.append({**row, "ratio": ratio})
    return {
        "title": DIRECTIONS[direction].capitalize(),
        "num_pairs": metrics[f"{direction}_pairs"],
        "num_items": metrics[f"{direction}_items"],
        "rows": rows,
    }


def list_probes(probes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the table of linear classifiers, as text; `reason` is None where there are numbers.

    Logistic regression comes first of the classifiers of a task and modality.
    """
    for task, modalities in probes.items():
        for modality, result in modalities.items():
            row = {"task": task, "modality": modality, "classifier": LOGISTIC}
            if "reason" in result:
                yield {**row, "reason": result["reason"]}
                continue
            counts = ("num_classes", "num_folds", "num_train", "num_test")
            row |= {
                "reason": None,
                "chance": format_value(result["measure"], result["chance"]),
                **{name: result[name] for name in counts},
            }
            yield {**row, **_show_probe(result)}
            for method, title in METHODS.items():
                if method in result:
                    yield {**row, "classifier": title, **_show_probe(result[method])}


def _show_probe(result: Mapping[str, Any]) -> dict[str, str]:
    measure = result["measure"]
    gain = 100 * (result[measure] - result["untrained"])
    return {
        "measure": TITLES[measure],
        "trained": format_value(measure, result[measure]),
        "interval": _interval(measure, result["interval"]),
        "untrained": format_value(measure, result["untrained"]),
        "untrained_interval": _interval(measure, result["untrained_interval"]),
        "gain": f"{gain:+.1f}",
        "colour": "good" if gain > 0 else "bad" if gain < 0 else "",
    }


def list_finetuned(finetuned: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the table of fine-tuned networks, as text; `skipped` is None where there are numbers.

    best: whether the network is above all that it is compared with.
    """
    for task, result in finetuned.items():
        row = {"task": task, "skipped": result.get("skipped")}
        if row["skipped"] is None:
            measure = result["measure"]
            value = result[measure]
            others = [result[name] for name in (*RIVALS, "chance") if result[name] is not None]
            row |= {
                "label": result["label"],
                "initial": result["initial"],
                "measure": TITLES[measure],
                "value": format_value(measure, value),
                "interval": _interval(measure, result["interval"]),
                **{name: format_value(measure, result[name]) for name in RIVALS},
                **{
                    f"{name}_interval": _interval(measure, result[f"{name}_interval"])
                    for name in RIVALS
                },
                "chance": format_value(measure, result["chance"]),
                "best": value > max(others),
                "more": [_show_more(name, result) for name in result["more"]],
                **{name: result[name] for name in ("num_classes", "num_test", "num_unknown")},
            }
        yield row


def list_published(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table of published numbers, as text."""
    return [
        {
            **row,
            "task": TASK_TITLES.get(row["task"], row["task"]),
            "measure": TITLES[row["measure"]],
            "value": format_value(row["measure"], row["value"]),
        }
        for row in rows
    ]


def _show_more(measure: str, result: Mapping[str, Any]) -> dict[str, str]:
    """Return a further measure of a task."""
    beside = result["more"][measure]
    row = {
        "measure": TITLES[measure],
        "value": format_value(measure, result[measure]),
        "interval": _interval(measure, beside["interval"]),
        "chance": format_value(measure, beside["chance"]),
    }
    for name in ("scratch", "untrained"):
        row[name] = format_value(measure, beside[name])
        row[f"{name}_interval"] = _interval(measure, beside[f"{name}_interval"])
    return row


def _interval(measure: str, ends: Sequence[float] | None) -> str:
    """Return an interval of 95 % as text, with its unit; empty where there is none."""
    text = format_interval(measure, ends)
    return f"{text}%" if text and format_value(measure, 0.0).endswith("%") else text


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.1f}%"
