"""Any export through `evaluate`, `promote` and `finetune`: imported, the champion, a wrong one."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import vatt
from tests.stages.conftest import EVALUATE, LETTER, ROOT, run_evaluate, run_module, sections
from tests.train.corpus import LAUNCH
from tests.weights.test_import_tf import CHECKPOINTS, OPTIONS
from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.model.stem import spline_matrix
from vatt.model.towers import collect_weights
from vatt.params import DownloadParams, FolderSource, PromoteParams
from vatt.stages import finetune, promote
from vatt.weights.export import ExportedParams, build_untrained, read_params, save_export
from vatt.weights.import_tf import import_checkpoint
from vatt.weights.registry import digest_export

WORDS, EVALUATION = Path("words.txt"), Path("metrics/evaluate.json")
TEXT_NUMBERS = ("r1", "r5", "r10", "median_rank")


def import_original(name: str, out: Path, vocabulary: Path | None = None) -> Path:
    """Import a small checkpoint that TensorFlow wrote, as for a corpus at 5 Hz."""
    words = [
        "<pad>",
        "<unk>",
        "it",
        "begins",
        "goes",
        "on",
        *(f"w{number}" for number in range(44)),
    ]
    WORDS.write_text("\n".join(words) + "\n")
    options = OPTIONS.model_copy(update={"frame_rate_hz": 5.0, "vocabulary": vocabulary})
    import_checkpoint(CHECKPOINTS / name, out, options)
    return out


def evaluate(model: Path | str, **updates: Any) -> dict[str, Any]:
    return dict(run_evaluate(EVALUATE.model_copy(update={"model": str(model), **updates})))


def promote_model(model: Path | str, metric: str) -> dict[str, Any]:
    download = DownloadParams(sources=(FolderSource(kind="folder", name="mine", url="inbox"),))
    params = PromoteParams.model_validate({"metric": metric, "tolerance": 0.0})
    evaluated = EVALUATE.model_copy(update={"model": str(model)})
    return dict(promote.main(download, evaluated, params, LAUNCH))


@pytest.mark.parametrize("name", ["ms", "ma"])
def test_an_imported_checkpoint_is_measured_with_and_without_its_words(
    project: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Without words all numbers stay, but those of texts, which are left out by name."""
    shutil.rmtree("data/pretrain")  # nothing is needed of it
    whole = evaluate(import_original(name, Path("whole"), WORDS))
    assert (whole["text_to_video_pairs"], whole["audio_to_video_pairs"]) == (4, 3)
    assert whole["export"] == digest_export(Path("whole"))
    assert "left_out" not in whole
    page = Path("data/evaluate/report.html").read_text()
    assert "No training curve of this network was found" in page  # there is one of another
    assert "left out" not in capsys.readouterr().out

    wordless = evaluate(import_original(name, Path("elsewhere/wordless")))
    reason = wordless["left_out"].pop("text_to_video")
    assert "imported without its vocabulary" in reason
    assert not wordless["left_out"]
    assert [wordless[f"text_to_video_{key}"] for key in TEXT_NUMBERS] == [None] * 4
    for key in ("probes", *(f"audio_to_video_{key}" for key in TEXT_NUMBERS)):
        assert wordless[key] == whole[key] is not None
    assert wordless["untrained"]["audio_to_video_r1"] == whole["untrained"]["audio_to_video_r1"]
    page = Path("data/evaluate/report.html").read_text()
    assert f"Nothing to measure: {reason}" in page
    assert f"evaluate: text to video is left out: {reason}" in capsys.readouterr().out


def test_beside_an_imported_network_stands_one_of_its_own_configuration(project: Path) -> None:
    folder = import_original("ms", Path("imported"), WORDS)
    params = read_params(folder)
    assert isinstance(params, ExportedParams)
    save_export(Path("random"), build_untrained(params), params, WORDS)
    untrained, numbers = evaluate("random"), evaluate(folder)["untrained"]
    assert {name: untrained[name] for name in numbers} == numbers


def test_the_champion_is_measured_as_the_model_that_it_was(project: Path) -> None:
    with pytest.raises(
        StageError, match=r"^evaluate\.model = champion: .*there is no champion yet"
    ):
        evaluate("champion")
    first = evaluate("data/pretrain")
    registry = Path("data/promote/champion")
    shutil.copytree("data/pretrain", registry)
    (registry / "record.json").write_text("{}")  # stands beside the export, is no part of it
    assert evaluate("champion") == first


def test_an_imported_network_becomes_the_champion_by_what_is_measured(project: Path) -> None:
    metrics = evaluate(import_original("ms", Path("imported")))
    best = {"audio_to_video_r1": 1.0}
    write_json(EVALUATION, {**metrics, "chance": {**metrics["chance"], "audio_to_video_r1": 0.3}})
    refused = promote_model("imported", "text_to_video_r10")
    assert not refused["promoted"]
    assert refused["reason"].startswith("no text_to_video_r10: this model was imported without its")
    with pytest.raises(StageError, match="is of another model"):
        promote_model("data/pretrain", "audio_to_video_r1")
    write_json(EVALUATION, {**metrics, **best})
    decision = promote_model("imported", "audio_to_video_r1")
    assert decision["promoted"]
    assert vatt.load("champion").params == read_params(Path("imported"))
    card = Path("data/promote/champion/README.md").read_text()
    assert "Not trained here: the weights were imported." in card
    assert "Not shown: text to video: this model was imported without its vocabulary" in card
    assert promote_model("champion", "audio_to_video_r1") == decision


