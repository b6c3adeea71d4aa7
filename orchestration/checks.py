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

    return [critical_rules, warning_rules, *_build_evaluation_checks(pipeline)]


def _build_evaluation_checks(pipeline: Pipeline) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(asset="evaluate", description="Retrieval is better than chance.")
    def beats_chance() -> dg.AssetCheckResult:
        return judge_retrieval(read_metrics(pipeline, "evaluate"), "chance")

    @dg.asset_check(asset="evaluate", description="Retrieval is better than before training.")
    def beats_untrained() -> dg.AssetCheckResult:
        return judge_retrieval(read_metrics(pipeline, "evaluate"), "untrained")

    return [beats_chance, beats_untrained]


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


def judge_retrieval(metrics: Mapping[str, Any], rival: str) -> dg.AssetCheckResult:
    """Warn unless R@10 of every direction is above that of the rival, `chance` or `untrained`.

    A direction without pairs is left out; if none has any, nothing was shown and the check warns.
    """
    rivals = {key: value for key, value in metrics.get(rival, {}).items() if key.endswith("_r10")}
    pairs = {key: (metrics[key], value) for key, value in rivals.items() if value is not None}
    return dg.AssetCheckResult(
        passed=bool(pairs) and all(own > other for own, other in pairs.values()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={key: f"{own:.4f}, {rival} {other:.4f}" for key, (own, other) in pairs.items()},
    )


def _show_rules(rules: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Return the rules as a table, the failed ones first."""
    columns = ("name", "success", "observed", "threshold", "description")
    records = [
        dg.TableRecord({column: str(rule.get(column)) for column in columns})
        for rule in sorted(rules, key=lambda rule: rule["success"])
    ]
    schema = dg.TableSchema([dg.TableColumn(column) for column in columns])
    return dg.MetadataValue.table(records, schema)
