"""The results as tables of text: `python -m vatt.evaluate.summary` prints those of the last run."""

import json
import sys
from pathlib import Path

from vatt.evaluate.results import (
    RIVALS,
    Metrics,
    tabulate_finetuned,
    tabulate_probes,
    tabulate_published,
    tabulate_retrieval,
)
from vatt.evaluate.tables import to_text

METRICS_PATH = Path("metrics/evaluate.json")
REPORT_PATH = Path("data/evaluate/report.html")
LEGEND = """Beside or below numbers: the interval that covers 95 % when other test videos are drawn.
Fine-tuned: the task, the weights at the start, the label, the measure."""


def format_summary(metrics: Metrics) -> str:
    """Return the content of metrics/evaluate.json as text of 100 columns."""
    retrieval = [
        table.pick(("",), ("trained", "untrained", "chance", "x chance"))
        for table in tabulate_retrieval(metrics)
    ]
    probes, finetuned = tabulate_probes(metrics), tabulate_finetuned(metrics)
    tables = [
        *retrieval,
        probes.pick(probes.labels, ("trained", "untrained", "points", "chance")),
        finetuned.pick(finetuned.labels, ("fine-tuned", *RIVALS.values(), "chance")),
        tabulate_published(metrics),
    ]
    return "\n\n".join([*(to_text(table) for table in tables if table.rows or table.notes), LEGEND])


def main() -> None:
    """Print the tables of the last run, and where its report is."""
    try:
        metrics = json.loads(METRICS_PATH.read_text(encoding="utf-8"))
    except FileNotFoundError:
        sys.exit(f"{METRICS_PATH} is missing: the stage evaluate makes it (dvc repro evaluate)")
    print(f"\n{format_summary(metrics)}\n\nReport: {REPORT_PATH}")


if __name__ == "__main__":
    main()