def test_a_champion_without_words_gives_way_where_texts_are_asked_for(project: Path) -> None:
    wordless = evaluate(import_original("ms", Path("imported")))
    chance = {**wordless["chance"], "audio_to_video_r1": 0.3}
    write_json(EVALUATION, {**wordless, "chance": chance, "audio_to_video_r1": 1.0})
    assert promote_model("imported", "audio_to_video_r1")["promoted"]

    metrics, metric = evaluate("data/pretrain"), "text_to_video_r1"
    write_json(EVALUATION, {**metrics, metric: metrics["chance"][metric]})
    refused = promote_model("data/pretrain", metric)
    assert (refused["promoted"], "is not above" in refused["reason"]) == (False, True)
    rivals = {"untrained": {**metrics["untrained"], metric: 0.3}}
    write_json(EVALUATION, {**metrics, **rivals, metric: 0.5})
    decision = promote_model("data/pretrain", metric)
    reason = "the champion has no text_to_video_r1: this model was imported without its vocabulary"
    assert decision["reason"].startswith(reason)
    assert (decision["promoted"], decision["champion"]) == (True, None)
    assert vatt.load("champion").params == read_params(Path("data/pretrain"))


@pytest.mark.parametrize("change", ["missing", "empty", "cut off", "pickle", "yaml", "classifier"])
def test_what_is_no_export_is_refused_by_name(project: Path, change: str) -> None:
    """Weights and parameters of strangers are data: nothing of them is ever run."""
    folder, weights = Path("given"), Path("given/model.safetensors")
    if change != "missing":
        shutil.copytree("data/pretrain", folder)
    match change:
        case "empty":
            weights.unlink()
        case "cut off":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "pickle":
            weights.write_bytes(pickle.dumps(Harm()))
        case "yaml":
            path = folder / "params.yaml"
            path.write_text(f"!!python/object/apply:pathlib.Path.touch [harm]\n{path.read_text()}")
        case "classifier":
            shutil.rmtree(folder)
            run_module(
                "vatt", "import-tf", str(CHECKPOINTS / "cls_vit"), "given", "--head-width", "8"
            )
    expected = {
        "missing": "given: is not an export: there is no such folder",
        "empty": "given: is not an export: it has no model.safetensors",
        "cut off": "given/model.safetensors: is not a safetensors file, or is damaged",
        "pickle": "given/model.safetensors: is not a safetensors file, or is damaged",
        "yaml": "given/params.yaml: cannot be read",
        "classifier": "given: is a classifier",
    }
    with pytest.raises(StageError, match=f"^evaluate.model = given: {expected[change]}"):
        evaluate("given")
    assert not Path("harm").exists()
    assert not Path("data/evaluate").exists()


class Harm:
    """What a pickle runs while it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def test_the_commands_that_import_and_measure(project: Path) -> None:
    settings = (ROOT / "params.yaml").read_text()
    Path("params.yaml").write_text(settings.replace("model: data/pretrain", "model: given"))
    command = ("vatt", "import-tf", str(CHECKPOINTS / "ma"), "given", "--head-width", "8")
    run_module(*command)  # at 10 Hz, as the original
    problem = run_module("vatt", "evaluate", check=False)
    message = "has video at 5 frames per second, the network given was trained at 10: preprocess."
    assert problem.returncode == 1
    assert message in problem.stderr
    shutil.rmtree("given")
    run_module(*command, "--frame-rate", "5")
    printed = run_module("vatt", "evaluate").stdout
    assert "text to video is left out: this model was imported without its vocabulary" in printed
    metrics = json.loads(EVALUATION.read_text())
    assert metrics["audio_to_video_pairs"] == 3
    assert metrics["left_out"].keys() == {"text_to_video"}


def test_fine_tuning_starts_from_an_imported_network(project: Path) -> None:
    """With a schedule that hardly moves, its towers are the result, but for longer positions."""
    folder = import_original("ms", Path("imported"))
    crawl = LETTER.schedule.model_copy(update={"learning_rate": 1e-12}).model_dump()
    task = sections("audio_visual", schedule=crawl, initial_weights=str(folder))
    finetune.main(**task)
    original = vatt.load(folder).model
    network = vatt.load_classifier("data/finetune/audio_visual/model").model
    for tower, source in zip(network.towers, (original.video, original.audio), strict=True):
        expected = collect_weights(source)
        for name, weight in collect_weights(tower).items():
            own = expected[name].double()
            if ".tables." in name and len(own) != len(weight):
                own = spline_matrix(len(own), len(weight)) @ own
            torch.testing.assert_close(weight, own.float(), rtol=0, atol=1e-6)
    assert evaluate(folder)["finetuned"]["audio_visual"]["initial"] == "this network"
    assert evaluate("data/pretrain")["finetuned"]["audio_visual"]["initial"] == "other weights"
    with pytest.raises(StageError, match=r"^finetune\.video\.initial_weights = nowhere: "):
        finetune.main(**sections("video", initial_weights="nowhere"))
