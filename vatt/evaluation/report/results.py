"""Retrieval and probes as tables of text."""

from collections.abc import Iterator, Mapping
from typing import Any

from vatt.evaluation.summary import DIRECTIONS, MEASURES


def list_retrieval(metrics: Mapping[str, Any], direction: str) -> dict[str, Any]:
    """The rows of the table for one direction, as text."""
    rows = []
    for measure, name in MEASURES.items() if metrics[f"{direction}_pairs"] else ():
        key = f"{direction}_{measure}"
        numbers = (metrics[key], metrics["untrained"][key], metrics["chance"][key])
        is_rank = measure == "median_rank"
        cells = [f"{number:.1f}" if is_rank else percent(number) for number in numbers]
        ratio = "" if is_rank else f"{numbers[0] / numbers[2]:.1f}"
        labels = ("name", "trained", "untrained", "chance", "ratio")
        rows.append(dict(zip(labels, (name, *cells, ratio), strict=True)))
    title = DIRECTIONS[direction].capitalize()
    return {"title": title, "num_pairs": metrics[f"{direction}_pairs"], "rows": rows}


def list_probes(probes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of the table of probes, as text; `reason` is None where there are numbers."""
    for task, modalities in probes.items():
        for modality, result in modalities.items():
            row = {"task": task, "modality": modality, "reason": result.get("reason")}
            if row["reason"] is None:
                gain = 100 * (result["accuracy"] - result["untrained"])
                row |= {
                    "trained": percent(result["accuracy"]),
                    "untrained": percent(result["untrained"]),
                    "uniform": percent(result["chance_uniform"]),
                    "majority": percent(result["chance_majority"]),
                    "gain": f"{gain:+.1f}",
                    "colour": "good" if gain > 0 else "bad" if gain < 0 else "",
                    **{name: result[name] for name in ("num_classes", "num_train", "num_test")},
                }
            yield row


def percent(share: float) -> str:
    """Return a share as text."""
    return f"{100 * share:.1f}%"
