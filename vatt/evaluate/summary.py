"""The results as a short table: `python -m vatt.evaluate.summary` prints those of the last run."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS_PATH = Path("metrics/evaluate.json")
REPORT_PATH = Path("data/evaluate/report.html")
DIRECTIONS = {"text_to_video": "text to video", "audio_to_video": "sound to video"}
RETRIEVAL = ("r1", "r5", "r10", "median_rank")
TITLES = {
    "r1": "R@1",
    "r5": "R@5",
    "r10": "R@10",
    "median_rank": "median rank",
    "accuracy": "accuracy",
    "top5": "top-5",
    "map": "mAP",
    "auc": "AUC",
    "d_prime": "d-prime, mean of classes",
    "d_prime_of_mean_auc": "d-prime of mean AUC",
}
"""Of all measures, in the order that they are shown in."""
METHODS = {"svm": "SVM", "lrc": "LRC"}
COLUMNS = ("trained, 95 %", "untrained, 95 %")
"""Of a value and its interval; chance follows."""
RIVALS = ("linear_probe", "scratch", "untrained")
FINETUNED_COLUMNS = ("fine-tuned", "linear", "scratch", "untrained", "chance")


def format_summary(metrics: Mapping[str, Any]) -> str:
    """Lay out the content of metrics/evaluate.json as aligned text of 100 columns.

    Chance of an accuracy is the better of answering at random and always the commonest class.
    Intervals are of drawing other test videos.
    """
    head = "".join(f"{name:>19}" for name in COLUMNS)
    parts = [
        [f"{'':41}{head}{'chance':>8}"],
        _format_retrieval(metrics),
        _format_probes(metrics["probes"]),
        _format_finetuned(metrics["finetuned"]),
        _format_published(metrics["published"]),
    ]
    blocks = ["\n".join(line.rstrip() for line in part) for part in parts]
    return "\n\n".join(block for block in blocks if block).replace("\n\n", "\n", 1)


def format_value(measure: str, value: float | None) -> str:
    """Return a number as the measure is written: shares in per cent; empty where there is none."""
    if value is None:
        return ""
    if measure == "median_rank":
        return f"{value:.1f}"
    return f"{value:.3f}" if measure.startswith("d_prime") else f"{100 * value:.1f}%"


def format_interval(measure: str, ends: Sequence[float] | None) -> str:
    """Return an interval without its unit; empty where there is none."""
    return "" if ends is None else "–".join(format_value(measure, end).strip("%") for end in ends)


def main() -> None:
    """Print the table of the last run, and where its report is."""
    try:
        metrics = json.loads(METRICS_PATH.read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(f"{METRICS_PATH} is missing: the stage evaluate makes it (dvc repro evaluate)")
    print(f"\n{format_summary(metrics)}\n\nReport: {REPORT_PATH}")


def _format_retrieval(metrics: Mapping[str, Any]) -> Iterator[str]:
    for direction, title in DIRECTIONS.items():
        name = f"Retrieval, {title}, {metrics[f'{direction}_items']} clips"
        if not metrics[f"{direction}_pairs"]:
            yield f"{name}: nothing to measure"
            continue
        yield name
        for measure in RETRIEVAL:
            key = f"{direction}_{measure}"
            value, chance = metrics[key], metrics["chance"][key]
            cells = [
                _cell(measure, value, metrics["intervals"][key]),
                _cell(measure, metrics["untrained"][key], metrics["untrained_intervals"][key]),
            ]
            times = "" if measure == "median_rank" else f"{value / chance:.1f}x chance"
            yield _row(f"  {TITLES[measure]}", cells, _pad(measure, chance)) + f"{times:>13}"


def _format_probes(probes: Mapping[str, Any]) -> Iterator[str]:
    yield "Linear classifiers of frozen features"
    if not probes:
        yield "  nothing to measure: no labels"
    for task, modalities in sorted(probes.items()):
        for modality, result in sorted(modalities.items()):
            name = f"  {task}, from {modality}"
            if "reason" in result:
                yield f"{name:38} skipped: {result['reason']}"
                continue
            folds = f", {result['num_folds']} folds" if result["num_folds"] > 1 else ""
            yield _format_probe(
                f"{name}, {TITLES[result['measure']]}{folds}", result, result["chance"]
            )
            for method, title in METHODS.items():
                if method in result:
                    yield _format_probe(f"    {title}", result[method], result["chance"])


def _format_probe(name: str, result: Mapping[str, Any], chance: float) -> str:
    measure = result["measure"]
    value, untrained = result[measure], result["untrained"]
    cells = [
        _cell(measure, value, result["interval"]),
        _cell(measure, untrained, result["untrained_interval"]),
    ]
    return f"{_row(name, cells, format_value(measure, chance))}{100 * (value - untrained):+6.1f} points"


def _format_finetuned(finetuned: Mapping[str, Any]) -> Iterator[str]:
    """Two lines a task, numbers and their intervals; one for each further measure."""
    if finetuned:
        yield f"{'Fine-tuned':40}" + "".join(f"{name:>12}" for name in FINETUNED_COLUMNS)
    for task, result in sorted(finetuned.items()):
        if "skipped" in result:
            yield f"  {task:36} skipped: {result['skipped']}"
            continue
        measure = result["measure"]
        values = [result[name] for name in (measure, *RIVALS, "chance")]
        intervals = [result["interval"], *(result[f"{name}_interval"] for name in RIVALS)]
        name = f"  {task}: {result['label']}, {TITLES[measure]}"
        yield f"{name:40}" + "".join(f"{format_value(measure, value):>12}" for value in values)
        ends = "".join(f"{format_interval(measure, interval):>12}" for interval in intervals)
        origin = f"    from {result['initial']}, 95 %"
        yield f"{origin:40}{ends}"
        for name, beside in result["more"].items():
            others = [None, *(beside[rival] for rival in ("scratch", "untrained", "chance"))]
            cells = [format_value(name, value) for value in (result[name], *others)]
            yield f"{'    ' + TITLES[name]:40}" + "".join(f"{cell:>12}" for cell in cells)


def _format_published(published: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if published:
        yield "Published (other hardware, other training data; not measured here)"
    for row in published:
        task = DIRECTIONS.get(row["task"], row["task"])
        name = "  " + ", ".join((row["data_set"], task, row["model"]))
        value = _pad(row["measure"], row["value"])
        yield f"{name:50}{TITLES[row['measure']]:>25}{value:>9}"


def _row(name: str, cells: Sequence[str], chance: str) -> str:
    return f"{name:41}{''.join(cells)}{chance:>8}"


def _cell(measure: str, value: float | None, interval: Sequence[float] | None) -> str:
    """Return a value and its interval, 19 wide."""
    return f"{_pad(measure, value):>7}{format_interval(measure, interval):>12}"


def _pad(measure: str, value: float | None) -> str:
    """Return the value with its decimals below those of shares."""
    text = format_value(measure, value)
    return text if text.endswith("%") else f"{text} "


if __name__ == "__main__":
    main()
