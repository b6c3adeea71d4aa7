"""Stage `evaluate`: retrieval, linear classifiers, fine-tuned networks, the report."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from vatt.data.index import QUARANTINE_NAME, read_index
from vatt.data.labelled_loader import TaskInput
from vatt.evaluation.comparison import Split, compare_networks, summarise
from vatt.evaluation.finetuned import TaskEntry
from vatt.evaluation.linear.probe import Skipped
from vatt.evaluation.measures.published import list_published
from vatt.evaluation.reading.features import SplitReader
from vatt.evaluation.reading.networks import Arrays, Embedder, Labeller, Observer
from vatt.evaluation.reading.store import FeatureStore
from vatt.evaluation.report.examples import open_frame_reader, pick_examples
from vatt.evaluation.report.figures import draw_figures, read_curves
from vatt.evaluation.report.page import Report, write_report
from vatt.evaluation.report.tuning import read_studies
from vatt.evaluation.summary import REPORT_PATH, format_summary
from vatt.interop.classifier import (
    ExportedClassifierParams,
    build_untrained_classifier,
    load_classifier,
)
from vatt.interop.export import Exported, build_untrained, load
from vatt.interop.registry import digest_export, read_code_version
from vatt.models.classification.networks import Network
from vatt.params import TASKS, EvaluateParams, StageError

PREPROCESS_DIR = Path("data/preprocess")
EXPORT_DIR = Path("data/pretrain")
FINETUNE_DIR = Path("data/finetune")
FEATURES_DIR = Path(".cache/evaluate")
METRICS_DIR = Path("metrics")
VERDICT_PATH = METRICS_DIR / "validate.json"
TUNE_DIR = Path("data/tune")
SKIPPED_NAME = "skipped.json"
FEATURES_OF = {"video": "video", "audio": "audio", "image": "video", "audio_visual": "audio_visual"}
"""Of the pre-trained network, for the linear probe of a task."""
AnyModule = TypeVar("AnyModule", bound=nn.Module)


class Tuned(NamedTuple):
    """What was fine-tuned to a task: `model`, `untrained` and perhaps `scratch`."""

    params: ExportedClassifierParams
    labellers: dict[str, Labeller]


def main(evaluate: EvaluateParams) -> Mapping[str, Any]:
    """Measure data/pretrain and data/finetune on data/preprocess, write the report, print the results.

    Raises:
        StageError: an export or the corpus cannot be read, or they do not fit.
    """
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
    metrics = {
        **summarise(comparison),
        "published": [row._asdict() for row in list_published(index["source"].unique())],
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
        quarantine=_read_lines(PREPROCESS_DIR / QUARANTINE_NAME),
        verdict=json.loads(VERDICT_PATH.read_text(encoding="utf-8")),
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
        Embedder(_place(network), exported.tokenizer, clip, rate, name)
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
    """Load the networks of a task, or say why there are none."""
    if (folder / SKIPPED_NAME).is_file():
        content = json.loads((folder / SKIPPED_NAME).read_text(encoding="utf-8"))
        return Skipped(content["reason"])
    if not folder.is_dir():
        return Skipped("was not fine-tuned")
    paths = [folder / name for name in ("model", "scratch") if (folder / name).is_dir()]
    classifiers = {path.name: load_classifier(path) for path in paths}
    params = classifiers["model"].params
    digests = {path.name: digest_export(path) for path in paths}
    networks = {name: classifier.model for name, classifier in classifiers.items()}
    networks["untrained"] = build_untrained_classifier(params)
    digests["untrained"] = f"{digests['model']} untrained"
    labellers = {name: _label(network, params, digests[name]) for name, network in networks.items()}
    return Tuned(params, labellers)


def _label(network: Network, params: ExportedClassifierParams, digest: str) -> Labeller:
    """Return a classifier that looks at clips as it was trained to.

    Raises:
        StageError: its parameters do not say how that was.
    """
    if params.task_name is None or params.clip is None:
        raise StageError(f"{FINETUNE_DIR}: the network was not fine-tuned by the stage finetune")
    wanted = TaskInput(params.task_name, params.clip, params.audio_stride)
    return Labeller(_place(network), wanted, network.modalities, params.frame_rate_hz, digest)


def _describe(
    task: str, params: ExportedClassifierParams, outputs: Mapping[str, Arrays]
) -> TaskEntry:
    return TaskEntry(
        task=task,
        label=params.label or "",
        modality=FEATURES_OF[task],
        is_multi_label=params.classifier.is_multi_label,
        classes=params.classes or (),
        logits={name: arrays["logits"] for name, arrays in outputs.items()},
    )


def _place(network: AnyModule) -> AnyModule:
    """Move a network to where it is fastest."""
    return network.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
