"""Stage `evaluate`: retrieval, linear classifiers, fine-tuned networks, the report."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vatt.core.errors import StageError
from vatt.corpus.index import QUARANTINE_NAME, read_index
from vatt.evaluate.comparison import compare_networks, summarise
from vatt.evaluate.features import FeatureStore, Seen, SplitReader
from vatt.evaluate.figures import (
    PRETRAINING,
    CurveRow,
    draw_figures,
    open_frame_reader,
    pick_examples,
    read_curves,
)
from vatt.evaluate.finetuned import Finetuned, TaskEntry, load_finetuned
from vatt.evaluate.linear_evaluation import Skipped
from vatt.evaluate.networks import Embedder, Observer, forget_training, open_model
from vatt.evaluate.paper_results import list_published
from vatt.evaluate.report import Report, read_studies, write_report
from vatt.evaluate.results import METRICS_PATH, REPORT_PATH, format_headline
from vatt.evaluate.retrieval import DIRECTIONS
from vatt.params import TASKS, EvaluateParams, TaskName
from vatt.weights.registry import read_code_version

PREPROCESS_DIR = Path("data/preprocess")
EXPORT_DIR = Path("data/pretrain")
FEATURES_DIR = Path(".cache/evaluate")
METRICS_DIR = Path("metrics")
Content = TypeVar("Content")


def main(evaluate: EvaluateParams) -> Mapping[str, Any]:
    """Measure an export and data/finetune on data/preprocess, and write the report.

    What needs texts is left out, with the reason, where the export has no words.

    Raises:
        StageError: an export, the corpus or its verdict cannot be read, or they do not fit.
    """
    verdict = _read(METRICS_DIR / "validate.json", json.loads, "validate")
    quarantine = _read(PREPROCESS_DIR / QUARANTINE_NAME, _parse_lines, "preprocess")
    embedder = open_model(evaluate.model)
    tasks = {task: load_finetuned(Path("data/finetune", task), embedder.digest) for task in TASKS}
    seen, entries = _see_splits(embedder, evaluate, tasks)
    comparison = compare_networks(*seen, entries, evaluate.lrc_steps, evaluate.probe_tasks)
    test, index = seen[0]["test"].clips, read_index(PREPROCESS_DIR)
    numbers = summarise(comparison)
    published = list_published(index["source"].unique(), numbers["retrieval_sources"])
    metrics = {
        **numbers,
        "published": [row._asdict() for row in published],
        "test_data": test.digest,
        "export": embedder.digest,
        **_list_left_out(embedder),
    }
    params = embedder.exported.params
    read_frames = open_frame_reader(PREPROCESS_DIR, params.clip, "test")
    report = Report(
        metrics=metrics,
        figures=draw_figures(comparison, _read_curves(evaluate)),
        studies=read_studies(Path("data/tune")),
        examples=pick_examples(test, comparison.retrieval["text_to_video"], read_frames),
        index=index,
        quarantine=quarantine,
        verdict=verdict,
        parameters={**params.model_dump(mode="json"), "evaluate": evaluate.model_dump(mode="json")},
        model=embedder.exported.model,
        clip=params.clip,
        code_version=read_code_version(),
    )
    write_report(REPORT_PATH.parent, report)
    print(f"evaluate: {format_headline(metrics)}")
    print(f"evaluate: all numbers are in {METRICS_PATH}, the report is {REPORT_PATH}")
    return metrics


def _see_splits(
    embedder: Embedder, params: EvaluateParams, tasks: Mapping[TaskName, Finetuned]
) -> tuple[tuple[dict[str, Seen], dict[str, Seen]], dict[str, TaskEntry | Skipped]]:
    """Let the network, trained and untrained, see all splits; all others the test split."""
    store = FeatureStore(FEATURES_DIR)
    reader = SplitReader(PREPROCESS_DIR, embedder.exported.params.clip, params, store)
    networks: dict[tuple[str, str], Observer] = {
        ("", "trained"): embedder,
        ("", "untrained"): forget_training(embedder),
    }
    trained, untrained = {}, {}
    for split in ("train", "validation", "test"):
        if split == "test":
            for task, (_, named) in tasks.items():
                networks |= {(task, name): labeller for name, labeller in named.items()}
        clips, arrays = reader.read(split, networks)
        trained[split] = Seen(clips, arrays["", "trained"])
        untrained[split] = Seen(clips, arrays["", "untrained"])
    store.remove_others()
    entries: dict[str, TaskEntry | Skipped] = {}
    for task, (entry, named) in tasks.items():
        outputs = {name: arrays[task, name] for name in named}
        # Where a split has no clips, networks make nothing.
        logits = {name: made["logits"] for name, made in outputs.items() if made}
        entries[task] = entry if isinstance(entry, Skipped) else entry._replace(logits=logits)
    return (trained, untrained), entries


def _list_left_out(embedder: Embedder) -> dict[str, dict[str, str]]:
    """Return why directions of retrieval are left out, under the key of the metrics, if any are."""
    reason = embedder.exported.why_textless
    if not reason:
        return {}
    left_out = {name: reason for name in DIRECTIONS if name.startswith("text_")}
    for name in left_out:
        print(f"evaluate: {DIRECTIONS[name]} is left out: {reason}")
    return {"left_out": left_out}


def _read_curves(params: EvaluateParams) -> dict[str, list[CurveRow]]:
    """Return the curves of the networks that are measured: that of pre-training is another's."""
    curves = read_curves(METRICS_DIR)
    if Path(params.model) != EXPORT_DIR:
        curves.pop(PRETRAINING, None)
    return curves


def _read(path: Path, parse: Callable[[str], Content], stage: str) -> Content:
    """Return what a stage before wrote."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        advice = f"run `python -m vatt {stage}` first"
        raise StageError(f"{path}: cannot be read: {error}; {advice}") from error


def _parse_lines(text: str) -> list[dict[str, Any]]:
    # Only newlines end a line: names may hold other line ends.
    return [json.loads(line) for line in text.split("\n") if line]
