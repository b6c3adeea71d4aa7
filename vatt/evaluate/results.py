"""The content of metrics/evaluate.json: under which conditions it holds, and as tables.

`python -m vatt.evaluate.results` prints those of the last run. Titles of metrics: `metrics`.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vatt.core.code import digest_code
from vatt.core.errors import StageError
from vatt.core.files import digest_file
from vatt.corpus.annotated import PARTS_NAME
from vatt.corpus.index import digest_index
from vatt.evaluate.feature_store import CODE
from vatt.evaluate.metrics import RETRIEVAL, TITLES, format_value
from vatt.evaluate.retrieval import DIRECTIONS
from vatt.evaluate.tables import Cell, Table, build_table, to_text
from vatt.params import EvaluateParams, LaunchParams

METRICS_PATH = Path("metrics/evaluate.json")
REPORT_PATH = Path("data/evaluate/report.html")
LEGEND = """Beside or below numbers: the interval that covers 95 % when other test videos are drawn.
Fine-tuned: the task, the weights at the start, the label, the measure."""
Metrics = Mapping[str, Any]
"""The content of metrics/evaluate.json, or of a section of it."""
METHODS = {"logistic": "logistic", "svm": "SVM", "lrc": "LRC"}
RIVALS = {"linear_probe": "linear", "scratch": "from scratch", "untrained": "untrained"}
"""What a fine-tuned network is compared with, beside chance."""
TASK_TITLES = {**DIRECTIONS, "linear": "linear classifier"}


def list_conditions(
    preprocess_dir: Path, evaluate: EvaluateParams, launch: LaunchParams
) -> dict[str, Any]:
    """Return what decides the numbers of an evaluation beside the networks, as JSON by name.

    `run.seed` is not among it: it draws what linear classifiers learn from, no clip of the test.
    """
    parts = preprocess_dir / PARTS_NAME
    settings = evaluate.model_dump(mode="json", exclude={"model", "batch_size", "analyses"})
    return {
        "the corpus": digest_index(preprocess_dir),
        "its annotated parts": digest_file(parts) if parts.is_file() else None,
        "the code": digest_code("evaluate", *CODE),
        **{f"evaluate.{name}": value for name, value in settings.items()},
        "launch.precision": launch.precision,
    }


def read_evaluation(export_digest: str, conditions: Metrics) -> dict[str, Any]:
    """Read metrics/evaluate.json of the export with this digest, under these conditions.

    Raises StageError if it is missing, damaged, of another export or under other conditions.
    """
    advice = "run `python -m vatt evaluate`"
    try:
        metrics: dict[str, Any] = json.loads(METRICS_PATH.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{METRICS_PATH}: cannot be read: {error}; {advice}") from error
    if metrics.get("export") != export_digest:
        raise StageError(f"{METRICS_PATH}: is of another model; {advice}")
    before = metrics.get("conditions", {})
    changed = [
        f"{name} was {before.get(name)}, is {value}"
        for name, value in conditions.items()
        if before.get(name) != value
    ]
    if changed:
        raise StageError(f"{METRICS_PATH}: {'; '.join(changed)}; {advice} again")
    return metrics


def main() -> None:
    """Print the tables of the last run, and where its report is."""
    try:
        metrics = json.loads(METRICS_PATH.read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(f"{METRICS_PATH} is missing: the stage evaluate makes it (dvc repro evaluate)")
    print(f"\n{format_results(metrics)}\n\nReport: {REPORT_PATH}")


def format_results(metrics: Metrics) -> str:
    """Return the content of metrics/evaluate.json as text of 100 columns."""
    shown = ("trained", "untrained", "chance", "x chance")
    probes, finetuned = tabulate_probes(metrics), tabulate_finetuned(metrics)
    tables = [
        *(table.pick(("",), shown) for table in tabulate_retrieval(metrics)),
        probes.pick(probes.labels, ("trained", "untrained", "points", "chance")),
        finetuned.pick(finetuned.labels, ("fine-tuned", *RIVALS.values(), "chance")),
        tabulate_published(metrics),
    ]
    return "\n\n".join([*(to_text(table) for table in tables if table.rows or table.notes), LEGEND])


def format_headline(metrics: Metrics) -> str:
    """Return the main numbers in one line: R@10 by direction, and those of fine-tuned networks."""
    numbers = [(f"R@10 {DIRECTIONS[name]}", "r10", metrics[f"{name}_r10"]) for name in DIRECTIONS]
    for task, result in sorted(metrics["finetuned"].items()):
        if "skipped" not in result:
            metric = result["measure"]
            numbers.append((f"{task} {TITLES[metric]}", metric, result[metric]))
    found = [f"{name} {format_value(x, value)}" for name, x, value in numbers if value is not None]
    return ", ".join(found) or "nothing to measure"


def tabulate_retrieval(metrics: Metrics) -> list[Table]:
    """Return a table for each direction; what is to be noted of all follows the last one."""
    tables = []
    for direction, title in DIRECTIONS.items():
        num_queries, num_items = (metrics[f"{direction}_{name}"] for name in ("pairs", "items"))
        rows = []
        for metric in RETRIEVAL if num_queries else ():
            key = f"{direction}_{metric}"
            value, chance = metrics[key], metrics["chance"][key]
            others = [
                _cell(metric, metrics[name][key], metrics[f"{name}_intervals"][key])
                for name in ("cosine", "untrained")
            ]
            own = _cell(metric, value, metrics["intervals"][key], "strong")
            times = "" if metric == "median_rank" else f"{value / chance:.1f}"
            rows.append([TITLES[metric], own, *others, format_value(metric, chance), times])
        reason = metrics.get("left_out", {}).get(direction, "no test clip has both")
        table = build_table(
            f"{title.capitalize()}, {num_queries} queries among {num_items} clips",
            ("",),
            ("trained", "similarities averaged", "untrained", "chance", "x chance"),
            rows,
            () if rows else (f"Nothing to measure: {reason}.",),
        )
        tables.append(table)
    tables[-1] = tables[-1]._replace(notes=[*tables[-1].notes, *metrics["retrieval_notes"]])
    return tables


def tabulate_probes(metrics: Metrics) -> Table:
    """Return the table of linear classifiers, those of one task and modality below one another."""
    rows: list[list[object]] = []
    notes = []
    for task, modalities in sorted(metrics["probes"].items()):
        for modality, result in sorted(modalities.items()):
            if "reason" in result:
                rows.append([task, modality, f"skipped: {result['reason']}"])
                continue
            folds = f", {result['num_folds']} folds" if result["num_folds"] > 1 else ""
            words = [task, modality, TITLES[result["measure"]] + folds]
            num_train = f"{result['num_train']}{'*' if result.get('is_full') else ''}"
            sizes = [result["num_classes"], f"{num_train} / {result['num_test']}"]
            for method, title in METHODS.items():
                # The numbers of logistic regression stand beside the others, not among them.
                own = result if method == "logistic" else result.get(method)
                if own:
                    metric, untrained = own["measure"], own["untrained"]
                    gain = 100 * (own[metric] - untrained)
                    numbers = (
                        _cell(metric, own[metric], own["interval"], "strong"),
                        _cell(metric, untrained, own["untrained_interval"]),
                        Cell(f"{gain:+.1f}", mark="good" if gain > 0 else "bad" if gain else ""),
                        format_value(metric, result["chance"]),
                    )
                    rows.append([*words, title, *numbers, *sizes])
                    words, sizes = ["", "", ""], ["", ""]
                    fits = own.get("fits_cut_short", {})
                    counts = " and ".join(f"{number} on {name}" for name, number in fits.items())
                    if fits:
                        who = f"{task} from {modality}, {title}"
                        notes.append(f"{who}: fits that did not converge: {counts} features.")
    results = [result for own in metrics["probes"].values() for result in own.values()]
    limit = (
        "Where it is marked *, clips to learn from may have been drawn: evaluate.max_train_clips "
    )
    if any(result.get("is_full") for result in results):
        notes.append(limit + "allows no more.")
    return build_table(
        "Linear classifiers of frozen features",
        ("task", "from", "measure", "classifier"),
        ("trained", "untrained", "points", "chance", "classes", "train / test"),
        rows,
        notes if rows else ("Nothing to measure: no clip has a label.",),
    )


def tabulate_finetuned(metrics: Metrics) -> Table:
    """Return the table of fine-tuned networks, the further metrics of a task below its own."""
    rows: list[list[object]] = []
    notes = []
    for task, result in sorted(metrics["finetuned"].items()):
        if "skipped" in result:
            rows.append([task, f"skipped: {result['skipped']}"])
            continue
        words = [task, result["initial"], result["label"]]
        sizes = [result["num_classes"], result["num_test"]]
        mark = "strong good" if beats_rivals(result) else "strong"
        for metric, beside in {result["measure"]: result, **result["more"]}.items():
            rivals = [_cell(metric, beside.get(k), beside.get(f"{k}_interval")) for k in RIVALS]
            own = _cell(metric, result[metric], beside["interval"], mark)
            chance = _cell(metric, beside["chance"])
            rows.append([*words, TITLES[metric], own, *rivals, chance, *sizes])
            words, sizes, mark = ["", "", ""], ["", ""], ""
        if result["num_unknown"]:
            clips = f"{result['num_unknown']} test clips have"
            notes.append(f"{task}: {clips} a label that training does not know.")
        if number := result.get("linear_probe_fits_cut_short"):
            notes.append(f"{task}, linear: fits that did not converge: {number}.")
    return build_table(
        "Fine-tuned networks",
        ("task", "from", "label", "measure"),
        ("fine-tuned", *RIVALS.values(), "chance", "classes", "test clips"),
        rows,
        notes if rows else ("Nothing was fine-tuned.",),
    )


def tabulate_published(metrics: Metrics) -> Table:
    """Return the table of published numbers."""
    rows = []
    for row in metrics["published"]:
        task, metric = TASK_TITLES.get(row["task"], row["task"]), row["measure"]
        words = [row["data_set"], task, row["model"], TITLES[metric]]
        rows.append([*words, format_value(metric, row["value"])])
    notes = ("Other hardware, other training data; not measured here.",) if rows else ()
    labels = ("data set", "task", "model", "measure")
    return build_table("Published", labels, ("published",), rows, notes)


def beats_rivals(result: Metrics) -> bool:
    """Return whether a fine-tuned network is above all that it is compared with."""
    others = [result[name] for name in (*RIVALS, "chance") if result[name] is not None]
    return bool(result[result["measure"]] > max(others))


def _cell(
    metric: str, value: float | None, ends: Sequence[float] | None = None, mark: str = ""
) -> Cell:
    """Return a number with the interval that covers 95 % when other test videos are drawn."""
    if ends is None:
        return Cell(format_value(metric, value), mark=mark)
    low, high = (format_value(metric, end) for end in ends)
    return Cell(format_value(metric, value), f"{low.rstrip('%')}–{high}", mark)


if __name__ == "__main__":
    main()
