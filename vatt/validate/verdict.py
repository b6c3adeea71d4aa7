"""Judge a preprocessed corpus: Great Expectations in, a verdict and an HTML page out."""

import html
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import great_expectations as gx
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView
from jinja2 import pass_context

from vatt.params import ValidateParams
from vatt.validate.expectations import column_rules, table_rules
from vatt.validate.tables import VIDEO, Corpus, tabulate

MAX_EXAMPLES = 5
"""Rows that a failed rule names in the verdict; the page lists up to 20."""
KEY_COLUMNS = {
    "columns": [],
    "segments": ["key", *VIDEO],
    "videos": VIDEO,
    "inputs": VIDEO,
    "splits": ["split"],
}
"""The columns that name a row of each table."""


def validate_corpus(corpus: Corpus, params: ValidateParams) -> tuple[dict[str, Any], str]:
    """Judge a corpus; returns the verdict and the page.

    The verdict holds `passed` (no critical rule failed) and, for each rule, what was asked, what
    was found and some rows that break it. A rule that cannot be computed is critical, whatever its
    severity. Without all columns nothing else is judged.
    """
    results = {"columns": _judge("columns", corpus.index, column_rules())}
    is_complete = results["columns"].success
    if is_complete:
        rules = table_rules(params)
        for name, table in tabulate(corpus, params.min_caption_score).items():
            results[name] = _judge(name, table, rules[name])
    outcomes = [
        _outcome(rule, KEY_COLUMNS[name])
        for name, result in results.items()
        for rule in result.results
    ]
    verdict = {
        "passed": all(rule["success"] or rule["severity"] != "critical" for rule in outcomes),
        "num_segments": len(corpus.index),
        "num_videos": len(corpus.index.drop_duplicates(VIDEO)) if is_complete else 0,
        "num_quarantined": len(corpus.quarantine),
        "num_missing": int(corpus.find_missing().sum()),
        "expectations": outcomes,
    }
    return verdict, _render(list(results.values()), verdict)


def _judge(name: str, table: pd.DataFrame, rules: list[Any]) -> Any:
    """Run rules over a table; nothing is written, sent or shown."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("preprocess")
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=rules))
    shown = {"result_format": "SUMMARY", "unexpected_index_column_names": KEY_COLUMNS[name]}
    return batch.get_batch({"dataframe": table}).validate(suite, result_format=shown)


def _outcome(rule: Any, keys: list[str]) -> dict[str, Any]:
    """Turn the result of one rule into an entry of the verdict.

    What was found and asked are shares (float), of the rows or of the columns, or a count (int);
    `judged` is the number of rows that have a value.
    """
    config, result = rule.expectation_config, rule.result
    # One set of facts, or one for each metric that the rule computes.
    facts = rule.exception_info
    facts = [facts] if "raised_exception" in facts else facts.values()
    errors = [fact["exception_message"] for fact in facts if fact["raised_exception"]]
    outcome = {
        "name": config.meta["name"],
        "description": config.description,
        "severity": "critical" if errors else str(config.severity.value),
        "success": bool(rule.success),
        "judged": None,
        "examples": [],
    }
    if errors:
        return outcome | {"observed": None, "threshold": None, "error": errors[0]}
    if "column_set" in config.kwargs:
        asked = config.kwargs["column_set"]
        missing = sorted(set(asked) - set(result["observed_value"]))
        share = 1 - len(missing) / len(asked)
        return outcome | {"observed": share, "threshold": 1.0, "examples": missing}
    if "unexpected_percent" in result:
        share = round(1 - (result["unexpected_percent"] or 0.0) / 100, 6)
        rows = result.get("partial_unexpected_index_list") or []
        examples = [_name_row(row, keys, config.kwargs["column"]) for row in rows[:MAX_EXAMPLES]]
        asked = float(config.kwargs.get("mostly", 1.0))
        judged = result["element_count"] - result.get("missing_count", 0)
        outcome |= {"judged": judged, "examples": examples}
        return outcome | {"observed": share, "threshold": asked}
    asked = config.kwargs["min_value"]
    return outcome | {"observed": result["observed_value"], "threshold": asked}


def _name_row(row: Mapping[str, Any], keys: list[str], column: str) -> str:
    """Return which row breaks a rule, and the value that does: `key source/video_id: value`."""
    names = [str(row[key]) for key in keys if key not in VIDEO]
    if "video_id" in keys:
        names.append(f"{row['source']}/{row['video_id']}")
    name, value = " ".join(names), row.get(column)
    if column in keys or value is None:
        return name
    return f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}"


class _PageView(DefaultJinjaPageView):  # type: ignore[misc]  # the library is untyped to mypy
    """Great Expectations' page view, with the same bytes every time and no markup from the data."""

    def __init__(self) -> None:
        super().__init__(custom_views_directory=str(Path(__file__).parent))
        self.numbers = count()

    def generate_html_element_uuid(self, prefix: str = "") -> str:
        """Number the elements that would get random names."""
        return f"{prefix}{next(self.numbers)}"

    @pass_context
    def render_content_block(
        self,
        context: Any,
        content_block: Any,
        index: Any = None,
        content_block_id: str | None = None,
    ) -> Any:
        """Render a part of the page; bare text is a value of the data, where `<` is no markup."""
        if isinstance(content_block, str):
            return html.escape(content_block)
        return super().render_content_block(context, content_block, index, content_block_id)


def _render(results: list[Any], verdict: Mapping[str, Any]) -> str:
    """Render the Data Docs of all results as one page that needs no network.

    The sections are those of Great Expectations; the frame around them is ours, because its own
    loads styles and scripts from several hosts and shows the time.
    """
    documents = [ValidationResultsPageRenderer().render(result) for result in results]
    page = documents[0]
    page.sections = [section for document in documents for section in document.sections[1:]]
    return str(_PageView().render(page, template="verdict.html", verdict=verdict))
