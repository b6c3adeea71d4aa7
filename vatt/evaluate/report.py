"""The report of a run: one HTML page that needs no network.

Its markup is report.html; what stands in it comes from `results`, `figures`, the files of other
stages and the network itself.
"""

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from vatt.core.files import atomic_path
from vatt.evaluate import results
from vatt.evaluate.analyses import Analysis
from vatt.evaluate.drawn import MAX_CLIPS
from vatt.evaluate.figures import Examples, Figures, read_svg
from vatt.evaluate.tables import Table, build_table
from vatt.model.cost import Cost, Weights, add_costs, count_clip, count_weights
from vatt.model.published import compare_flops, compare_sizes
from vatt.model.vatt import Vatt
from vatt.params import SKIPPED, TASKS, ClipParams

SPLITS = ("train", "validation", "test")
LIBRARIES = ("vatt", "torch", "deepspeed", "optuna", "numpy", "scikit-learn")
Study = Mapping[str, Any]
"""What `tune` wrote for a task: the `task`, why it was `skipped` or None, the content of best.json
as `best`, the rows of trials.json as `trials`, and `figures`, SVG elements."""


@dataclass(frozen=True)
class Report:
    """All that the page shows."""

    metrics: results.Metrics
    figures: Figures
    studies: Sequence[Study]
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
    analyses: Sequence[Analysis] = ()


def write_report(folder: Path, report: Report) -> None:
    """Write report.html and, as files of their own, its figures: whole or not at all."""
    with atomic_path(folder) as partial:
        (partial / "figures").mkdir(parents=True)
        (partial / "report.html").write_text(render_report(report), encoding="utf-8")
        for name, (_, svg) in report.figures.items():
            (partial / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
        for own in report.analyses:
            (partial / "figures" / f"{own.name}.svg").write_text(own.svg, encoding="utf-8")
            # Seven digits are all that a float32 has.
            own.data.to_csv(
                partial / "figures" / f"{own.name}.csv", index=False, float_format="%.7g"
            )


def render_report(report: Report) -> str:
    """Return the page as HTML: the same text for the same content and versions."""
    sections = {k: v for k, v in report.parameters.items() if isinstance(v, Mapping)}
    loose = {k: v for k, v in report.parameters.items() if k not in sections and v is not None}
    stem: Any = report.model.video.stem
    return open_template("report.html").render(
        report=report,
        metrics=report.metrics,
        figures=report.figures,
        num_test=int((report.index["split"] == "test").sum()),
        max_analysed=f"{MAX_CLIPS:,}",
        retrieval=results.tabulate_retrieval(report.metrics),
        probes=results.tabulate_probes(report.metrics),
        finetuned=results.tabulate_finetuned(report.metrics),
        published=results.tabulate_published(report.metrics),
        counts=tabulate_clips(report.index),
        costs=_count_parts(report.model, report.clip, stem.drop_token.rate),
        drop_token_rate=stem.drop_token.rate,
        published_sizes=compare_sizes(),
        published_flops=compare_flops(),
        parameters={**sections, "model as exported": loose},
        environment=_describe_environment(),
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


def read_studies(tune_dir: Path) -> list[Study]:
    """Read what the stage `tune` wrote for the tasks that it has been run for."""
    studies: list[Study] = []
    for folder in (tune_dir / task for task in TASKS if (tune_dir / task).is_dir()):
        names = {"skipped": SKIPPED, "best": "best.json", "trials": "trials.json"}
        found = {
            key: json.loads((folder / name).read_text(encoding="utf-8"))
            for key, name in names.items()
            if (folder / name).exists()
        }
        figures = [read_svg(path) for path in sorted(folder.glob("*.svg"))]
        found |= {"task": folder.name, "figures": figures}
        studies.append({"skipped": None, "best": None, **found})
    return studies


def _count_parts(
    model: Vatt, clip: ClipParams, drop_token_rate: float
) -> dict[str, tuple[Weights, Sequence[Cost | None]]]:
    """Return the weights of each part, and what a clip costs it without and with DropToken.

    A part that is counted with the others costs None.
    """
    weights = count_weights(model)
    weights["all"] = Weights(*(sum(column) for column in zip(*weights.values(), strict=True)))
    costs = [count_clip(model, clip, rate) for rate in (0.0, drop_token_rate)]
    costs = [{**parts, "all": add_costs(parts.values())} for parts in costs]
    return {name: (own, [parts.get(name) for parts in costs]) for name, own in weights.items()}


def _describe_environment() -> dict[str, str]:
    """Return what computed: no name of the machine, so that equal machines give equal pages."""
    found = {
        "system": f"{platform.system()}, {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "python": platform.python_version(),
    }
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):  # what trains is an extra
            found[name] = version(name)
    return found
