"""The report of a run: one HTML page that needs no network."""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from vatt.core.files import atomic_path
from vatt.evaluate.cost import tabulate_costs, tabulate_published_flops, tabulate_published_sizes
from vatt.evaluate.examples import Examples
from vatt.evaluate.figures import Figures
from vatt.evaluate.results import (
    TITLES,
    Metrics,
    tabulate_finetuned,
    tabulate_probes,
    tabulate_published,
    tabulate_retrieval,
)
from vatt.evaluate.tables import Cell, Table, build_table, to_html
from vatt.evaluate.tuning import StudyTables
from vatt.model.vatt import Vatt
from vatt.params import ClipParams

SPLITS = ("train", "validation", "test")
MAX_QUARANTINE_ROWS = 50
LIBRARIES = ("vatt", "torch", "deepspeed", "optuna", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    metrics: Metrics
    figures: Figures
    studies: Sequence[StudyTables]
    examples: Examples
    index: pd.DataFrame
    """A row per clip."""
    quarantine: Sequence[Mapping[str, Any]]
    """The source, video_id and reason of each input that did not make it."""
    verdict: Mapping[str, Any]
    """The content of metrics/validate.json."""
    parameters: Mapping[str, Any]
    """Sections of values, and values without a section."""
    model: Vatt
    clip: ClipParams
    """What `model` was built for."""
    code_version: str
    """The git commit, or "unknown"."""


def write_report(folder: Path, report: Report) -> None:
    """Write report.html and, as files of their own, its figures: whole or not at all."""
    with atomic_path(folder) as partial:
        (partial / "figures").mkdir(parents=True)
        (partial / "report.html").write_text(render_report(report), encoding="utf-8")
        for name, (_, svg) in report.figures.items():
            (partial / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")


def render_report(report: Report) -> str:
    """Return the page as HTML: the same text for the same content and versions."""
    retrieval, finetuned = tabulate_retrieval(report.metrics), tabulate_finetuned(report.metrics)
    return open_template("report.html").render(
        metrics=report.metrics,
        num_test=int((report.index["split"] == "test").sum()),
        tiles=_list_tiles(retrieval, finetuned),
        retrieval=retrieval,
        probes=tabulate_probes(report.metrics),
        finetuned=finetuned,
        published=tabulate_published(report.metrics),
        studies=report.studies,
        figures=report.figures,
        examples=report.examples,
        counts=tabulate_clips(report.index),
        num_quarantined=len(report.quarantine),
        quarantine=_tabulate_quarantine(report.quarantine),
        verdict=report.verdict,
        rules=_tabulate_rules(report.verdict),
        costs=tabulate_costs(report.model, report.clip),
        published_sizes=tabulate_published_sizes(),
        published_flops=tabulate_published_flops(),
        parameters=_tabulate_parameters(report.parameters),
        code_version=report.code_version,
        environment=_tabulate_environment(),
    )


def open_template(name: str, finalize: Callable[[object], object] | None = None) -> Template:
    """Open a page of this folder; `finalize` is applied to all that it shows."""
    environment = Environment(
        loader=PackageLoader("vatt", "evaluate"),
        autoescape=True,  # Markdown lets HTML through
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["html"] = to_html
    return environment.get_template(name)


def tabulate_clips(index: pd.DataFrame) -> Table:
    """Return the numbers of videos and clips by source and split; `index` has a row per clip."""
    rows = []
    for source, all_clips in index.groupby("source"):
        for split in SPLITS:
            clips = all_clips[all_clips["split"] == split]
            has_text = (clips["num_captions"] > 0) | (clips["descriptions"] != "[]")
            minutes = f"{(clips['end_s'] - clips['start_s']).sum() / 60:.1f}"
            counts = (clips["video_id"].nunique(), len(clips), clips["has_audio"].sum())
            if len(clips):
                rows.append([source, split, *counts, has_text.sum(), minutes])
    numbers = ("videos", "clips", "with sound", "with text", "minutes")
    return build_table("Clips", ("source", "split"), numbers, rows)


def _list_tiles(retrieval: Sequence[Table], finetuned: Table) -> list[dict[str, str]]:
    """Return the numbers to see first: R@10 of both directions, and what was fine-tuned."""
    tiles = []
    for table in retrieval:
        for name, trained, _, untrained, _, times in table.rows:
            if name.text == TITLES["r10"]:
                title = f"{name.text}, {table.title.partition(',')[0].lower()}"
                detail = f"{times.text} times chance, untrained {untrained.text}"
                tiles.append({"title": title, "value": trained.text, "detail": detail})
    for row in finetuned.rows:
        if len(row) == finetuned.num_columns and row[0].text:
            cells = dict(zip(finetuned.labels + finetuned.numbers, row, strict=True))
            beside = {name: cells[name].text for name in ("linear", "from scratch", "chance")}
            title = f"Fine-tuned for {row[0].text.replace('_', '-')}, {cells['measure'].text}"
            detail = ", ".join(f"{name} {text}" for name, text in beside.items() if text)
            tiles.append({"title": title, "value": cells["fine-tuned"].text, "detail": detail})
    return tiles


def _tabulate_quarantine(quarantine: Sequence[Mapping[str, Any]]) -> Table:
    names = ("source", "video_id", "reason")
    shown = quarantine[:MAX_QUARANTINE_ROWS]
    rows = [[Cell(str(row[name]), mark="break") for name in names] for row in shown]
    return Table("Quarantine", ("source", "video", "reason"), (), rows)


def _tabulate_rules(verdict: Mapping[str, Any]) -> Table:
    rows = []
    for rule in verdict["expectations"]:
        result = Cell("holds", mark="good") if rule["success"] else Cell("broken", mark="bad")
        numbers = (rule["observed"], rule["threshold"])
        rows.append([rule["description"], rule["severity"], result, *numbers])
    return build_table("Validation", ("rule", "severity", "result"), ("found", "asked"), rows)


def _tabulate_environment() -> Table:
    """Return what computed: no name of the machine, so that equal machines give equal pages."""
    found = {
        "system": f"{platform.system()}, {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # what trains is an extra
            found[name] = version(name)
    return build_table("", ("", ""), (), found.items())


def _tabulate_parameters(parameters: Mapping[str, Any]) -> list[Table]:
    """Return the values by section; those of a section within a section get both names."""
    loose = {name: value for name, value in parameters.items() if not isinstance(value, Mapping)}
    sections = {name: value for name, value in parameters.items() if name not in loose}
    sections["model as exported"] = {k: value for k, value in loose.items() if value is not None}
    return [
        build_table(title, ("",), ("",), _flatten(values))
        for title, values in sections.items()
        if values
    ]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
