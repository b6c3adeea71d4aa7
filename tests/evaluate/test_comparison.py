import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.evaluate.world import make_clips, make_entries, make_metrics, make_splits
from vatt.core.files import write_json
from vatt.evaluate import summary
from vatt.evaluate.comparison import Split, compare_networks, rank_direction, summarise
from vatt.evaluate.published import list_published
from vatt.evaluate.retrieval import open_search
from vatt.evaluate.summary import format_summary

NUM_TEST = 60


def test_only_clips_with_what_is_needed_are_counted() -> None:
    comparison = compare_networks(make_splits(NUM_TEST))
    metrics = summarise(comparison)
    with_text = sum(number % 7 != 0 for number in range(NUM_TEST))
    with_sound = sum(number % 5 != 0 for number in range(NUM_TEST))
    assert metrics["text_to_video_pairs"] == with_text
    assert metrics["audio_to_video_pairs"] == with_sound
    assert metrics["chance"]["text_to_video_r10"] == pytest.approx(10 / with_text)
    labelled = [number for number in range(NUM_TEST) if number % 9]
    assert metrics["probes"]["colour"]["video"]["num_test"] == len(labelled)
    heard = [number for number in labelled if number % 5]
    assert metrics["probes"]["colour"]["audio"]["num_test"] == len(heard)


def test_the_right_embeddings_are_compared() -> None:
    """Text goes with video in one space, sound with video in the other."""
    size = 6
    same, other = np.eye(size), np.roll(np.eye(size), 1, axis=1)
    clips = make_clips([f"n{number}" for number in range(size)], [{}] * size, [("t",)] * size)
    arrays = {"video_va": other, "audio_va": other, "video_vt": same}
    features = {name: values[:, None] for name, values in arrays.items()} | {"text_vt": same}
    for direction in ("text_to_video", "audio_to_video"):
        assert rank_direction(direction, clips, features).better.sum() == 0
    swapped = {**features, "text_vt": other}
    assert rank_direction("text_to_video", clips, swapped).better.tolist() == [1] * size


def test_each_of_several_descriptions_is_a_query_and_a_cut_file_is_one_item() -> None:
    """Two files, the second of two segments with the same three descriptions."""
    names = ["a.mp4, 0 s", "b.mp4, 0 s", "b.mp4, 10 s"]
    texts = [("p", "q"), ("r", "s", "t"), ("r", "s", "t")]
    clips = make_clips(names, [{}] * 3, texts, places=(0.0, 1.0))
    clips = dataclasses.replace(clips, is_described=np.ones(3, dtype=bool))
    left, right = [1.0, 0.0], [0.0, 1.0]
    videos = np.array([[left, left], [left, right], [right, right]])  # of b, the ends count
    queries = np.array([left, right, left, right, right, [9, 9], [9, 9], [9, 9]])
    features = {"video_vt": videos, "text_vt": queries, "video_va": videos, "audio_va": videos}
    search = open_search("text_to_video", clips, features)
    assert (search.texts, search.samples) == (["p", "q", "r", "s", "t"], [[0], [1, 2]])
    assert search.right.tolist() == [0, 0, 1, 1, 1]
    assert search.videos == ["a.mp4", "a.mp4", "b.mp4", "b.mp4", "b.mp4"]
    ranks = search.rank()
    assert ranks.better.tolist() == [0, 1, 1, 0, 0]
    split = Split(clips, features, features)
    metrics = summarise(compare_networks(dict.fromkeys(("train", "validation", "test"), split)))
    assert (metrics["text_to_video_pairs"], metrics["text_to_video_items"]) == (5, 2)
    assert metrics["text_to_video_r1"] == pytest.approx(3 / 5)
    assert metrics["chance"]["text_to_video_r1"] == 1 / 2


def test_what_is_not_as_the_papers_search_is_noted() -> None:
    """Two sources, one of them with two parts of a file."""
    names = ["one/a.mp4, 0 s", "two/b.mp4, 0 s", "two/b.mp4, 10 s"]
    clips = make_clips(names, [{}] * 3, [("p",), ("q",), ("r", "s")])
    clips = dataclasses.replace(clips, is_described=np.ones(3, dtype=bool))
    seen = np.eye(3)[:, None]
    features = {"video_vt": seen, "text_vt": np.eye(4)[:, :3], "video_va": seen, "audio_va": seen}
    features |= {"video": seen, "audio": seen}
    split = Split(clips, features, features)
    metrics = summarise(compare_networks(dict.fromkeys(("train", "validation", "test"), split)))
    assert metrics["retrieval_sources"] == {"one": 1, "two": 3}
    sources, parts = metrics["retrieval_notes"]
    assert "2 sources" in sources
    assert "parts of one video" in parts


