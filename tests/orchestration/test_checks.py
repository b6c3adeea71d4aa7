"""Checks judge by what the metrics files say, and a missing file is no pass."""

import dagster as dg

from orchestration.checks import judge_critical_rules, judge_retrieval, judge_warning_rules
from tests.orchestration.miniature import VERDICT


def test_verdict_decides() -> None:
    assert judge_critical_rules(VERDICT).passed
    failed = judge_critical_rules(VERDICT | {"passed": False})
    assert not failed.passed
    assert failed.severity is dg.AssetCheckSeverity.ERROR


def test_no_verdict_fails() -> None:
    assert not judge_critical_rules({}).passed
    assert not judge_critical_rules({"passed": False, "index_digest": None}).passed


def test_warnings_warn_and_are_listed_first() -> None:
    rule = {"severity": "warning", "observed": 1.0, "description": "d"}
    rules = [rule | {"name": "a", "success": True}, rule | {"name": "b", "success": False}]
    result = judge_warning_rules({"passed": True, "expectations": rules})
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.WARN
    table = result.metadata["rules"]
    assert isinstance(table, dg.TableMetadataValue)
    assert [record.data["name"] for record in table.records] == ["b", "a"]
    assert judge_warning_rules({"passed": True, "expectations": rules[:1]}).passed


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


def test_every_direction_must_beat_the_rival() -> None:
    assert judge_retrieval(EVALUATION, "chance").passed
    result = judge_retrieval(EVALUATION, "untrained")
    assert not result.passed
    assert result.severity is dg.AssetCheckSeverity.WARN
    equal = EVALUATION | {"audio_to_video_r10": 0.1}
    assert not judge_retrieval(equal, "chance").passed


def test_direction_that_was_not_measured_does_not_count() -> None:
    no_text = {"text_to_video_r10": None, "audio_to_video_r10": 0.1}
    assert judge_retrieval(EVALUATION | {"untrained": no_text}, "untrained").passed
    nothing = {"text_to_video_r10": None, "audio_to_video_r10": None}
    assert not judge_retrieval(EVALUATION | {"untrained": nothing}, "untrained").passed
    assert not judge_retrieval({}, "chance").passed
