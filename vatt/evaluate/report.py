"""The report of a run: one HTML page that needs no network.

Retrieval, linear classifiers and fine-tuned networks as tables of text.

What a corpus holds, as a table.
"""

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from vatt.core.files import atomic_path
from vatt.evaluate.examples import ExampleGroup
from vatt.evaluate.figures import Figures
from vatt.evaluate.summary import (
    DIRECTIONS,
    METHODS,
    RETRIEVAL,
    RIVALS,
    TITLES,
    format_interval,
    format_value,
)
from vatt.evaluate.tables import (
    Study,
    drop_rate,
    list_costs,
    list_published_flops,
    list_published_sizes,
)
from vatt.model.vatt import Vatt
from vatt.params import ClipParams

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


SPLITS = ("train", "validation", "test")


def count_clips(index: pd.DataFrame) -> list[dict[str, Any]]:
    """Return numbers of videos and clips by source and split; `index` has a row per clip."""
    return [
        {
            "source": source,
            "split": split,
            "num_videos": clips["video_id"].nunique(),
            "num_clips": len(clips),
            "num_audio": int(clips["has_audio"].sum()),
            "num_text": int(((clips["num_captions"] > 0) | (clips["descriptions"] != "[]")).sum()),
            "minutes": f"{(clips['end_s'] - clips['start_s']).sum() / 60:.1f}",
        }
        for source, of_source in index.groupby("source")
        for split in SPLITS
        if len(clips := of_source[of_source["split"] == split])
    ]


MAX_QUARANTINE_ROWS = 50
LIBRARIES = ("vatt", "torch", "deepspeed", "optuna", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    metrics: the content of metrics/evaluate.json. studies: what `tune` found. index: a row per clip.
    quarantine: source, video_id and reason of each input that did not make it. verdict: the content
    of metrics/validate.json. parameters: sections of values, and values without a section.
    model, clip: the network, whose cost is shown, and the clip that it was built for. code_version:
    the git commit, or "unknown".
    """

    metrics: Mapping[str, Any]
    figures: Figures
    studies: Sequence[Study]
    examples: Sequence[ExampleGroup]
    index: pd.DataFrame
    quarantine: Sequence[Mapping[str, Any]]
    verdict: Mapping[str, Any]
    parameters: Mapping[str, Any]
    model: Vatt
    clip: ClipParams
    code_version: str


def write_report(folder: Path, report: Report) -> None:
    """Write report.html and, as files of their own, its figures: whole or not at all."""
    named = {"curves": report.figures.curves, "recall": report.figures.recall}
    named["finetuned_curves"] = report.figures.finetuned_curves
    matrices = {"confusion": report.figures.confusion, "finetuned": report.figures.finetuned}
    for kind, drawn in matrices.items():
        named |= {f"{kind}_{number}": svg for number, svg in enumerate(drawn.values())}
    with atomic_path(folder) as partial:
        (partial / "figures").mkdir(parents=True)
        (partial / "report.html").write_text(render_report(report), encoding="utf-8")
        for name, svg in named.items():
            if svg is not None:
                (partial / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")


def render_report(report: Report) -> str:
    """Return the page as HTML: the same text for the same content and versions."""
    environment = Environment(
        loader=PackageLoader("vatt", "evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        metrics=report.metrics,
        num_test=int((report.index["split"] == "test").sum()),
        tiles=_list_tiles(report.metrics),
        retrieval=[list_retrieval(report.metrics, direction) for direction in DIRECTIONS],
        probes=list(list_probes(report.metrics["probes"])),
        finetuned=list(list_finetuned(report.metrics["finetuned"])),
        notes=report.metrics["retrieval_notes"],
        published=list_published(report.metrics["published"]),
        studies=report.studies,
        figures=report.figures,
        examples=report.examples,
        counts=count_clips(report.index),
        num_quarantined=len(report.quarantine),
        quarantine=report.quarantine[:MAX_QUARANTINE_ROWS],
        verdict=report.verdict,
        drop_rate=percent(drop_rate(report.model)),
        costs=list_costs(report.model, report.clip),
        published_sizes=list(list_published_sizes()),
        published_flops=list(list_published_flops()),
        parameters=_list_parameters(report.parameters),
        code_version=report.code_version,
        environment=_describe_environment(),
    )


def _list_tiles(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """The numbers to see first: R@10 of both directions, and what was fine-tuned."""
    tiles = []
    for direction, title in DIRECTIONS.items():
        if metrics[f"{direction}_pairs"]:
            key = f"{direction}_r10"
            times = metrics[key] / metrics["chance"][key]
            detail = f"{times:.1f} times chance, untrained {percent(metrics['untrained'][key])}"
            tiles.append(
                {"title": f"R@10, {title}", "value": percent(metrics[key]), "detail": detail}
            )
    for row in list_finetuned(metrics["finetuned"]):
        if row["skipped"] is None:
            rivals = {"linear probe": row["linear_probe"], "from scratch": row["scratch"]}
            shown = [f"{name} {text}" for name, text in rivals.items() if text]
            tiles.append(
                {
                    "title": f"Fine-tuned for {row['task'].replace('_', '-')}, {row['measure']}",
                    "value": row["value"],
                    "detail": ", ".join([*shown, f"chance {row['chance']}"]),
                }
            )
    return tiles


def _describe_environment() -> dict[str, str]:
    """Return what computed: no name of the machine, so that equal machines give equal pages."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    found = {
        "system": f"{platform.system()}, {platform.machine()}",
        "device": device,
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # what trains is an extra
            found[name] = version(name)
    return found


def _list_parameters(parameters: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Values by section; those of a section within a section get both names."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            sections[name] = dict(_flatten(value))
        elif value is not None:
            sections.setdefault("model as exported", {})[name] = value
    return sections


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
