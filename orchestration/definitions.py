"""What `dagster dev` loads: the pipeline of the current folder as assets, checks and jobs."""

from pathlib import Path

import dagster as dg

from orchestration.assets import build_assets
from orchestration.automation import build_automation
from orchestration.checks import build_checks
from orchestration.pipeline import Pipeline, load_pipeline


def build_definitions(pipeline: Pipeline) -> dg.Definitions:
    """Return all definitions of a pipeline.

    A run executes in one process: each asset starts processes of its own, one after the other.
    """
    assets = dg.Definitions(
        assets=build_assets(pipeline),
        asset_checks=build_checks(pipeline),
        executor=dg.in_process_executor,
    )
    return dg.Definitions.merge(assets, build_automation(pipeline))


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions of the dvc.yaml in the current folder."""
    return build_definitions(load_pipeline(Path.cwd()))
