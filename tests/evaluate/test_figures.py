"""Figures show what the classes are called, and chance where it is."""

import numpy as np

from tests.evaluate.world import compare_alike, describe, make_clips
from vatt.evaluate.features import Seen
from vatt.evaluate.figures import draw_confusion, draw_recall, trace_recall


def test_names_of_classes_are_no_formulas() -> None:
    names = ["$\\foo$", "price $5 or $6", "x_1^{2}"]
    svg = draw_confusion(names, [[2, 1, 0], [0, 3, 0], [1, 0, 4]])
    for name in names:
        assert svg.count(f">{name}</text>") == 2


def test_chance_is_of_the_items_where_each_has_several_queries() -> None:
    """Four clips of three texts each: the first of k of four is right by chance in k / 4."""
    size = 4
    clips = make_clips([f"n{number}" for number in range(size)], [{}] * size, [("p", "q", "r")] * 4)
    items = np.eye(size)[:, None]
    features = dict.fromkeys(("video_vt", "video_va", "audio_va"), items)
    features["text_vt"] = np.eye(size).repeat(3, axis=0)
    indifferent = {**features, "text_vt": np.zeros((3 * size, size))}
    clips = describe(clips)
    comparison = compare_alike(Seen(clips, features), Seen(clips, indifferent))
    pair = comparison.retrieval["text_to_video"]
    assert len(pair.trained.better) == 3 * size
    lines = trace_recall(pair)
    assert (lines["k"][0], lines["k"][-1]) == (0, size)
    np.testing.assert_allclose(lines["chance"], lines["k"] / size)
    np.testing.assert_allclose(lines["untrained"], lines["chance"])  # all are tied: it guesses
    np.testing.assert_allclose(lines["trained"], lines["k"].clip(0, 1))
    assert "chance" in draw_recall({"text_to_video": pair})
