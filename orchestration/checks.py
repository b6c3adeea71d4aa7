"""Asset checks: the verdict of validation stops a run, weak evaluation numbers are shown."""

import operator
from collections.abc import Callable, Mapping
from functools import partial
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

    def judge_validation(severity: str, _: object) -> dg.AssetCheckResult:
        return judge_rules(read_metrics(pipeline, "validate"), severity)

    def judge_evaluation(rival: str, _: object) -> dg.AssetCheckResult:
        return judge_retrieval(read_metrics(pipeline, EVALUATE), rival)

    checks = [
        _build_check("validate", f"{severity}_rules", text, partial(judge_validation, severity))
        for severity, text in (
            ("critical", "No critical rule failed."),
            ("warning", "No rule of severity warning failed."),
        )
    ]
    for rival, words in (("chance", "chance"), ("untrained", "before training")):
        judge = partial(judge_evaluation, rival)
        text = f"Retrieval is better than {words}."
        checks.append(_build_check(EVALUATE, f"beats_{rival}", text, judge))
    tasks = [name for name in pipeline.stages if name.startswith(FINETUNE)]
    return [*checks, *(check for name in tasks for check in _build_task_checks(pipeline, name))]


def _build_task_checks(pipeline: Pipeline, name: str) -> list[dg.AssetChecksDefinition]:
    """Return the checks of a fine-tuned model, which wait until `evaluate` has measured it."""
    asset, task = pipeline.stages[name].asset, name.removeprefix(FINETUNE)

    def read_result() -> Mapping[str, Any]:
        if not pipeline.has_read(EVALUATE, name):
            return {}
        results = read_metrics(pipeline, EVALUATE).get("finetuned", {})
        result: Mapping[str, Any] = results.get(task, {})
        return result

    def judge_rival(rival: str, _: object) -> dg.AssetCheckResult:
        return judge_task(read_result(), rival)

    def judge_trend(instance: dg.DagsterInstance) -> dg.AssetCheckResult:
        return judge_progress(read_result(), _read_before(pipeline, instance, task))

    rivals = {"chance": "chance", "untrained": "the untrained network"}
    text = "Not below the last run with other results for the same label and test data."
    return [
        *(
            _build_check(asset, f"beats_{rival}", f"Better than {words}.", judge)
            for rival, words in rivals.items()
            for judge in [partial(judge_rival, rival)]
        ),
        _build_check(asset, "not_worse_than_before", text, judge_trend),
    ]


def _build_check(
    asset: str,
    name: str,
    text: str,
    judge: Callable[[dg.DagsterInstance], dg.AssetCheckResult],
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset,
        name=name,
        description=text,
        blocking=name == "critical_rules",
        additional_deps=[EVALUATE] if asset not in ("validate", EVALUATE) else None,
    )
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return judge(context.instance)

    return check


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


def judge_rules(verdict: Mapping[str, Any], severity: str) -> dg.AssetCheckResult:
    """Judge the rules of a severity, and list them, the failed ones first.

    The critical ones fail unless the verdict says `passed`; a missing verdict fails, too. The
    others warn if any of them failed.
    """
    is_critical = severity == "critical"
    expectations = verdict.get("expectations", [])
    rules = [rule for rule in expectations if (rule["severity"] == "critical") == is_critical]
    columns = ("name", "success", "observed", "threshold", "description")
    records = [
        dg.TableRecord({column: str(rule.get(column)) for column in columns})
        for rule in sorted(rules, key=lambda rule: rule["success"])
    ]
    schema = dg.TableSchema([dg.TableColumn(column) for column in columns])
    is_good = all(rule["success"] for rule in rules)
    return dg.AssetCheckResult(
        passed=verdict.get("passed") is True if is_critical else is_good,
        severity=dg.AssetCheckSeverity.ERROR if is_critical else WARN,
        metadata={"rules": dg.MetadataValue.table(records, schema)},
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
    return _compare(result, result.get(rival), rival, operator.gt)


def judge_progress(result: Mapping[str, Any], before: float | None) -> dg.AssetCheckResult:
    """Warn if a fine-tuned model is worse than `before`; None: there is nothing to compare with."""
    if before is None and result and "skipped" not in result:
        return dg.AssetCheckResult(passed=True, description="no other run to compare with")
    return _compare(result, before, "before", operator.ge)


def _compare(
    result: Mapping[str, Any],
    other: float | None,
    name: str,
    is_good: Callable[[float, float], bool],
) -> dg.AssetCheckResult:
    if "skipped" in result:
        return dg.AssetCheckResult(passed=True, metadata={"skipped": result["skipped"]})
    own: float | None = result.get(result.get("measure", ""))  # what a task is judged by
    if own is None or other is None:
        description = "evaluate has not measured this model yet"
        return dg.AssetCheckResult(passed=False, severity=WARN, description=description)
    numbers = {result["measure"]: own, name: other}
    return dg.AssetCheckResult(passed=is_good(own, other), severity=WARN, metadata=numbers)
