"""Stage `evaluate`: retrieval, linear classifiers, fine-tuned networks, the report."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from vatt.core.errors import StageError
from vatt.corpus.index import QUARANTINE_NAME, digest_index, read_index
from vatt.evaluate.analyses import analyse
from vatt.evaluate.annotated import read_test
from vatt.evaluate.comparison import compare_networks, summarise
from vatt.evaluate.drawn import Inner, draw_inner
from vatt.evaluate.feature_store import FeatureStore, name_features
from vatt.evaluate.features import Seen, SplitReader
from vatt.evaluate.figures import (
    PRETRAINING,
    CurveRow,
    draw_figures,
    open_frame_reader,
    pick_examples,
    read_curves,
)
from vatt.evaluate.finetuned import Finetuned, TaskEntry
from vatt.evaluate.linear_evaluation import Skipped
from vatt.evaluate.networks import Embedder
from vatt.evaluate.paper_results import list_published
from vatt.evaluate.report import Report, read_studies, write_report
from vatt.evaluate.results import METRICS_PATH, REPORT_PATH, format_headline, list_conditions
from vatt.evaluate.retrieval import DIRECTIONS
from vatt.evaluate.selection import Subset
from vatt.evaluate.worker import (
    FEATURES_DIR,
    EvaluateJob,
    EvaluateRecipe,
    Observers,
    is_missing,
    list_observers,
    list_to_see,
    load_networks,
)
from vatt.launch.launcher import launch_ranks
from vatt.params import EvaluateParams, LaunchParams, RunParams, TaskName
from vatt.weights.registry import read_code_version

PREPROCESS_DIR = Path("data/preprocess")
EXPORT_DIR = Path("data/pretrain")
FINETUNE_DIR = Path("data/finetune")
METRICS_DIR = Path("metrics")
SHOWN = [
    *("source", "split", "video_id", "start_s", "end_s"),
    *("has_audio", "num_captions", "descriptions"),
]
"""What the report must know of all clips."""
Content = TypeVar("Content")


def main(run: RunParams, evaluate: EvaluateParams, launch: LaunchParams) -> Mapping[str, Any]:
    """Measure an export and data/finetune on data/preprocess, and write the report.

    What needs texts is left out, with the reason, where the export has no words.

    Raises:
        StageError: an export, the corpus or its verdict cannot be read, or they do not fit.
    """
    verdict = _read(METRICS_DIR / "validate.json", json.loads, "validate")
    quarantine = _read(PREPROCESS_DIR / QUARANTINE_NAME, _parse_lines, "preprocess")
    torch.set_num_threads(launch.threads_per_process)
    embedder, tasks = load_networks(evaluate.model, FINETUNE_DIR)
    params, subset = embedder.exported.params, Subset(evaluate.max_train_clips, run.seed)
    store, observers = FeatureStore(FEATURES_DIR), list_observers(embedder, tasks)
    reader = SplitReader(PREPROCESS_DIR, params.clip, evaluate, store, launch, subset)
    conditions = list_conditions(PREPROCESS_DIR, evaluate, launch)
    if launch.launcher != "local" or launch.num_processes > 1:
        _observe_by_ranks(run, reader, Path(embedder.name), observers)
    seen, entries, inner = _see_splits(reader, observers, tasks)
    comparison = compare_networks(*seen, entries, evaluate.lrc_steps, evaluate.probe_tasks, subset)
    test, index = seen[0]["test"].clips, read_index(PREPROCESS_DIR, columns=SHOWN)
    numbers = summarise(comparison)
    published = list_published(index["source"].unique(), numbers["retrieval_sources"])
    metrics = {
        **numbers,
        "published": [row._asdict() for row in published],
        "test_data": test.digest,
        "export": embedder.digest,
        "conditions": conditions,
        **_list_left_out(embedder),
    }
    read_frames = open_frame_reader(PREPROCESS_DIR, params.clip, test.rows)
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
        analyses=analyse(comparison, *inner) if inner else (),
    )
    write_report(REPORT_PATH.parent, report)
    print(f"evaluate: {format_headline(metrics)}")
    print(f"evaluate: all numbers are in {METRICS_PATH}, the report is {REPORT_PATH}")
    return metrics


def _observe_by_ranks(
    run: RunParams, reader: SplitReader, export_dir: Path, observers: Observers
) -> None:
    """Let several processes fill the store of the reader, which learns the type of their device.

    None are started where nothing is missing.
    """
    index_digest = digest_index(PREPROCESS_DIR)
    digests = {own.digest for networks in observers.values() for own in networks.values()}
    parts = [index_digest, *sorted(digests), reader.params.model_dump_json()]
    name = name_features(*parts, str(run.seed), reader.launch.precision)
    recipe = EvaluateRecipe(
        run=run,
        clip=reader.clip,
        launch=reader.launch,
        index_digest=index_digest,
        evaluate=reader.params,
        export_dir=export_dir,
        finetune_dir=FINETUNE_DIR,
    )
    directory = FEATURES_DIR / "jobs" / name
    job = EvaluateJob(recipe=recipe, preprocess_dir=PREPROCESS_DIR, directory=directory)
    if job.result_path.is_file():
        reader.device_type = _read_device(job)
    if is_missing(reader, list_to_see(reader, observers)):
        job.result_path.unlink(missing_ok=True)  # else it would say that they are done
        launch_ranks(job)
        reader.device_type = _read_device(job)
    for other in set(directory.parent.glob("*")) - {directory}:
        shutil.rmtree(other)


def _read_device(job: EvaluateJob) -> str:
    return str(json.loads(job.result_path.read_text(encoding="utf-8"))["device_type"])


def _see_splits(
    reader: SplitReader, observers: Observers, tasks: Mapping[TaskName, Finetuned]
) -> tuple[tuple[dict[str, Seen], dict[str, Seen]], dict[str, TaskEntry | Skipped], Inner | None]:
    """Let the network, trained and untrained, see all splits; all others the test split.

    With `evaluate.analyses`, networks are looked into, too.
    """
    trained, untrained = {}, {}
    for split, networks in observers.items():
        is_test = split == "test"
        clips, arrays = read_test(reader, networks) if is_test else reader.read(split, networks)
        trained[split] = Seen(clips, arrays["", "trained"])
        untrained[split] = Seen(clips, arrays["", "untrained"])
    inner = None
    if reader.params.analyses:
        drawn, networks = draw_inner(reader.read_clips("test"), observers["test"])
        inner = drawn, reader.see(drawn, networks)
    reader.store.remove_others()
    entries: dict[str, TaskEntry | Skipped] = {}
    for task, (entry, named) in tasks.items():
        outputs = {name: arrays[task, name] for name in named}
        # Where a split has no clips, networks make nothing.
        logits = {name: made["logits"] for name, made in outputs.items() if made}
        entries[task] = entry if isinstance(entry, Skipped) else entry._replace(logits=logits)
    return (trained, untrained), entries, inner


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
