import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import vatt
from tests.evaluate.world import compare_alike, make_clips
from tests.stages.conftest import EVALUATE, EXPORTED, change_index, export, run_evaluate
from tests.train.corpus import LAUNCH
from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.corpus.annotated import AnnotatedPart, write_parts
from vatt.evaluate.comparison import summarise
from vatt.evaluate.features import Seen
from vatt.evaluate.networks import Arrays, Embedder
from vatt.evaluate.results import list_conditions
from vatt.loading.loader import Views
from vatt.params import DownloadParams, EvaluateParams, FolderSource, LaunchParams, PromoteParams
from vatt.stages.promote import main
from vatt.weights.registry import digest_export, read_champion

EXPORT_DIR, PREPROCESS_DIR = Path("data/pretrain"), Path("data/preprocess")
DOWNLOAD = DownloadParams(sources=(FolderSource(kind="folder", name="mine", url="data/inbox"),))
NOTHING_ELSE = summarise(compare_alike(Seen(make_clips([], [], []), {})))


def write_evaluation(
    value: float, launch: LaunchParams = LAUNCH, **rivals: dict[str, float]
) -> None:
    conditions = list_conditions(PREPROCESS_DIR, EVALUATE, launch)
    origin = {"test_data": "t", "export": digest_export(EXPORT_DIR), "conditions": conditions}
    content = {**NOTHING_ELSE, "audio_to_video_r1": value, **origin, **rivals}
    write_json(Path("metrics/evaluate.json"), content)


def promote(
    value: float | None = None,
    tolerance: float = 0.0,
    evaluate: EvaluateParams = EVALUATE,
    launch: LaunchParams = LAUNCH,
) -> dict[str, Any]:
    """Promote, after an evaluation with this value, or after none."""
    if value is not None:
        write_evaluation(value, launch)
    params = PromoteParams(metric="audio_to_video_r1", tolerance=tolerance)
    return dict(main(DOWNLOAD, evaluate, params, launch))


def champion_digest() -> str:
    champion = read_champion()
    assert champion is not None
    assert digest_export(champion.path) == champion.record.export_digest
    return champion.record.export_digest


def test_champions_follow_one_another(project: Path) -> None:
    """The champion's old number is far above what it really has; it must not count."""
    first, measured = digest_export(EXPORT_DIR), run_evaluate()["audio_to_video_r1"]
    assert measured < 1
    assert promote(1.0)["promoted"] is True
    assert champion_digest() == first

    wider = EXPORTED.model.model_copy(update={"space_va_width": 40})
    export(EXPORTED.model_copy(update={"model": wider}), noise=0.02)
    decision, value = promote(measured - 0.1), measured - 0.1
    assert (decision["promoted"], decision["challenger"]) == (False, value)
    assert decision["champion"] == measured
    assert champion_digest() == first

    assert promote(tolerance=0.2)["promoted"] is True
    assert champion_digest() == digest_export(EXPORT_DIR) != first


@pytest.mark.parametrize(
    ("chance", "untrained", "reason"),
    [
        (0.25, 0.1, "audio_to_video_r1 0.2500 is not above 0.2500 of chance"),
        (0.1, 0.3, "audio_to_video_r1 0.2500 is not above 0.3000 of the untrained network"),
        (0.3, 0.4, "is not above 0.3000 of chance and 0.4000 of the untrained network"),
        (0.2, 0.2, "there was no champion"),
    ],
)
def test_a_champion_beats_chance_and_the_untrained_network(
    project: Path, chance: float, untrained: float, reason: str
) -> None:
    name = "audio_to_video_r1"
    write_evaluation(0.25, chance={name: chance}, untrained={name: untrained})
    decision = promote()
    assert reason in decision["reason"]
    assert decision["promoted"] == (read_champion() is not None) == (chance == 0.2)
    assert Path("data/promote").is_dir()  # else DVC would end with an error


