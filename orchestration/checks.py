"""Asset checks: the verdict of validation stops a run, weak evaluation numbers are shown."""

from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from orchestration.assets import read_metrics
from orchestration.pipeline import Pipeline


def build_checks(pipeline: Pipeline) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the stages `validate` and `evaluate`."""

    @dg.asset_check(asset="validate", blocking=True, description="No critical rule failed.")
    def critical_rules() -> dg.AssetCheckResult:
        return judge_critical_rules(read_metrics(pipeline, "validate"))

    @dg.asset_check(asset="validate", description="No rule of severity warning failed.")
    def warning_rules() -> dg.AssetCheckResult:
        return judge_warning_rules(read_metrics(pipeline, "validate"))

    return [critical_rules, warning_rules]


def judge_critical_rules(verdict: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Fail unless the verdict says `passed`; a missing verdict fails too."""
    rules = [rule for rule in verdict.get("expectations", []) if rule["severity"] == "critical"]
    return dg.AssetCheckResult(
        passed=verdict.get("passed") is True,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"rules": _show_rules(rules)},
    )


def judge_warning_rules(verdict: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Warn if any rule that is not critical failed."""
    rules = [rule for rule in verdict.get("expectations", []) if rule["severity"] != "critical"]
    return dg.AssetCheckResult(
        passed=all(rule["success"] for rule in rules),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rules": _show_rules(rules)},
    )


def _show_rules(rules: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Return the rules as a table, the failed ones first."""
    columns = ("name", "success", "observed", "description")
    records = [
        dg.TableRecord({column: str(rule.get(column)) for column in columns})
        for rule in sorted(rules, key=lambda rule: rule["success"])
    ]
    schema = dg.TableSchema([dg.TableColumn(column) for column in columns])
    return dg.MetadataValue.table(records, schema)
