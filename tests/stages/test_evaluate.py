from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from tests.download.made_files import read_tree
from tests.stages.conftest import EVALUATE, EXPORTED, export, run_evaluate, sections
from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.model.classifier import build_network
from vatt.params import TaskName
from vatt.weights.export import ExportedClassifierParams, save_export
from vatt.weights.initial import Demand, describe_classifier
from vatt.weights.registry import digest_export


def test_it_measures_what_can_be_measured_and_reports_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = run_evaluate(EVALUATE)
    # 4 test segments have a picture and words, 3 of them sound; a wav has neither picture nor words
    assert metrics["text_to_video_pairs"] == 4
    assert metrics["audio_to_video_pairs"] == 3
    assert metrics["chance"]["text_to_video_r1"] == 1 / 4
    assert metrics["chance"]["text_to_video_r10"] == 1
    letters = metrics["probes"]["letter"]
    # The two segments of a.mp4 are one sample: they were one file, and have the same label.
    assert (letters["video"]["num_train"], letters["video"]["num_test"]) == (4, 3)
    assert (letters["audio"]["num_train"], letters["audio"]["num_test"]) == (4, 3)
    assert 0 <= letters["video"]["untrained"] <= 1
    printed = capsys.readouterr().out
    # The tables are printed by `python -m vatt.evaluate.results` alone.
    headline, files = printed.splitlines()
    r10 = [f"{100 * metrics[f'{name}_to_video_r10']:.1f}%" for name in ("text", "audio")]
    assert headline == "evaluate: R@10 text to video {}, R@10 sound to video {}".format(*r10)
    for path in ("metrics/evaluate.json", "data/evaluate/report.html"):
        assert path in files
    outputs = read_tree(Path("data/evaluate"))
    assert {"report.html", "figures/curves.svg", "figures/recall.svg"} <= set(outputs)
    page = outputs["report.html"].decode()
    for shown in ("it goes on", "HTTP 404", "data:image/png;base64,", metrics["test_data"]):
        assert shown in page
    assert run_evaluate(EVALUATE) == metrics
    assert read_tree(Path("data/evaluate")) == outputs


def test_an_untrained_export_is_as_good_as_the_untrained_network(project: Path) -> None:
    export(EXPORTED, noise=0.0)
    metrics = run_evaluate(EVALUATE)
    assert {name: metrics[name] for name in metrics["untrained"]} == metrics["untrained"]
    for result in metrics["probes"]["letter"].values():
        assert result["accuracy"] == result["untrained"]


def test_the_digest_of_the_test_data_does_not_depend_on_the_model(project: Path) -> None:
    first = run_evaluate(EVALUATE)
    wider = EXPORTED.model.model_copy(update={"space_vt_width": 20})
    export(EXPORTED.model_copy(update={"model": wider}))
    second = run_evaluate(EVALUATE)
    assert first["test_data"] == second["test_data"]
    assert first["export"] != second["export"]
    other_protocol = run_evaluate(EVALUATE.model_copy(update={"num_windows": 1}))
    assert other_protocol["test_data"] != first["test_data"]


def write_classifier(
    task_name: TaskName, *, multi_label: bool = False, initial_digest: str | None = None
) -> None:
    """Write data/finetune/<task> as the stage leaves it, with random weights."""
    updates: dict[str, Any] = {"multi_label": multi_label, "audio_stride": 2}
    task = sections(task_name, **updates)["finetune"].params
    clip = EXPORTED.clip.model_copy(update={"num_samples": 36864})  # of every second, whole patches
    demand = Demand(task_name, task, clip, num_classes=2)
    network = describe_classifier(Path("data/pretrain"), EXPORTED.model, demand)
    params = ExportedClassifierParams(
        classifier=network,
        frame_rate_hz=EXPORTED.frame_rate_hz,
        audio_stride=task.audio_stride,
        code_version="0",
        label="letter",
        classes=("a", "b"),
        clip=clip,
        task_name=task_name,
        task=task,
        initial_digest=initial_digest,
    )
    for seed, name in enumerate(("model", "scratch")):
        torch.manual_seed(seed)
        save_export(Path("data/finetune") / task_name / name, build_network(network), params)


def test_fine_tuned_networks_stand_beside_what_they_must_beat(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classifier("video", initial_digest=digest_export(Path("data/pretrain")))
    write_classifier("audio", multi_label=True, initial_digest="of an older export")
    write_classifier("audio_visual")
    write_json(Path("data/finetune/image/skipped.json"), {"reason": "no such labels"})
    finetuned = run_evaluate(EVALUATE)["finetuned"]
    # a.mp4 (two segments), b.mp4, silent.mp4; the sound alone; of the latter two, one each
    assert finetuned.pop("image") == {"skipped": "no such labels"}
    measured = ("num_test", "initial", "measure")
    assert {name: [row[key] for key in measured] for name, row in finetuned.items()} == {
        "video": [3, "this network", "accuracy"],
        "audio": [3, "other weights", "map"],
        "audio_visual": [2, "random weights", "accuracy"],
    }
    for name in ("video", "audio_visual"):
        result = finetuned[name]
        for number in ("accuracy", "scratch", "untrained", "linear_probe", "chance"):
            assert 0 <= result[number] <= 1
    assert f"audio mAP {100 * finetuned['audio']['map']:.1f}%" in capsys.readouterr().out
    page = Path("data/evaluate/report.html").read_text()
    assert "skipped: no such labels" in page
    assert Path("data/evaluate/figures/finetuned_0.svg").is_file()


def test_without_test_clips_all_is_skipped_with_the_reason(project: Path) -> None:
    write_classifier("video")
    index = Path("data/preprocess/index.parquet")
    pq.write_table(pq.read_table(index).filter(pc.field("split") != "test"), index)
    metrics = run_evaluate(EVALUATE)
    assert metrics["text_to_video_pairs"] == 0
    assert metrics["finetuned"]["video"] == {
        "skipped": "no test clip has the modality and a label of the task letter"
    }
    assert metrics["probes"]["letter"]["video"] == {"reason": "no clips in the test split"}


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("metrics/validate.json", "validate"),
        ("data/preprocess/quarantine.jsonl", "preprocess"),
        ("data/finetune/video/model", "finetune video"),
    ],
)
def test_what_a_stage_before_did_not_write_is_named_with_the_stage(
    project: Path, path: str, stage: str
) -> None:
    write_classifier("video")
    Path(path).rename("elsewhere")
    folder = path.removesuffix("/model")
    with pytest.raises(StageError, match=f"^{folder}: .*run `python -m vatt {stage}`"):
        run_evaluate(EVALUATE)


def test_a_corpus_of_another_frame_rate_is_refused(project: Path) -> None:
    export(EXPORTED.model_copy(update={"frame_rate_hz": 10.0}))
    message = "at 5 frames per second, the network data/pretrain was trained at 10"
    with pytest.raises(StageError, match=message):
        run_evaluate(EVALUATE)
