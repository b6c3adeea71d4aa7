"""Stage `evaluate`: retrieval, linear classifiers, fine-tuned networks, the report."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vatt.core.errors import StageError
from vatt.corpus.index import QUARANTINE_NAME, read_index
from vatt.evaluate.comparison import Split, compare_networks, summarise
from vatt.evaluate.examples import open_frame_reader, pick_examples
from vatt.evaluate.features import FeatureStore, SplitReader
from vatt.evaluate.figures import draw_figures, read_curves
from vatt.evaluate.finetuned import TaskEntry
from vatt.evaluate.networks import Arrays, Embedder, Labeller, Observer, place
from vatt.evaluate.probes import Skipped
from vatt.evaluate.published import list_published
from vatt.evaluate.report import Report, write_report
from vatt.evaluate.summary import REPORT_PATH, format_summary
from vatt.evaluate.tables import read_studies
from vatt.loading.tasks import TaskInput
from vatt.params import SKIPPED, TASKS, EvaluateParams
from vatt.weights.export import ExportedClassifierParams, build_untrained
from vatt.weights.inference import Exported, load, load_classifier
from vatt.weights.registry import digest_export, read_code_version

PREPROCESS_DIR = Path("data/preprocess")
EXPORT_DIR = Path("data/pretrain")
FINETUNE_DIR = Path("data/finetune")
FEATURES_DIR = Path(".cache/evaluate")
METRICS_DIR = Path("metrics")
VERDICT_PATH = METRICS_DIR / "validate.json"
TUNE_DIR = Path("data/tune")
FEATURES_OF = {"video": "video", "audio": "audio", "image": "video", "audio_visual": "audio_visual"}
"""Of the pre-trained network, for the linear probe of a task."""
Content = TypeVar("Content")


class Tuned(NamedTuple):
    """What was fine-tuned to a task: `model`, `untrained` and perhaps `scratch`."""

    params: ExportedClassifierParams
    labellers: dict[str, Labeller]


def main(evaluate: EvaluateParams) -> Mapping[str, Any]:
    """Measure data/pretrain and data/finetune on data/preprocess, write the report, print the results.

    Raises:
        StageError: an export, the corpus or its verdict cannot be read, or they do not fit.
    """
    verdict = _read(VERDICT_PATH, json.loads, "validate")
    quarantine = _read(PREPROCESS_DIR / QUARANTINE_NAME, _parse_lines, "preprocess")
    exported = load(EXPORT_DIR)
    tasks: dict[str, Tuned | Skipped] = {task: _load_task(FINETUNE_DIR / task) for task in TASKS}
    tuned = {task: found for task, found in tasks.items() if isinstance(found, Tuned)}
    splits, logits = _read_splits(exported, evaluate, tuned)
    entries = {
        task: _describe(task, found.params, logits[task]) if isinstance(found, Tuned) else found
        for task, found in tasks.items()
    }
    comparison = compare_networks(splits, entries, evaluate.lrc_steps, evaluate.probe_tasks)
    test, index = splits["test"].clips, read_index(PREPROCESS_DIR)
    numbers = summarise(comparison)
    published = list_published(index["source"].unique(), numbers["retrieval_sources"])
    metrics = {
        **numbers,
        "published": [row._asdict() for row in published],
        "test_data": test.digest,
        "export": digest_export(EXPORT_DIR),
    }
    read_frames = open_frame_reader(PREPROCESS_DIR, exported.params.clip, "test")
    examples = pick_examples(test, comparison.retrieval["text_to_video"], read_frames)
    report = Report(
        metrics=metrics,
        figures=draw_figures(comparison, read_curves(METRICS_DIR)),
        studies=read_studies(TUNE_DIR),
        examples=examples,
        index=index,
        quarantine=quarantine,
        verdict=verdict,
        parameters={
            **exported.params.model_dump(mode="json"),
            "evaluate": evaluate.model_dump(mode="json"),
        },
        model=exported.model,
        clip=exported.params.clip,
        code_version=read_code_version(),
    )
    write_report(REPORT_PATH.parent, report)
    print(f"{format_summary(metrics)}\n\nReport: {REPORT_PATH}")
    return metrics


def _read_splits(
    exported: Exported, params: EvaluateParams, tuned: Mapping[str, Tuned]
) -> tuple[dict[str, Split], dict[str, dict[str, Arrays]]]:
    """Let the network, before and after pre-training, see all splits; all others the test split."""
    digest = digest_export(EXPORT_DIR)
    networks = {digest: exported.model, f"{digest} untrained": build_untrained(exported.params)}
    clip, rate = exported.params.clip, exported.params.frame_rate_hz
    pretrained = [
        Embedder(place(network), exported.tokenizer, clip, rate, name, str(EXPORT_DIR))
        for name, network in networks.items()
    ]
    store = FeatureStore(FEATURES_DIR)
    reader = SplitReader(PREPROCESS_DIR, clip, params, store)
    labellers = [labeller for found in tuned.values() for labeller in found.labellers.values()]
    splits = {}
    others: list[Arrays] = []
    for name in ("train", "validation", "test"):
        observers: list[Observer] = [*pretrained, *(labellers if name == "test" else [])]
        clips, (trained, untrained, *others) = reader.read(name, observers)
        splits[name] = Split(clips, trained, untrained)
    store.remove_others()
    logits = iter(others)
    return splits, {
        task: {name: next(logits) for name in found.labellers} for task, found in tuned.items()
    }


def _load_task(folder: Path) -> Tuned | Skipped:
    """Load the networks of a task, or say why there are none.

    Raises:
        StageError: the folder is not as the stage finetune leaves it.
    """
    if (folder / SKIPPED).is_file():
        content = _read(folder / SKIPPED, json.loads, f"finetune {folder.name}")
        return Skipped(content["reason"])
    if not folder.is_dir():
        return Skipped("was not fine-tuned")
    paths = [folder / name for name in ("model", "scratch") if (folder / name).is_dir()]
    if folder / "model" not in paths:
        raise StageError(f"{folder}: has no model; run `python -m vatt finetune {folder.name}`")
    classifiers = {path.name: load_classifier(path) for path in paths}
    params = classifiers["model"].params
    digests = {path.name: digest_export(path) for path in paths}
    networks = {name: classifier.model for name, classifier in classifiers.items()}
    networks["untrained"] = build_untrained(params)
    digests["untrained"] = f"{digests['model']} untrained"
    if params.task_name is None or params.clip is None:
        raise StageError(f"{folder}: the network was not fine-tuned by the stage finetune")
    wanted, rate = (
        TaskInput(params.task_name, params.clip, params.audio_stride),
        params.frame_rate_hz,
    )
    labellers = {
        name: Labeller(
            place(network), wanted, network.modalities, rate, digests[name], str(folder / name)
        )
        for name, network in networks.items()
    }
    return Tuned(params, labellers)


def _describe(
    task: str, params: ExportedClassifierParams, outputs: Mapping[str, Arrays]
) -> TaskEntry:
    """Return what is measured; of a test split without clips, networks made nothing."""
    return TaskEntry(
        task=task,
        label=params.label or "",
        modality=FEATURES_OF[task],
        is_multi_label=params.classifier.is_multi_label,
        classes=params.classes or (),
        logits={name: arrays["logits"] for name, arrays in outputs.items() if arrays},
        initial=_name_start(params.initial_digest),
    )


def _name_start(digest: str | None) -> str:
    """Say what fine-tuning started from, by the digest of that export."""
    if digest is None:
        return "random weights"
    return "this network" if digest == digest_export(EXPORT_DIR) else "other weights"


def _read(path: Path, parse: Callable[[str], Content], stage: str) -> Content:
    """Return what a stage before wrote.

    Raises:
        StageError: it is missing or damaged.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = f"cannot be read: {error}; run `python -m vatt {stage}` first"
        raise StageError(f"{path}: {reason}") from error


def _parse_lines(text: str) -> list[dict[str, Any]]:
    # Only newlines end a line: names may hold other line ends.
    return [json.loads(line) for line in text.split("\n") if line]
