"""The content of metrics/evaluate.json as tables, for the terminal, the report and the card."""

from collections.abc import Mapping, Sequence
from typing import Any

from vatt.evaluate.tables import Cell, Table, build_table

Metrics = Mapping[str, Any]
"""The content of metrics/evaluate.json, or of a section of it."""
DIRECTIONS = {"text_to_video": "text to video", "audio_to_video": "sound to video"}
RETRIEVAL_MEASURES = ("r1", "r5", "r10", "median_rank")
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
"""The titles of all measures."""
LOGISTIC = "logistic"
METHODS = {"svm": "SVM", "lrc": "LRC"}
RIVALS = {"linear_probe": "linear", "scratch": "from scratch", "untrained": "untrained"}
"""What a fine-tuned network is compared with, beside chance."""
TASK_TITLES = {**DIRECTIONS, "linear": "linear classifier"}


def format_value(measure: str, value: float | None) -> str:
    """Return a number as the measure is written: shares in per cent; empty where there is none."""
    if value is None:
        return ""
    if measure == "median_rank":
        return f"{value:.1f}"
    return f"{value:.3f}" if measure.startswith("d_prime") else f"{100 * value:.1f}%"


def _cell(
    measure: str, value: float | None, ends: Sequence[float] | None = None, mark: str = ""
) -> Cell:
    """Return a number with the interval that covers 95 % when other test videos are drawn."""
    if ends is None:
        return Cell(format_value(measure, value), mark=mark)
    low, high = (format_value(measure, end) for end in ends)
    return Cell(format_value(measure, value), f"{low.rstrip('%')}–{high}", mark)


def tabulate_retrieval(metrics: Metrics) -> list[Table]:
    """Return a table for each direction; what is to be noted of all follows the last one."""
    tables = [_tabulate_direction(metrics, direction) for direction in DIRECTIONS]
    notes = [*tables[-1].notes, *metrics["retrieval_notes"]]
    return [*tables[:-1], tables[-1]._replace(notes=notes)]


def _tabulate_direction(metrics: Metrics, direction: str) -> Table:
    num_queries = metrics[f"{direction}_pairs"]
    rows = []
    for measure in RETRIEVAL_MEASURES if num_queries else ():
        key = f"{direction}_{measure}"
        value, chance = metrics[key], metrics["chance"][key]
        others = [
            _cell(measure, metrics[name][key], metrics[f"{name}_intervals"][key])
            for name in ("cosine", "untrained")
        ]
        own = _cell(measure, value, metrics["intervals"][key], "strong")
        times = "" if measure == "median_rank" else f"{value / chance:.1f}"
        rows.append([TITLES[measure], own, *others, format_value(measure, chance), times])
    return build_table(
        f"{DIRECTIONS[direction].capitalize()}, {num_queries} queries among "
        f"{metrics[f'{direction}_items']} clips",
        ("",),
        ("trained", "similarities averaged", "untrained", "chance", "x chance"),
        rows,
        () if rows else ("Nothing to measure: no test clip has both.",),
    )


def tabulate_probes(metrics: Metrics) -> Table:
    """Return the table of linear classifiers, those of one task and modality below one another."""
    rows: list[list[object]] = []
    for task, modalities in sorted(metrics["probes"].items()):
        for modality, result in sorted(modalities.items()):
            if "reason" in result:
                rows.append([task, modality, f"skipped: {result['reason']}"])
                continue
            folds = f", {result['num_folds']} folds" if result["num_folds"] > 1 else ""
            clips = f"{result['num_train']} / {result['num_test']}"
            own = [LOGISTIC, *_list_gain(result, result["chance"]), result["num_classes"], clips]
            rows.append([task, modality, TITLES[result["measure"]] + folds, *own])
            for method, title in METHODS.items():
                if method in result:
                    shown = _list_gain(result[method], result["chance"])
                    rows.append(["", "", "", title, *shown, "", ""])
    return build_table(
        "Linear classifiers of frozen features",
        ("task", "from", "measure", "classifier"),
        ("trained", "untrained", "points", "chance", "classes", "train / test"),
        rows,
        () if rows else ("Nothing to measure: no clip has a label.",),
    )


def _list_gain(result: Metrics, chance: float) -> list[object]:
    """Return the numbers of the trained and the untrained network, points gained, and chance."""
    measure, untrained = result["measure"], result["untrained"]
    gain = 100 * (result[measure] - untrained)
    return [
        _cell(measure, result[measure], result["interval"], "strong"),
        _cell(measure, untrained, result["untrained_interval"]),
        Cell(f"{gain:+.1f}", mark="good" if gain > 0 else "bad" if gain < 0 else ""),
        format_value(measure, chance),
    ]


def tabulate_finetuned(metrics: Metrics) -> Table:
    """Return the table of fine-tuned networks, the further measures of a task below its own."""
    rows: list[list[object]] = []
    notes = []
    for task, result in sorted(metrics["finetuned"].items()):
        if "skipped" in result:
            rows.append([task, f"skipped: {result['skipped']}"])
            continue
        measure = result["measure"]
        mark = "strong good" if beats_rivals(result) else "strong"
        shown = _list_rivals(measure, result[measure], result, mark)
        words = [task, result["initial"], result["label"], TITLES[measure]]
        rows.append([*words, *shown, result["num_classes"], result["num_test"]])
        for further, beside in result["more"].items():
            shown = _list_rivals(further, result[further], beside)
            rows.append(["", "", "", TITLES[further], *shown, "", ""])
        if result["num_unknown"]:
            clips = f"{result['num_unknown']} test clips have"
            notes.append(f"{task}: {clips} a label that training does not know.")
    return build_table(
        "Fine-tuned networks",
        ("task", "from", "label", "measure"),
        ("fine-tuned", *RIVALS.values(), "chance", "classes", "test clips"),
        rows,
        notes if rows else ("Nothing was fine-tuned.",),
    )


def _list_rivals(measure: str, value: float, beside: Metrics, mark: str = "") -> list[Cell]:
    """Return the numbers of a fine-tuned network, of what it is compared with, and of chance."""
    rivals = [_cell(measure, beside.get(name), beside.get(f"{name}_interval")) for name in RIVALS]
    own = _cell(measure, value, beside["interval"], mark)
    return [own, *rivals, _cell(measure, beside["chance"])]


def beats_rivals(result: Metrics) -> bool:
    """Return whether a fine-tuned network is above all that it is compared with."""
    others = [result[name] for name in (*RIVALS, "chance") if result[name] is not None]
    return bool(result[result["measure"]] > max(others))


def tabulate_published(metrics: Metrics) -> Table:
    """Return the table of published numbers."""
    rows = [
        [
            *(row["data_set"], TASK_TITLES.get(row["task"], row["task"]), row["model"]),
            TITLES[row["measure"]],
            format_value(row["measure"], row["value"]),
        ]
        for row in metrics["published"]
    ]
    return build_table(
        "Published",
        ("data set", "task", "model", "measure"),
        ("published",),
        rows,
        ("Other hardware, other training data; not measured here.",) if rows else (),
    )
