"""What `dagster dev` loads: the pipeline of the current folder as assets, checks and jobs.

It runs by itself on a weekly schedule, or when a sensor sees new files; both are off by default.
"""

import hashlib
import json
from contextlib import suppress
from pathlib import Path

import dagster as dg

from orchestration.assets import build_assets
from orchestration.checks import EVALUATE, FINETUNE, build_checks
from orchestration.pipeline import Pipeline, load_pipeline

INBOX = Path("data/inbox")
SENSOR_INTERVAL_S = 60


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions of the dvc.yaml in the current folder."""
    return build_definitions(load_pipeline(Path.cwd()))


def build_definitions(pipeline: Pipeline) -> dg.Definitions:
    """Return all definitions of a pipeline: assets, checks, jobs, the schedule and the sensor.

    A run executes in one process: each asset starts processes of its own, one after the other.
    The schedule runs everything on Mondays at three; DVC skips what did not change.
    """

    @dg.sensor(
        name="new_files_in_inbox",
        job_name="everything",
        minimum_interval_seconds=SENSOR_INTERVAL_S,
        description=f"Runs everything when the files in {INBOX} changed and are complete.",
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        return watch_inbox(pipeline.root / INBOX, context.cursor)

    stages = dg.AssetSelection.assets(*(stage.asset for stage in pipeline.stages.values()))
    return dg.Definitions(
        assets=build_assets(pipeline),
        asset_checks=build_checks(pipeline),
        executor=dg.in_process_executor,
        jobs=[
            dg.define_asset_job("everything", stages),
            dg.define_asset_job("evaluation_only", select_evaluation(pipeline)),
        ],
        schedules=[
            dg.ScheduleDefinition(name="weekly", job_name="everything", cron_schedule="0 3 * * 1")
        ],
        sensors=[watch],
    )


def select_evaluation(pipeline: Pipeline) -> dg.AssetSelection:
    """Return `evaluate` with all checks that judge its numbers, those of fine-tuned models too."""
    tasks = [stage.asset for stage in pipeline.stages.values() if stage.name.startswith(FINETUNE)]
    checks = dg.AssetSelection.checks_for_assets(*(dg.AssetKey(task) for task in tasks))
    return dg.AssetSelection.assets(EVALUATE) | checks


def watch_inbox(inbox: Path, cursor: str | None) -> dg.SensorResult | dg.SkipReason:
    """Ask for a run once for each new state of the inbox.

    A file may still be on its way, so a state counts when two ticks in a row saw the same names,
    sizes and times. The cursor holds the state of the last tick; the state is the run key, with
    which Dagster never starts a second run. Hidden files are ignored.
    """
    listing = []
    for path in sorted(inbox.rglob("*")):
        with suppress(FileNotFoundError):  # renamed meanwhile: the next tick sees it
            if path.is_file() and not path.name.startswith("."):
                status = path.stat()
                name = path.relative_to(inbox).as_posix()
                listing.append((name, status.st_size, status.st_mtime_ns))
    if not listing:
        return dg.SkipReason(f"{inbox} is empty")
    state = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]
    if state != cursor:
        return dg.SensorResult(
            skip_reason=f"{len(listing)} files; waiting until none of them changes", cursor=state
        )
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=state)], cursor=state)
