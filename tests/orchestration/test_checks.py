"""Checks judge by what the metrics files say, and a missing file is no pass."""

import dagster as dg

from orchestration.checks import judge_critical_rules, judge_warning_rules
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
