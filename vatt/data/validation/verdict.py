"""Judge a preprocessed corpus: Great Expectations in, a verdict and an HTML page out."""

import html
import json
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

from vatt.data.validation import expectations
from vatt.params import ValidateParams

MAX_EXAMPLES = 5
"""Rows that a failed rule names in the verdict; the page lists up to 20."""

KEY_COLUMNS = {
    "columns": [],
    "segments": ["key"],
    "inputs": ["source", "video_id"],
    "splits": ["split"],
}


def validate_corpus(
    index: pd.DataFrame, quarantine: pd.DataFrame, params: ValidateParams
) -> tuple[dict[str, Any], str]:
    """Judge a corpus by its index (a row per segment) and its quarantine list (a row per input).

    Returns the verdict and the page. The verdict holds `passed` (no critical rule failed) and, for
    each rule, what was asked, what was found and some keys that break it. A rule that cannot be
    computed is critical, whatever its severity. Without all columns nothing else is judged.
    """
    results = {"columns": _judge("columns", index, expectations.column_expectations())}
    if results["columns"].success:
        tables = {
            "segments": (_segments(index), expectations.segment_expectations(params)),
            "inputs": (_inputs(index, quarantine), expectations.input_expectations(params)),
            "splits": (_splits(index), expectations.split_expectations(params)),
        }
        for name, (table, rules) in tables.items():
            results[name] = _judge(name, table, rules)
    outcomes = [
        _outcome(rule, KEY_COLUMNS[name])
        for name, result in results.items()
        for rule in result.results
    ]
    failed = [rule for rule in outcomes if not rule["success"]]
    verdict = {
        "passed": all(rule["severity"] != "critical" for rule in failed),
        "num_segments": len(index),
        "num_quarantined": len(quarantine),
        "expectations": outcomes,
    }
    return verdict, _render(list(results.values()), verdict)


def read_quarantine(path: Path) -> pd.DataFrame:
    """Read quarantine.jsonl into a frame of source, video_id and reason; it may be empty."""
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return pd.DataFrame(rows, columns=["source", "video_id", "reason"], dtype=object)


def _segments(index: pd.DataFrame) -> pd.DataFrame:
    """Add to the index what a rule over one column cannot compute."""
    times = index[["video_duration_s", "audio_duration_s", "start_offset_s"]].astype(float)
    pictures = index[index["has_video"].astype(bool)]
    short_side_px = pictures[["width_px", "height_px"]].min(axis=1)
    videos = index.groupby(["source", "video_id"])["split"]
    files = index.groupby("source_digest")["split"]
    return index.assign(
        duration_gap_s=(times["video_duration_s"] - times["audio_duration_s"]).abs(),
        start_gap_s=times["start_offset_s"].abs(),
        splits_of_video=videos.transform("nunique"),
        splits_of_file=files.transform("nunique"),
        frame_rate_gap_hz=_gap_to_most(pictures["frame_rate_hz"]),
        short_side_gap_px=_gap_to_most(short_side_px),
    )


def _gap_to_most(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Return how far each value is from the most frequent one."""
    most = values.mode()
    return (values - most.iloc[0]).abs() if len(most) else values


def _inputs(index: pd.DataFrame, quarantine: pd.DataFrame) -> pd.DataFrame:
    """One row per input of the corpus, with the reason why it is in quarantine, if it is."""
    accepted = index[["source", "video_id"]].drop_duplicates()
    refused = quarantine.drop_duplicates(["source", "video_id"])
    return accepted.merge(refused, how="outer", on=["source", "video_id"])


def _splits(index: pd.DataFrame) -> pd.DataFrame:
    """One row per split with its number of segments, splits without any included."""
    sizes = index["split"].value_counts().reindex(expectations.SPLITS, fill_value=0)
    return pd.DataFrame({"split": sizes.index, "num_segments": sizes.to_numpy()})


def _judge(name: str, table: pd.DataFrame, rules: list[Any]) -> Any:
    """Run rules over a table; nothing is written, sent or shown."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("preprocess")
    batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
    suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=rules))
    return batch.get_batch({"dataframe": table}).validate(
        suite,
        result_format={
            "result_format": "SUMMARY",
            "unexpected_index_column_names": KEY_COLUMNS[name],
        },
    )


def _outcome(rule: Any, keys: list[str]) -> dict[str, Any]:
    """Turn the result of one rule into an entry of the verdict.

    What was found and asked are shares (float), of the rows or of the columns, or a count (int).
    """
    config, result = rule.expectation_config, rule.result
    errors = _errors(rule.exception_info)
    outcome = {
        "name": config.meta["name"],
        "description": config.description,
        "severity": "critical" if errors else str(config.severity.value),
        "success": bool(rule.success),
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
        examples = ["/".join(str(row[key]) for key in keys) for row in rows[:MAX_EXAMPLES]]
        asked = float(config.kwargs.get("mostly", 1.0))
        return outcome | {"observed": share, "threshold": asked, "examples": examples}
    return outcome | {
        "observed": result["observed_value"],
        "threshold": config.kwargs["min_value"],
    }


def _errors(exception_info: Mapping[str, Any]) -> list[str]:
    """Return the messages of the exceptions that a rule met, one set of facts or one per metric."""
    facts = [exception_info] if "raised_exception" in exception_info else exception_info.values()
    return [fact["exception_message"] for fact in facts if fact["raised_exception"]]


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
