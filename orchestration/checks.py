"""Asset checks: the verdict of validation stops a run, weak evaluation numbers are shown."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import dagster as dg

from orchestration.assets import read_metrics
from orchestration.pipeline import Pipeline

FINETUNE = "finetune@"
EVALUATE = "evaluate"
WARN = dg.AssetCheckSeverity.WARN
MAX_RUNS = 100  # of the past that are looked through


def build_checks(pipeline: Pipeline) -> list[dg.AssetChecksDefinition]:
    """Return the checks of the stages `validate`, `evaluate`, and of each task of `finetune`."""

    @dg.asset_check(asset="validate", blocking=True, description="No critical rule failed.")
    def critical_rules() -> dg.AssetCheckResult:
        return judge_critical_rules(read_metrics(pipeline, "validate"))

    @dg.asset_check(asset="validate", description="No rule of severity warning failed.")
    def warning_rules() -> dg.AssetCheckResult:
        return judge_warning_rules(read_metrics(pipeline, "validate"))

    tasks = [name for name in pipeline.stages if name.startswith(FINETUNE)]
    return [
        critical_rules,
        warning_rules,
        *_build_evaluation_checks(pipeline),
        *(check for name in tasks for check in _build_task_checks(pipeline, name)),
    ]


def _build_evaluation_checks(pipeline: Pipeline) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(asset="evaluate", description="Retrieval is better than chance.")
    def beats_chance() -> dg.AssetCheckResult:
        return judge_retrieval(read_metrics(pipeline, "evaluate"), "chance")

    @dg.asset_check(asset="evaluate", description="Retrieval is better than before training.")
    def beats_untrained() -> dg.AssetCheckResult:
        return judge_retrieval(read_metrics(pipeline, "evaluate"), "untrained")

    return [beats_chance, beats_untrained]


def _build_task_checks(pipeline: Pipeline, name: str) -> list[dg.AssetChecksDefinition]:
    """Return the checks of a fine-tuned model, which wait until `evaluate` has measured it."""
    asset, task = pipeline.stages[name].asset, name.removeprefix(FINETUNE)

    def read_result() -> Mapping[str, Any]:
        if not pipeline.has_read(EVALUATE, name):
            return {}
        results = read_metrics(pipeline, EVALUATE).get("finetuned", {})
        result: Mapping[str, Any] = results.get(task, {})
        return result

    @dg.asset_check(asset=asset, additional_deps=[EVALUATE], description="Better than chance.")
    def beats_chance() -> dg.AssetCheckResult:
        return judge_task(read_result(), "chance")

    @dg.asset_check(
        asset=asset, additional_deps=[EVALUATE], description="Better than the untrained network."
    )
    def beats_untrained() -> dg.AssetCheckResult:
        return judge_task(read_result(), "untrained")

    @dg.asset_check(
        asset=asset,
        additional_deps=[EVALUATE],
        description="Not below the last run with other results for the same label and test data.",
    )
    def not_worse_than_before(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return judge_progress(read_result(), _read_before(pipeline, context.instance, task))

    return [beats_chance, beats_untrained, not_worse_than_before]


def _read_before(pipeline: Pipeline, instance: dg.DagsterInstance, task: str) -> float | None:
    """Return the number of a task in the last evaluation with other results that compares."""
    version, metrics = pipeline.data_version(EVALUATE), read_metrics(pipeline, EVALUATE)
    result, prefix = metrics.get("finetuned", {}).get(task, {}), f"finetuned.{task}."
    same = {"test_data": metrics.get("test_data")}
    same |= {prefix + name: result.get(name) for name in ("label", "measure")}
    records = instance.fetch_materializations(dg.AssetKey(EVALUATE), limit=MAX_RUNS).records
    for record in records:
        event = record.asset_materialization
        if event and event.tags and event.tags.get("dagster/data_version") != version:
            numbers: dict[str, Any] = {name: entry.value for name, entry in event.metadata.items()}
            if all(numbers.get(name) == value for name, value in same.items()):
                return numbers.get(f"{prefix}{result.get('measure')}")
    return None


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
        severity=WARN,
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
        severity=WARN,
        metadata={key: f"{own:.4f}, {rival} {other:.4f}" for key, (own, other) in pairs.items()},
    )


def judge_task(result: Mapping[str, Any], rival: str) -> dg.AssetCheckResult:
    """Warn unless a fine-tuned model is better than its rival, `chance` or `untrained`.

    An empty result is no pass: `evaluate` has not seen this model. A task that was left out passes.
    """
    if "skipped" in result:
        return dg.AssetCheckResult(passed=True, metadata={"skipped": result["skipped"]})
    return _compare(result, result.get(rival), rival, lambda own, other: own > other)


def judge_progress(result: Mapping[str, Any], before: float | None) -> dg.AssetCheckResult:
    """Warn if a fine-tuned model is worse than `before`; None: there is nothing to compare with."""
    if "skipped" in result:
        return dg.AssetCheckResult(passed=True, metadata={"skipped": result["skipped"]})
    if before is None and result:
        return dg.AssetCheckResult(passed=True, description="no other run to compare with")
    return _compare(result, before, "before", lambda own, other: own >= other)


def _compare(
    result: Mapping[str, Any],
    other: float | None,
    name: str,
    is_good: Callable[[float, float], bool],
) -> dg.AssetCheckResult:
    own = _find_value(result)
    if own is None or other is None:
        description = "evaluate has not measured this model yet"
        return dg.AssetCheckResult(passed=False, severity=WARN, description=description)
    numbers = {result["measure"]: own, name: other}
    return dg.AssetCheckResult(passed=is_good(own, other), severity=WARN, metadata=numbers)


def _find_value(result: Mapping[str, Any]) -> float | None:
    """Return the number that a task is judged by: the one that its `measure` names."""
    value: float | None = result.get(result.get("measure", ""))
    return value


def _show_rules(rules: Iterable[Mapping[str, Any]]) -> dg.TableMetadataValue:
    """Return the rules as a table, the failed ones first."""
    columns = ("name", "success", "observed", "threshold", "description")
    records = [
        dg.TableRecord({column: str(rule.get(column)) for column in columns})
        for rule in sorted(rules, key=lambda rule: rule["success"])
    ]
    schema = dg.TableSchema([dg.TableColumn(column) for column in columns])
    return dg.MetadataValue.table(records, schema)
