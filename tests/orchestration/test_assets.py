"""A materialisation gives what `dvc repro` by hand gives, and says what it did."""

import base64
import json
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.assets import build_assets
from orchestration.checks import build_checks
from orchestration.pipeline import load_pipeline
from tests.orchestration.miniature import (
    REPO,
    VERDICT,
    create_miniature,
    out_hash,
    read_lock,
    repro_by_hand,
    set_params,
)


def materialize(root: Path, *names: str) -> dg.ExecuteInProcessResult:
    pipeline = load_pipeline(root)
    return dg.materialize(
        [*build_assets(pipeline), *build_checks(pipeline)],
        selection=dg.AssetSelection.assets(
            *(names or [stage.asset for stage in pipeline.stages.values()])
        ),
        raise_on_error=False,
    )


def metadata(result: dg.ExecuteInProcessResult, name: str) -> dict[str, Any]:
    (event,) = result.asset_materializations_for_node(name)
    return {key: value.value for key, value in event.metadata.items()}


def checks(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def test_graph_of_assets_is_that_of_dvc_yaml() -> None:
    pipeline = load_pipeline(REPO)
    specs = dg.Definitions(build_assets(pipeline)).resolve_all_asset_specs()
    deps = {
        spec.key.to_user_string(): {dep.asset_key.to_user_string() for dep in spec.deps}
        for spec in specs
    }
    assert deps == {
        stage.asset: {before.replace("@", "_") for before in pipeline.upstream(name)}
        for name, stage in pipeline.stages.items()
    } | {
        "download": {"inbox"},
        "inbox": set(),
    }
    groups = {spec.key.to_user_string(): spec.group_name for spec in specs}
    assert groups["preprocess"] == "data"
    assert groups["pretrain"] == "model"


def test_same_data_versions_as_by_hand(miniature: Path, tmp_path: Path) -> None:
    by_hand = create_miniature(tmp_path / "by_hand")
    repro_by_hand(by_hand)
    result = materialize(miniature)
    assert result.success
    assert read_lock(miniature) == read_lock(by_hand)
    for name, stage in load_pipeline(miniature).stages.items():
        (event,) = result.asset_materializations_for_node(stage.asset)
        assert event.tags is not None
        assert event.tags["dagster/data_version"] == out_hash(by_hand, name)
        assert metadata(result, stage.asset)["outcome"] == "executed"

    again = materialize(by_hand, "evaluate", "promote")
    assert metadata(again, "evaluate")["outcome"] == "unchanged"
    assert metadata(again, "evaluate")["loss"] == 0.5
    assert metadata(again, "evaluate")["num_files"] == 1
    report = Path(metadata(again, "evaluate")["report.html"])
    assert report == by_hand / "data/evaluate/report.html"


def test_tuned_schedule_and_pages_of_a_task_are_shown(miniature: Path) -> None:
    repro_by_hand(miniature, "pretrain")
    best = {"schedule": {"learning_rate": 0.25}, "trial": 3}
    files = {"best.json": json.dumps(best), "history.svg": "<svg/>"}
    set_params(miniature, "finetune", video={"files": files, "metrics": {"accuracy": 0.5}})
    result = materialize(miniature, "finetune_video", "finetune_audio")
    shown = metadata(result, "finetune_video")
    assert shown["schedule"] == best
    picture = base64.b64encode(b"<svg/>").decode()
    assert shown["history"] == f"![history](data:image/svg+xml;base64,{picture})"
    assert shown["accuracy"] == 0.5
    assert "schedule" not in metadata(result, "finetune_audio")
    result = materialize(miniature, "evaluate")
    assert result.success
    assert "schedule" not in metadata(result, "evaluate")  # it has read one, of a task


def test_failed_stage_shows_its_last_lines_and_stops_the_run(miniature: Path) -> None:
    set_params(miniature, "preprocess", exit=1, says="disk full")
    result = materialize(miniature)
    assert not result.success
    failure = next(e for e in result.all_events if e.is_step_failure)
    assert failure.step_key == "preprocess"
    assert "stage preprocess says disk full" in str(failure.step_failure_data.user_failure_data)
    assert [e.step_key for e in result.all_events if e.is_step_success] == ["download"]


def test_failed_verdict_is_shown_and_stops_everything_after_it(miniature: Path) -> None:
    repro_by_hand(miniature, "preprocess")
    set_params(miniature, "validate", exit=1, metrics=VERDICT | {"passed": False})
    result = materialize(miniature, "validate", "pretrain")
    assert not result.success
    assert checks(result) == {"critical_rules": False, "warning_rules": False}
    shown = metadata(result, "validate")
    assert shown["outcome"] == "failed"
    assert Path(shown["report.html"]).exists()
    assert result.asset_materializations_for_node("pretrain") == []

    alone = materialize(miniature, "pretrain")
    assert not alone.success
    failure = next(e for e in alone.all_events if e.is_step_failure)
    assert "pretrain was not started: validate must run first" in str(failure.step_failure_data)


def test_old_verdict_does_not_excuse_a_crash(miniature: Path) -> None:
    repro_by_hand(miniature, "preprocess")
    set_params(miniature, "validate", exit=1, metrics={"passed": False})
    assert metadata(materialize(miniature, "validate"), "validate")["outcome"] == "failed"
    set_params(miniature, "validate", crash=True)
    result = materialize(miniature, "validate")
    assert result.asset_materializations_for_node("validate") == []
    assert not result.success
