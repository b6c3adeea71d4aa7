"""The results as a short table: `python -m vatt.evaluation.summary` prints those of the last run."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

METRICS_PATH = Path("metrics/evaluate.json")
REPORT_PATH = Path("data/evaluate/report.html")
DIRECTIONS = {"text_to_video": "text to video", "audio_to_video": "sound to video"}
MEASURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "median_rank": "median rank"}
COLUMNS = ("trained", "untrained", "chance")


def format_summary(metrics: Mapping[str, Any]) -> str:
    """Lay out the content of metrics/evaluate.json as aligned text.

    Chance of a probe is the better of answering at random and always the commonest class.
    """
    head = "".join(f"{column:>11}" for column in COLUMNS)
    lines = [f"{'':38}{head}", *_format_retrieval(metrics), "", *_format_probes(metrics["probes"])]
    return "\n".join(line.rstrip() for line in lines)


def main() -> None:
    """Print the table of the last run, and where its report is."""
    metrics = json.loads(METRICS_PATH.read_text(encoding="utf-8"))
    print(f"\n{format_summary(metrics)}\n\nReport: {REPORT_PATH}")


def _format_retrieval(metrics: Mapping[str, Any]) -> Iterator[str]:
    for direction, title in DIRECTIONS.items():
        num_pairs = metrics[f"{direction}_pairs"]
        name = f"Retrieval, {title}, {num_pairs} clips"
        if not num_pairs:
            yield f"{name}: nothing to measure"
            continue
        yield name
        for measure, label in MEASURES.items():
            key = f"{direction}_{measure}"
            numbers = [metrics[key], metrics["untrained"][key], metrics["chance"][key]]
            if measure == "median_rank":
                yield f"  {label:36}" + "".join(f"{number:11.1f}" for number in numbers)
            else:
                times = f"   {numbers[0] / numbers[2]:.1f} times chance"
                yield f"  {label:36}" + "".join(_percent(number) for number in numbers) + times


def _format_probes(probes: Mapping[str, Any]) -> Iterator[str]:
    yield "Linear probe, accuracy"
    if not probes:
        yield "  nothing to measure: no labels"
    for task, modalities in probes.items():
        for modality, result in modalities.items():
            name = f"  {f'{task}, from {modality}':36}"
            if "reason" in result:
                yield f"{name} skipped: {result['reason']}"
                continue
            chance = max(result["chance_uniform"], result["chance_majority"])
            gain = 100 * (result["accuracy"] - result["untrained"])
            numbers = (result["accuracy"], result["untrained"], chance)
            cells = "".join(_percent(number) for number in numbers)
            yield f"{name}{cells}   {gain:+.1f} points over untrained"


def _percent(share: float) -> str:
    return f"{100 * share:10.1f}%"


if __name__ == "__main__":
    main()