def test_the_champion_can_be_loaded_and_its_record_tells_its_story(project: Path) -> None:
    promote(0.5)
    assert vatt.load("champion").params == vatt.load(EXPORT_DIR).params
    record = json.loads(Path("data/promote/champion/record.json").read_text())
    assert record["parameters"]["clip"]["num_frames"] == 4
    assert record["metrics"]["audio_to_video_r1"] == 0.5
    assert record["code_version"] == "unknown"  # no repository here
    assert len(record["data_version"]) == 64
    card = Path("data/promote/champion/README.md").read_text()
    assert record["export_digest"][:16] in card
    assert record["test_data"][:16] in card


def test_the_same_export_again_changes_nothing(project: Path) -> None:
    def read_registry() -> dict[Path, tuple[bytes, int]]:
        files = [path for path in Path("data/promote").rglob("*") if path.is_file()]
        return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}

    first, content = promote(0.5), read_registry()
    assert promote() == first
    assert read_registry() == content


def test_the_champion_is_measured_in_the_precision_of_today(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(1.0)
    export(EXPORTED, noise=0.02)
    half, types = LAUNCH.model_copy(update={"precision": "bf16"}), []
    see = Embedder.see

    def spy(self: Embedder, clips: Sequence[Views]) -> Arrays:
        types.append(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None)
        return see(self, clips)

    monkeypatch.setattr(Embedder, "see", spy)
    assert promote(0.0, launch=half)["champion"] < 1
    assert set(types) == {torch.bfloat16}


def test_an_evaluation_under_other_conditions_is_refused(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = EVALUATE.model_copy(update={"lrc_steps": 0, "probe_tasks": ()})

    def evaluate_badly(evaluate: EvaluateParams) -> None:
        metrics = run_evaluate(evaluate)
        write_json(Path("metrics/evaluate.json"), {**metrics, "audio_to_video_r1": 0.0})

    def refuse(message: str, evaluate: EvaluateParams = usual, **launch: str) -> None:
        message = rf"^metrics/evaluate\.json: {message}; run `python -m vatt evaluate` again$"
        with pytest.raises(StageError, match=message):
            promote(evaluate=evaluate, launch=LAUNCH.model_copy(update=launch))

    evaluate_badly(usual)
    others = usual.model_copy(update={"batch_size": 7})  # changes no number
    assert "is not above" in promote(evaluate=others)["reason"]
    others = usual.model_copy(update={"num_windows": 3, "lrc_steps": 9})
    refuse(r"evaluate\.num_windows was 2, is 3; evaluate\.lrc_steps was 0, is 9", others)
    refuse(r"launch\.precision was fp32, is bf16", precision="bf16")
    with monkeypatch.context() as changed:
        changed.setattr("vatt.evaluate.results.CODE", ("media",))
        refuse("the code was [0-9a-f]+, is [0-9a-f]+")
    write_parts(PREPROCESS_DIR, [AnnotatedPart("known", "test/a.mp4", "test", 0, 2, "it begins")])
    change_index("start_s", lambda row: row["start_s"] + 0.1)
    refuse("the corpus was [0-9a-f]+, is [0-9a-f]+; its annotated parts was None, is [0-9a-f]+")
    evaluate_badly(usual)
    assert "is not above" in promote(evaluate=usual)["reason"]


def test_a_champion_that_cannot_see_this_data_stays_and_says_why(project: Path) -> None:
    export(EXPORTED.model_copy(update={"frame_rate_hz": 10.0}))
    promote(0.1)
    export(EXPORTED)
    decision = promote(0.9)
    assert decision["promoted"] is False
    assert "remove data/promote/champion" in decision["reason"]


def test_an_evaluation_of_another_export_is_refused(project: Path) -> None:
    write_evaluation(0.5)
    export(EXPORTED, noise=0.02)
    with pytest.raises(StageError, match=r"metrics/evaluate\.json: is of another model"):
        promote()
    Path("metrics/evaluate.json").unlink()
    with pytest.raises(StageError, match=r"metrics/evaluate\.json: cannot be read"):
        promote()
    assert not Path("data/promote/champion").exists()
