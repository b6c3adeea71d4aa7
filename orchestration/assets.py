"""One Dagster asset for each stage of dvc.yaml, and one for each folder that people fill."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import dagster as dg

from orchestration.live import LiveLog
from orchestration.pipeline import Pipeline
from orchestration.runner import Outcome, StageRun, run_stage

TAIL_LINES = 20  # of a failed stage's output, shown with the failure
SCHEDULE = "best.json"  # in the folder of a stage: the values that a search found


def build_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """Return the assets of all stages and, as external assets, the data that no stage writes."""
    sources = {path: name for name in pipeline.stages for path in pipeline.sources(name)}
    external = [
        dg.AssetSpec(
            PurePosixPath(path).name,
            description=f"{path}: filled by people",
            group_name=pipeline.stages[name].group,
        )
        for path, name in sources.items()
    ]
    return [*external, *(_build_asset(pipeline, name) for name in pipeline.stages)]


def read_metrics(pipeline: Pipeline, name: str) -> dict[str, Any]:
    """Return the content of the stage's metrics files in one mapping; missing files are empty."""
    paths = [pipeline.root / path for path in pipeline.stages[name].metrics]
    metrics: dict[str, Any] = {}
    for path in paths:
        if path.exists():
            metrics |= json.loads(path.read_text(encoding="utf-8"))
    return metrics


def _build_asset(pipeline: Pipeline, name: str) -> dg.AssetsDefinition:
    stage = pipeline.stages[name]
    sources = [PurePosixPath(path).name for path in pipeline.sources(name)]

    @dg.asset(
        name=stage.asset,
        deps=[*sources, *(pipeline.stages[before].asset for before in pipeline.upstream(name))],
        description=f"{stage.description}\n\n`dvc repro {name}` runs `{stage.command}`.",
        group_name=stage.group,
        kinds=set(stage.kinds),
        code_version=pipeline.code_version(name),
    )
    def materialize(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        with LiveLog.open(context, pipeline.root) as live:
            run = run_stage(pipeline, name, live.take, live.environment)
        metrics = read_metrics(pipeline, name)
        if run.outcome is not Outcome.FAILED:
            version = dg.DataVersion(pipeline.data_version(name) or "")
            return dg.MaterializeResult(
                data_version=version, metadata=_describe(pipeline, name, run, metrics)
            )
        if run.started and metrics.get("passed") is False:
            # The stage did its work and says no: its report is shown, its blocking check fails,
            # and without an entry in dvc.lock no later stage starts.
            return dg.MaterializeResult(metadata=_describe(pipeline, name, run, metrics))
        raise dg.Failure("\n".join(run.lines[-TAIL_LINES:]), allow_retries=False)

    return materialize


def _describe(
    pipeline: Pipeline, name: str, run: StageRun, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the UI shows of a materialisation: outcome, sizes, pages, pictures, metrics.

    Pictures at the top of the stage's folders are part of the metadata, as the UI serves no files.
    """
    stage = pipeline.stages[name]
    folders = [pipeline.root / out for out in stage.outs]
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    pages = {file.name: dg.MetadataValue.path(file) for file in files if file.suffix == ".html"}
    pictures = [file for file in files if file.suffix == ".svg" and file.parent in folders]
    return {
        "outcome": str(run.outcome),
        "size_bytes": sum(file.stat().st_size for file in files),
        "num_files": len(files),
        **pages,
        **{file.stem: _show_picture(file) for file in pictures},
        **_show_schedule(pipeline, name),
        **_flatten(metrics),
    }


def _show_picture(path: Path) -> dg.MarkdownMetadataValue:
    content = base64.b64encode(path.read_bytes()).decode()
    return dg.MetadataValue.md(f"![{path.stem}](data:image/svg+xml;base64,{content})")


def _show_schedule(pipeline: Pipeline, name: str) -> dict[str, dg.MetadataValue[Any]]:
    """Return the schedule that the stage of a task found or was given, if it is a tuned one."""
    stage = pipeline.stages[name]
    if "@" not in name:
        return {}  # it reads those of several tasks
    paths = [pipeline.root / path / SCHEDULE for path in (*stage.outs, *stage.deps)]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    return {"schedule": dg.MetadataValue.json(found[0])} if found else {}


def _flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float | str | bool]:
    """Return nested numbers and texts under dotted names; lists and nulls are left out."""
    flat: dict[str, float | str | bool] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str)):
            flat[f"{prefix}{key}"] = value
    return flat
