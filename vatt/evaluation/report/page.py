"""The report of a run: one HTML page that needs no network."""

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

from vatt.atomic import atomic_path
from vatt.evaluation.report.corpus import count_clips
from vatt.evaluation.report.cost import (
    drop_rate,
    list_costs,
    list_published_flops,
    list_published_sizes,
)
from vatt.evaluation.report.examples import ExampleGroup
from vatt.evaluation.report.figures import Figures
from vatt.evaluation.report.results import (
    list_finetuned,
    list_probes,
    list_published,
    list_retrieval,
    percent,
)
from vatt.evaluation.report.tuning import Study
from vatt.evaluation.summary import DIRECTIONS
from vatt.models.vatt import Vatt
from vatt.params import ClipParams

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
        loader=PackageLoader("vatt", "evaluation/report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
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
