from pathlib import Path

import pytest

from tests.stages.conftest import EVALUATE, EXPORTED, export
from vatt.params import StageError
from vatt.stages.evaluate import main


def read_outputs() -> dict[str, bytes]:
    root = Path("data/evaluate")
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.*")}


def test_it_measures_what_can_be_measured_and_reports_it(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = main(EVALUATE)
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
    assert "text to video" in printed
    assert printed.rstrip().endswith("data/evaluate/report.html")
    outputs = read_outputs()
    assert {"report.html", "figures/curves.svg", "figures/recall.svg"} <= set(outputs)
    page = outputs["report.html"].decode()
    for shown in ("it goes on", "HTTP 404", "data:image/png;base64,", metrics["test_data"]):
        assert shown in page


def test_it_gives_the_same_bytes_twice(project: Path) -> None:
    first, outputs = main(EVALUATE), read_outputs()
    assert main(EVALUATE) == first
    assert read_outputs() == outputs


def test_an_untrained_export_is_as_good_as_the_untrained_network(project: Path) -> None:
    export(EXPORTED, noise=0.0)
    metrics = main(EVALUATE)
    assert {name: metrics[name] for name in metrics["untrained"]} == metrics["untrained"]
    for result in metrics["probes"]["letter"].values():
        assert result["accuracy"] == result["untrained"]


def test_the_digest_of_the_test_data_does_not_depend_on_the_model(project: Path) -> None:
    first = main(EVALUATE)
    wider = EXPORTED.model.model_copy(update={"space_vt_width": 20})
    export(EXPORTED.model_copy(update={"model": wider}))
    second = main(EVALUATE)
    assert first["test_data"] == second["test_data"]
    assert first["export"] != second["export"]
    other_protocol = main(EVALUATE.model_copy(update={"num_windows": 1}))
    assert other_protocol["test_data"] != first["test_data"]


def test_a_corpus_of_another_frame_rate_is_refused(project: Path) -> None:
    export(EXPORTED.model_copy(update={"frame_rate_hz": 10.0}))
    with pytest.raises(StageError, match="at 5 frames per second, the network was trained at 10"):
        main(EVALUATE)