def test_the_trained_network_is_above_the_untrained_in_its_own_fields() -> None:
    metrics = summarise(compare_networks(make_splits(NUM_TEST)))
    for name in ("text_to_video", "audio_to_video"):
        assert metrics[f"{name}_r10"] > metrics["untrained"][f"{name}_r10"] + 0.2
        assert metrics[f"{name}_median_rank"] < metrics["untrained"][f"{name}_median_rank"]
    for modalities in metrics["probes"].values():
        for result in modalities.values():
            assert result["accuracy"] > result["untrained"] + 0.2


def test_an_unlabelled_test_split_is_skipped_with_the_reason() -> None:
    splits = make_splits(NUM_TEST)
    clips = splits["test"].clips
    bare = dataclasses.replace(clips, labels=[{} for _ in clips.labels])
    splits["test"] = splits["test"]._replace(clips=bare)
    probes = summarise(compare_networks(splits))["probes"]
    assert probes["colour"]["audio"] == {"reason": "no clips in the test split"}


def test_linear_classifiers_can_be_limited_to_some_labels() -> None:
    splits = make_splits(NUM_TEST)
    entries = make_entries(splits["test"].clips)  # the task video has the label colour
    some = summarise(compare_networks(splits, entries, probe_tasks=["action", "absent"]))
    assert set(some["probes"]) == {"absent", "action"}
    reason = {"reason": "needs 2 classes in the train split, found 0"}
    assert some["probes"]["absent"] == {"video": reason, "audio": reason}
    assert some["probes"]["action"]["video"]["num_test"] > 0
    assert some["finetuned"]["video"]["linear_probe"] is None
    none = summarise(compare_networks(splits, entries, probe_tasks=[]))
    assert none["probes"] == {}
    everything = summarise(compare_networks(splits, entries))
    assert set(everything["probes"]) == {"action", "colour"}
    for name in ("accuracy", "scratch", "untrained"):
        assert none["finetuned"]["video"][name] == everything["finetuned"]["video"][name]


def test_the_printed_table_is_aligned_and_holds_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    splits = make_splits(NUM_TEST)
    metrics = make_metrics(
        compare_networks(splits, {"video": make_entries(splits["test"].clips)["video"]})
    )
    write_json(tmp_path / "metrics" / "evaluate.json", metrics)
    monkeypatch.chdir(tmp_path)
    summary.main()
    printed = capsys.readouterr().out
    assert "Report: data/evaluate/report.html" in printed
    lines = [line for line in printed.splitlines() if "." in line and "Report" not in line]
    assert len(lines) == 2 * 4 + 4 * 2 + 2
    assert max(map(len, printed.splitlines())) <= 100
    table, (values, ends) = lines[:-2], lines[-2:]
    assert len({line.index(".") for line in table}) == 1
    key = "text_to_video_r10"
    shown = [f"{100 * metrics[key]:.1f}%"]
    shown += [show_ends(metrics["intervals"][key]), f"{100 * metrics['untrained'][key]:.1f}%"]
    shown += [show_ends(metrics["untrained_intervals"][key])]
    assert next(line for line in table if "R@10" in line).split()[1:5] == shown
    probe = metrics["probes"]["colour"]["audio"]["svm"]
    row = table[[line.strip()[:18] for line in table].index("colour, from audio") + 1]
    assert row.split()[2] == show_ends(probe["interval"])
    assert row.split()[4] == show_ends(probe["untrained_interval"])
    task = metrics["finetuned"]["video"]
    names = ("accuracy", "linear_probe", "scratch", "untrained", "chance")
    assert values.split()[3:] == [f"{100 * task[name]:.1f}%" for name in names]
    shown = [show_ends(task[f"{name}_interval"]) for name in names[1:-1]]
    assert ends.split()[-4:] == [show_ends(task["interval"]), *shown]
    assert "x chance" in printed


def show_ends(interval: tuple[float, float]) -> str:
    return "–".join(f"{100 * end:.1f}" for end in interval)


def test_published_numbers_are_printed_as_the_papers_print_them() -> None:
    metrics = make_metrics(compare_networks(make_splits(NUM_TEST)))
    rows = list_published(["audioset", "kinetics400"], ["youcook2"])
    metrics["published"] = [row._asdict() for row in rows]
    printed = " ".join(format_summary(metrics).split())
    for shown in (
        "audioset, audio, VATT-Base d-prime, mean of classes 2.895",
        "audioset, audio, VATT-MA-Medium d-prime, mean of classes 2.884",
        "audioset, audio, VATT-Base AUC 97.1%",
        "kinetics400, video, VATT-Large top-5 95.5%",
        "youcook2, text to video, VATT-MBS median rank 13.0",
    ):
        assert shown in printed


def test_without_an_evaluation_it_says_what_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="is missing: the stage evaluate makes it"):
        summary.main()


def test_the_table_of_an_empty_test_split_says_so() -> None:
    metrics = make_metrics(compare_networks(make_splits(0)))
    table = format_summary(metrics)
    assert table.count("nothing to measure") == 2
    assert table.count("skipped: no clips in the test split") == 4
