"""A trained network beside the same network untrained and beside chance."""

from typing import Any

import numpy as np
import pytest

from tests.evaluate.world import (
    SIZES,
    compare_alike,
    describe,
    make_clips,
    make_entries,
    make_splits,
)
from vatt.evaluate import linear_classifiers
from vatt.evaluate.comparison import compare_networks, summarise
from vatt.evaluate.features import Seen
from vatt.evaluate.results import tabulate_finetuned, tabulate_probes
from vatt.evaluate.retrieval import open_search


def test_only_clips_with_what_is_needed_are_counted(metrics: dict[str, Any]) -> None:
    numbers = np.arange(SIZES["test"])
    has_text, has_sound, has_label = (numbers % every > 0 for every in (7, 5, 9))
    assert metrics["text_to_video_pairs"] == has_text.sum()
    assert metrics["audio_to_video_pairs"] == has_sound.sum()
    assert metrics["chance"]["text_to_video_r10"] == pytest.approx(10 / has_text.sum())
    assert metrics["probes"]["colour"]["video"]["num_test"] == has_label.sum()
    assert metrics["probes"]["colour"]["audio"]["num_test"] == (has_label & has_sound).sum()


def test_the_right_embeddings_are_compared() -> None:
    """Text goes with video in one space, sound with video in the other."""
    size = 6
    same, other = np.eye(size), np.roll(np.eye(size), 1, axis=1)
    clips = make_clips([f"n{number}" for number in range(size)], [{}] * size, [("t",)] * size)
    arrays = {"video_va": other, "audio_va": other, "video_vt": same}
    features = {name: values[:, None] for name, values in arrays.items()} | {"text_vt": same}
    for direction in ("text_to_video", "audio_to_video"):
        assert open_search(direction, Seen(clips, features)).rank().better.sum() == 0
    swapped = {**features, "text_vt": other}
    assert open_search("text_to_video", Seen(clips, swapped)).rank().better.tolist() == [1] * size


def test_each_of_several_descriptions_is_a_query_and_a_cut_file_is_one_item() -> None:
    """Two files, the second of two segments with the same three descriptions."""
    names = ["a.mp4, 0 s", "b.mp4, 0 s", "b.mp4, 10 s"]
    texts = [("p", "q"), ("r", "s", "t"), ("r", "s", "t")]
    clips = describe(make_clips(names, [{}] * 3, texts, places=(0.0, 1.0)))
    left, right = [1.0, 0.0], [0.0, 1.0]
    videos = np.array([[left, left], [left, right], [right, right]])  # of b, the ends count
    queries = np.array([left, right, left, right, right, [9, 9], [9, 9], [9, 9]])
    features = {"video_vt": videos, "text_vt": queries, "video_va": videos, "audio_va": videos}
    search = open_search("text_to_video", Seen(clips, features))
    assert (search.texts, search.samples) == (["p", "q", "r", "s", "t"], [[0], [1, 2]])
    assert search.right.tolist() == [0, 0, 1, 1, 1]
    assert search.videos == 2 * ["demo/a.mp4"] + 3 * ["demo/b.mp4"]
    assert search.rank().better.tolist() == [0, 1, 1, 0, 0]
    metrics = summarise(compare_alike(Seen(clips, features)))
    assert (metrics["text_to_video_pairs"], metrics["text_to_video_items"]) == (5, 2)
    assert metrics["text_to_video_r1"] == pytest.approx(3 / 5)
    assert metrics["chance"]["text_to_video_r1"] == 1 / 2


def test_what_is_not_as_the_papers_search_is_noted() -> None:
    """Two sources, one of them with two parts of a file."""
    names = ["one/a.mp4, 0 s", "two/b.mp4, 0 s", "two/b.mp4, 10 s"]
    clips = describe(make_clips(names, [{}] * 3, [("p",), ("q",), ("r", "s")]))
    spaces = ("video", "audio", "video_vt", "video_va", "audio_va")
    features = {**dict.fromkeys(spaces, np.eye(3)[:, None]), "text_vt": np.eye(4)[:, :3]}
    metrics = summarise(compare_alike(Seen(clips, features)))
    assert metrics["retrieval_sources"] == {"one": 1, "two": 3}
    sources, parts = metrics["retrieval_notes"]
    assert "2 sources" in sources
    assert "parts of one video" in parts


def test_the_trained_network_is_above_the_untrained(metrics: dict[str, Any]) -> None:
    for name in ("text_to_video", "audio_to_video"):
        assert metrics[f"{name}_r10"] > metrics["untrained"][f"{name}_r10"] + 0.2
        assert metrics[f"{name}_median_rank"] < metrics["untrained"][f"{name}_median_rank"]
    for modalities in metrics["probes"].values():
        for result in modalities.values():
            assert result["accuracy"] > result["untrained"] + 0.2


def test_an_unlabelled_test_split_is_skipped_with_the_reason() -> None:
    pairs = make_splits()
    for splits in pairs:
        seen = splits["test"]
        splits["test"] = seen._replace(clips=describe(seen.clips, labels="{}"))
    probes = summarise(compare_networks(*pairs))["probes"]
    assert probes["colour"]["audio"] == {"reason": "no clips in the test split"}


def test_linear_classifiers_can_be_limited_to_some_labels() -> None:
    splits = make_splits()
    entries = make_entries(splits[0]["test"].clips)  # the task video has the label colour
    some = summarise(compare_networks(*splits, entries, probe_tasks=["action", "absent"]))
    assert set(some["probes"]) == {"absent", "action"}
    reason = {"reason": "needs 2 classes in the train split, found 0"}
    assert some["probes"]["absent"] == {"video": reason, "audio": reason}
    assert some["probes"]["action"]["video"]["num_test"] > 0
    assert some["finetuned"]["video"]["linear_probe"] is None
    none = summarise(compare_networks(*splits, entries, probe_tasks=[]))
    assert none["probes"] == {}
    everything = summarise(compare_networks(*splits, entries))
    assert set(everything["probes"]) == {"action", "colour"}
    for name in ("accuracy", "scratch", "untrained"):
        assert none["finetuned"]["video"][name] == everything["finetuned"]["video"][name]


def test_linear_classifiers_that_were_cut_short_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = make_splits()
    entries = make_entries(splits[0]["test"].clips)
    metrics = summarise(compare_networks(*splits, entries))
    assert "cut_short" not in str(metrics)
    assert not tabulate_probes(metrics).notes
    monkeypatch.setattr(linear_classifiers, "MAX_ITERATIONS", 1)
    metrics = summarise(compare_networks(*splits, entries))
    counts = metrics["probes"]["action"]["video"]["fits_cut_short"]
    assert counts == {"trained": 4, "untrained": 4}  # one for each regularisation to choose from
    assert metrics["probes"]["action"]["video"]["svm"]["fits_cut_short"]["trained"] == 3
    (note,) = [own for own in tabulate_probes(metrics).notes if "action from video, log" in own]
    assert note.endswith("fits that did not converge: 4 on trained and 4 on untrained features.")
    assert metrics["finetuned"]["video"]["linear_probe_fits_cut_short"] == 4
    assert "video, linear: fits that did not converge: 4." in tabulate_finetuned(metrics).notes
