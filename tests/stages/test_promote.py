import json
from pathlib import Path
from typing import Any

import pytest

import vatt
from tests.evaluate.world import compare_alike, make_clips
from tests.stages.conftest import EVALUATE, EXPORTED, export, run_evaluate
from tests.train.corpus import LAUNCH
from vatt.core.errors import StageError
from vatt.core.files import write_json
from vatt.evaluate.comparison import summarise
from vatt.evaluate.features import Seen
from vatt.params import DownloadParams, FolderSource, PromoteParams
from vatt.stages.promote import main
from vatt.weights.registry import digest_export, read_champion

EXPORT_DIR = Path("data/pretrain")
DOWNLOAD = DownloadParams(sources=(FolderSource(kind="folder", name="mine", url="data/inbox"),))
NOTHING_ELSE = summarise(compare_alike(Seen(make_clips([], [], []), {})))


def write_evaluation(value: float, test_data: str = "same", **rivals: dict[str, float]) -> None:
    origin = {"test_data": test_data, "export": digest_export(EXPORT_DIR), **rivals}
    write_json(
        Path("metrics/evaluate.json"), {**NOTHING_ELSE, "audio_to_video_r1": value, **origin}
    )


def promote(
    value: float | None = None, test_data: str = "same", tolerance: float = 0.0
) -> dict[str, Any]:
    """Promote, after an evaluation with this value, or after none."""
    if value is not None:
        write_evaluation(value, test_data)
    params = PromoteParams(metric="audio_to_video_r1", tolerance=tolerance)
    return dict(main(DOWNLOAD, EVALUATE, params, LAUNCH))


def champion_digest() -> str:
    champion = read_champion()
    assert champion is not None
    assert digest_export(champion.path) == champion.record.export_digest
    return champion.record.export_digest


def test_champions_follow_one_another(project: Path) -> None:
    first = digest_export(EXPORT_DIR)
    assert promote(0.5)["promoted"] is True
    assert champion_digest() == first

    export(EXPORTED, noise=0.02)
    decision = promote(0.4)
    assert (decision["promoted"], decision["challenger"], decision["champion"]) == (False, 0.4, 0.5)
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


def test_on_other_test_data_the_champion_is_measured_again(project: Path) -> None:
    """The champion's old number is far above what it really has; it must not count."""
    promote(1.0, "an older test split")
    measured = run_evaluate()["audio_to_video_r1"]
    champion = digest_export(EXPORT_DIR)
    wider = EXPORTED.model.model_copy(update={"space_va_width": 40})
    export(EXPORTED.model_copy(update={"model": wider}))

    decision = promote(measured - 0.1, "now")
    assert decision["champion"] == measured < 1.0
    assert decision["promoted"] is False
    assert champion_digest() == champion
    assert promote(measured, "now")["promoted"] is True


def test_a_champion_that_cannot_see_this_data_stays_and_says_why(project: Path) -> None:
    export(EXPORTED.model_copy(update={"frame_rate_hz": 10.0}))
    promote(0.1, "faster")
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
