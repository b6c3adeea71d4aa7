"""One Dagster asset for each stage of dvc.yaml, and one for each folder that people fill.

While a stage runs, the numbers that it reports become observations, which Dagster draws as curves.
"""

import base64
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Self

import dagster as dg

from orchestration.pipeline import Pipeline
from orchestration.runner import Outcome, StageRun, run_stage

TAIL_LINES = 20  # of a failed stage's output, shown with the failure
SCHEDULE = "best.json"  # in the folder of a stage: the values that a search found
OBSERVE_EVERY_S = 5.0
"""The least time between observations of one kind: each is a row in Dagster's database."""
REPORTS_DIR = Path(".cache/dagster")
"""The folder of the reports on their way, below the pipeline, so that other nodes reach it, too."""


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
    for path in filter(Path.exists, paths):
        metrics |= json.loads(path.read_bytes())
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
    So is the schedule that the stage of a task found or was given, if it is a tuned one.
    """
    stage = pipeline.stages[name]
    folders = [pipeline.root / out for out in stage.outs]
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())
    pages = {file.name: dg.MetadataValue.path(file) for file in files if file.suffix == ".html"}
    pictures = [file for file in files if file.suffix == ".svg" and file.parent in folders]
    shown: dict[str, dg.MetadataValue[Any]] = {}
    for picture in pictures:
        content = base64.b64encode(picture.read_bytes()).decode()
        text = f"![{picture.stem}](data:image/svg+xml;base64,{content})"
        shown[picture.stem] = dg.MetadataValue.md(text)
    paths = [pipeline.root / path / SCHEDULE for path in (*stage.outs, *stage.deps)]
    # Only with a task in the name: other stages read the schedules of several tasks.
    if "@" in name and (found := [path for path in paths if path.is_file()]):
        shown["schedule"] = dg.MetadataValue.json(json.loads(found[0].read_bytes()))

    return {
        "outcome": str(run.outcome),
        "size_bytes": sum(file.stat().st_size for file in files),
        "num_files": len(files),
        **pages,
        **shown,
        **_flatten(metrics),
    }


def _flatten(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float | str | bool]:
    """Return nested numbers and texts under dotted names; lists and nulls are left out."""
    flat: dict[str, float | str | bool] = {}
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str)):
            flat[f"{prefix}{key}"] = value
    return flat


class LiveLog:
    """Logs the lines of a stage, and turns the numbers that it reports into observations.

    Of numbers of one kind that follow each other faster, the newest wait for their turn.
    Each observation holds the newest numbers of every kind: Dagster draws no line over a gap.
    """

    def __init__(self, context: dg.AssetExecutionContext, session: dg.PipesSession) -> None:
        self._context, self._session = context, session
        self.environment: Mapping[str, str] = session.get_bootstrap_env_vars()
        """The variables by which the stage and its processes find the way back."""
        self._num_taken = 0
        self._next_s: dict[str, float] = defaultdict(float)
        self._newest: dict[str, float | str | None] = {}
        self._waiting: dict[str, dict[str, Any]] = {}

    @classmethod
    @contextmanager
    def open(cls, context: dg.AssetExecutionContext, root: Path) -> Iterator[Self]:
        """Listen to one stage of the pipeline in `root` until the block ends."""
        name = f"{context.run.run_id}-{context.asset_key.to_python_identifier()}"
        path = root / REPORTS_DIR / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesEnvContextInjector(),
            message_reader=dg.PipesFileMessageReader(str(path)),
        ) as session:
            live = cls(context, session)
            yield live
        live._next_s.clear()
        live._observe()  # what arrived last, and what has waited

    def take(self, line: str) -> None:
        """Log a line of the stage, and look whether numbers have arrived."""
        self._context.log.info(line)
        self._observe()

    def _observe(self) -> None:
        for message in self._session.get_custom_messages()[self._num_taken :]:
            self._num_taken += 1
            numbers: dict[str, Any] = dict(message)
            kind, step = str(numbers.pop("kind")), numbers.pop("step")
            self._newest |= {f"{kind}/{name}": value for name, value in numbers.items()}
            self._waiting[kind] = {"step": step, **self._newest}
        for kind in [kind for kind in self._waiting if time.monotonic() >= self._next_s[kind]]:
            self._next_s[kind] = time.monotonic() + OBSERVE_EVERY_S
            metadata = self._waiting.pop(kind)
            observation = dg.AssetObservation(self._context.asset_key, metadata=metadata)
            self._context.log_event(observation)
