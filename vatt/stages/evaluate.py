"""Stage `evaluate`: zero-shot retrieval, linear probes, the report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vatt.data.index import QUARANTINE_NAME, read_index
from vatt.evaluation.comparison import Split, compare_networks, summarise
from vatt.evaluation.reading.features import SplitReader
from vatt.evaluation.report.examples import open_frame_reader, pick_examples
from vatt.evaluation.report.figures import draw_figures
from vatt.evaluation.report.page import Report, write_report
from vatt.evaluation.summary import REPORT_PATH, format_summary
from vatt.interop.export import Exported, build_untrained, load
from vatt.interop.registry import digest_export
from vatt.params import EvaluateParams

PREPROCESS_DIR = Path("data/preprocess")
EXPORT_DIR = Path("data/pretrain")
VERDICT_PATH = Path("metrics/validate.json")
CURVE_PATH = Path("metrics/pretrain_curve.jsonl")


def main(evaluate: EvaluateParams) -> Mapping[str, Any]:
    """Measure data/pretrain on data/preprocess, write the report and print the results.

    Raises:
        StageError: the export or the corpus cannot be read, or they do not fit.
    """
    exported = load(EXPORT_DIR)
    splits = _read_splits(exported, evaluate)
    comparison = compare_networks(splits)
    metrics = {
        **summarise(comparison),
        "test_data": splits["test"].clips.digest,
        "export": digest_export(EXPORT_DIR),
    }
    read_frames = open_frame_reader(PREPROCESS_DIR, exported.params.clip, "test")
    report = Report(
        metrics=metrics,
        figures=draw_figures(comparison, _read_lines(CURVE_PATH)),
        examples=pick_examples(splits["test"].clips, splits["test"].trained, read_frames),
        index=read_index(PREPROCESS_DIR),
        quarantine=_read_lines(PREPROCESS_DIR / QUARANTINE_NAME),
        verdict=json.loads(VERDICT_PATH.read_text(encoding="utf-8")),
        parameters={
            **exported.params.model_dump(mode="json"),
            "evaluate": evaluate.model_dump(mode="json"),
        },
        model=exported.model,
        clip=exported.params.clip,
    )
    write_report(REPORT_PATH.parent, report)
    print(f"{format_summary(metrics)}\n\nReport: {REPORT_PATH}")
    return metrics


def _read_splits(exported: Exported, params: EvaluateParams) -> dict[str, Split]:
    """Read all splits with the trained network and with the one that it was before training."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = [exported.model.to(device), build_untrained(exported.params).to(device)]
    clip, rate = exported.params.clip, exported.params.frame_rate_hz
    reader = SplitReader(PREPROCESS_DIR, clip, rate, exported.tokenizer, params)
    splits = {}
    for name in ("train", "validation", "test"):
        clips, (trained, untrained) = reader.read(name, networks)
        splits[name] = Split(clips, trained, untrained)
    return splits


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
