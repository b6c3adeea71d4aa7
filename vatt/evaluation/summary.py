"""The results as a short table: `python -m vatt.evaluation.summary` prints those of the last run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS_PATH = Path("metrics/evaluate.json")
REPORT_PATH = Path("data/evaluate/report.html")
DIRECTIONS = {"text_to_video": "text to video", "audio_to_video": "sound to video"}
MEASURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "median_rank": "median rank"}
NAMES = {"accuracy": "accuracy", "map": "mAP"}
METHODS = {"svm": "SVM", "lrc": "LRC"}
COLUMNS = ("trained", "95 % interval", "untrained", "chance")
FINETUNED_COLUMNS = ("fine-tuned", "95 % interval", "linear", "scratch", "untrained", "chance")
WIDTHS = {"95 % interval": 17}


def format_summary(metrics: Mapping[str, Any]) -> str:
    """Lay out the content of metrics/evaluate.json as aligned text.

    Chance of an accuracy is the better of answering at random and always the commonest class.
    Intervals are of drawing other test videos.
    """
    parts = [
        [_head("", COLUMNS)],
        _format_retrieval(metrics),
        _format_probes(metrics["probes"]),
        _format_finetuned(metrics["finetuned"]),
        _format_published(metrics["published"]),
    ]
    blocks = ["\n".join(line.rstrip() for line in part) for part in parts]
    return "\n\n".join(block for block in blocks if block).replace("\n\n", "\n", 1)


def main() -> None:
    """Print the table of the last run, and where its report is."""
    metrics = json.loads(METRICS_PATH.read_text(encoding="utf-8"))
    print(f"\n{format_summary(metrics)}\n\nReport: {REPORT_PATH}")


def _format_retrieval(metrics: Mapping[str, Any]) -> Iterator[str]:
    for direction, title in DIRECTIONS.items():
        name = f"Retrieval, {title}, {metrics[f'{direction}_items']} clips"
        if not metrics[f"{direction}_pairs"]:
            yield f"{name}: nothing to measure"
            continue
        yield name
        for measure, label in MEASURES.items():
            key = f"{direction}_{measure}"
            numbers = [metrics[key], metrics["untrained"][key], metrics["chance"][key]]
            interval = metrics["intervals"][key]
            if measure == "median_rank":
                cells = [f"{number:.1f} " for number in numbers]
                ends = _interval(interval, 1)
                yield _row(f"  {label}", COLUMNS, [cells[0], ends, *cells[1:]])
            else:
                cells = [_percent(number) for number in numbers]
                times = f"   {numbers[0] / numbers[2]:.1f} times chance"
                yield (
                    _row(f"  {label}", COLUMNS, [cells[0], _interval(interval), *cells[1:]]) + times
                )


def _format_probes(probes: Mapping[str, Any]) -> Iterator[str]:
    yield "Linear classifiers of frozen features"
    if not probes:
        yield "  nothing to measure: no labels"
    for task, modalities in probes.items():
        for modality, result in modalities.items():
            name = f"  {task}, from {modality}"
            if "reason" in result:
                yield f"{name:38} skipped: {result['reason']}"
                continue
            folds = f", {result['num_folds']} folds" if result["num_folds"] > 1 else ""
            yield _format_probe(
                f"{name}, {NAMES[result['measure']]}{folds}", result, result["chance"]
            )
            for method, title in METHODS.items():
                if method in result:
                    yield _format_probe(f"    {title}", result[method], result["chance"])


def _format_probe(name: str, result: Mapping[str, Any], chance: float) -> str:
    value, untrained = result[result["measure"]], result["untrained"]
    cells = [_percent(value), _interval(result["interval"]), _percent(untrained), _percent(chance)]
    return f"{_row(name, COLUMNS, cells)}   {100 * (value - untrained):+.1f} points"


def _format_finetuned(finetuned: Mapping[str, Any]) -> Iterator[str]:
    if finetuned:
        yield _head("Fine-tuned", FINETUNED_COLUMNS)
    for task, result in finetuned.items():
        if "skipped" in result:
            yield f"  {task:36} skipped: {result['skipped']}"
            continue
        names = ("linear_probe", "scratch", "untrained", "chance")
        cells = [_percent(result[name]) for name in names]
        own = [_percent(result[result["measure"]]), _interval(result["interval"])]
        name = f"  {task}: {result['label']}, {NAMES[result['measure']]}"
        yield _row(name, FINETUNED_COLUMNS, [*own, *cells])


def _format_published(published: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if published:
        yield "Published (other hardware, other training data; not measured here)"
    for row in published:
        value = f"{row['value']:.1f} " if row["value"] > 1 else _percent(row["value"])
        yield f"{'  ' + ', '.join((row['data_set'], row['task'], row['model'])):44}{row['measure']:>12}{value:>9}"


def _head(title: str, columns: Sequence[str]) -> str:
    return f"{title:44}" + "".join(f"{name:>{WIDTHS.get(name, 11)}}" for name in columns)


def _row(name: str, columns: Sequence[str], cells: Sequence[str]) -> str:
    widths = [WIDTHS.get(column, 11) for column in columns]
    return f"{name:44}" + "".join(
        f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}%"


def _interval(ends: Sequence[float] | None, scale: float = 100) -> str:
    return "" if ends is None else " to ".join(f"{scale * end:.1f}" for end in ends)


if __name__ == "__main__":
    main()
