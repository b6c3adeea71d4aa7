"""Checks judge by what the metrics files say, and a missing file is no pass."""

from pathlib import Path

import dagster as dg

from orchestration.assets import build_assets
from orchestration.checks import (
    build_checks,
    judge_progress,
    judge_retrieval,
    judge_rules,
    judge_task,
)
from orchestration.definitions import select_evaluation
from orchestration.pipeline import load_pipeline
from tests.orchestration.miniature import VERDICT, repro_by_hand, set_params

ERROR, WARN = dg.AssetCheckSeverity.ERROR, dg.AssetCheckSeverity.WARN


def test_verdict_decides_and_none_fails() -> None:
    assert judge_rules(VERDICT, "critical").passed
    failed = judge_rules(VERDICT | {"passed": False}, "critical")
    assert (failed.passed, failed.severity) == (False, ERROR)
    assert not judge_rules({}, "critical").passed
    assert not judge_rules({"passed": False, "index_digest": None}, "critical").passed


def test_warnings_warn_and_are_listed_first() -> None:
    rule = {"severity": "warning", "observed": 1.0, "description": "d"}
    rules = [rule | {"name": "a", "success": True}, rule | {"name": "b", "success": False}]
    result = judge_rules({"passed": True, "expectations": rules}, "warning")
    assert (result.passed, result.severity) == (False, WARN)
    table = result.metadata["rules"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["name"] for record in table.records] == ["b", "a"]
    assert judge_rules({"passed": True, "expectations": rules[:1]}, "warning").passed


EVALUATION = {
    "text_to_video_r10": 0.5,
    "audio_to_video_r10": 0.2,
    "text_to_video_median_rank": 3.0,
    "chance": {
        "text_to_video_r10": 0.1,
        "audio_to_video_r10": 0.1,
        "text_to_video_median_rank": 50.0,
    },
    "untrained": {"text_to_video_r10": 0.1, "audio_to_video_r10": 0.3},
}


def test_every_direction_that_was_measured_must_beat_the_rival() -> None:
    assert judge_retrieval(EVALUATION, "chance").passed
    result = judge_retrieval(EVALUATION, "untrained")
    assert (result.passed, result.severity) == (False, WARN)
    equal = EVALUATION | {"audio_to_video_r10": 0.1}
    assert not judge_retrieval(equal, "chance").passed
    no_text = {"text_to_video_r10": None, "audio_to_video_r10": 0.1}
    assert judge_retrieval(EVALUATION | {"untrained": no_text}, "untrained").passed
    nothing = {"text_to_video_r10": None, "audio_to_video_r10": None}
    assert not judge_retrieval(EVALUATION | {"untrained": nothing}, "untrained").passed
    assert not judge_retrieval({}, "chance").passed


RESULT = {"measure": "accuracy", "accuracy": 0.8, "chance": 0.5, "untrained": 0.8}


def test_a_fine_tuned_model_must_be_above_its_rivals_and_not_fall_behind() -> None:
    assert judge_task(RESULT, "chance").passed
    result = judge_task(RESULT, "untrained")
    assert (result.passed, result.severity) == (False, WARN)
    several = {"measure": "map", "map": 0.6, "accuracy": 0.1, "chance": 0.5}
    assert judge_task(several, "chance").passed
    assert judge_progress(RESULT, None).passed
    assert judge_progress(RESULT, 0.8).passed
    assert not judge_progress(RESULT, 0.81).passed


def test_a_task_that_was_left_out_is_no_warning_but_one_that_was_not_measured_is() -> None:
    for result, is_good in (({"skipped": "no clip has a label of action"}, True), ({}, False)):
        results = [judge_task(result, rival) for rival in ("chance", "untrained")]
        assert [check.passed for check in results] == [is_good] * 2
        assert judge_progress(result, None).passed == is_good


def evaluate(root: Path, instance: dg.DagsterInstance) -> dict[str, bool]:
    """Materialise `evaluate` with the checks that judge its numbers; return those of a task."""
    pipeline = load_pipeline(root)
    result = dg.materialize(
        [*build_assets(pipeline), *build_checks(pipeline)],
        instance=instance,
        selection=select_evaluation(pipeline),
    )
    return {
        check.check_name: check.passed
        for check in result.get_asset_check_evaluations()
        if check.asset_key == dg.AssetKey("finetune_video")
    }


def test_checks_of_a_task_compare_this_model_with_the_run_before(miniature: Path) -> None:
    def set_result(accuracy: float, test_data: str, label: str = "action") -> None:
        finetuned = {"video": RESULT | {"accuracy": accuracy, "label": label}}
        set_params(miniature, "evaluate", metrics={"finetuned": finetuned, "test_data": test_data})

    set_result(0.9, "some")
    repro_by_hand(miniature, "evaluate")
    with dg.DagsterInstance.ephemeral() as instance:
        good = {"beats_chance": True, "beats_untrained": True, "not_worse_than_before": True}
        assert evaluate(miniature, instance) == good
        set_result(0.85, "some")
        worse = good | {"not_worse_than_before": False}
        assert evaluate(miniature, instance) == worse
        assert evaluate(miniature, instance) == worse  # nothing new: the run before is the first
        set_result(0.7, "other clips")
        below_untrained = good | {"beats_untrained": False}
        assert evaluate(miniature, instance) == below_untrained
        set_result(0.6, "some", label="another")
        assert evaluate(miniature, instance) == below_untrained
        set_result(0.81, "some")  # the last that compares is neither of the two before
        assert evaluate(miniature, instance) == worse


def test_a_model_that_evaluate_has_not_seen_is_not_judged_by_old_numbers(miniature: Path) -> None:
    set_params(miniature, "evaluate", metrics={"finetuned": {"video": RESULT}})
    repro_by_hand(miniature, "evaluate")
    pipeline = load_pipeline(miniature)
    assert pipeline.has_read("evaluate", "finetune@video")
    set_params(miniature, "finetune", video={"says": "another model"})
    repro_by_hand(miniature, "--single-item", "finetune@video")
    assert not pipeline.has_read("evaluate", "finetune@video")
    assert pipeline.has_read("evaluate", "finetune@audio")
