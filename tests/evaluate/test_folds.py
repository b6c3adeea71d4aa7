"""Folds of a data set: what is learnt from and measured on, whatever the split is."""

import numpy as np

from tests.evaluate.world import describe, make_clips
from vatt.evaluate.clips import Seen
from vatt.evaluate.probes import build_folds

SPLITS = ("train", "validation", "test")
PLACES = (0.5, 0.0, 1.0)
"""The middle, then two windows spread over a clip."""


def see(names: list[str], labels: list[dict[str, list[str]]]) -> Seen:
    """The features of a window are the number of the clip and the place of the window."""
    clips = make_clips([f"one/{name}" for name in names], labels, [()] * len(names), places=PLACES)
    values = np.array([[(number, place) for place in PLACES] for number in range(len(names))])
    return Seen(clips, {"video": values, "audio": -values})


def list_folds(own_fold: int) -> list[str]:
    """Of the fourth fold no clip is there."""
    return [f"{fold}:{'test' if fold == own_fold else 'train'}" for fold in (1, 2, 3, 4)]


def test_every_clip_is_tested_in_its_fold_and_learnt_from_in_the_others() -> None:
    def label(name: str) -> dict[str, list[str]]:
        return {"mine": [name[0]], "fold": list_folds(int(name[1]))}

    names = {"train": ["a2", "b2", "a3"], "validation": [], "test": ["a1", "b1"]}
    splits = {split: see(own, [label(name) for name in own]) for split, own in names.items()}
    rows = [*map(label, names["train"]), {"other": ["c"]}]
    splits["train"] = see([*names["train"], "x"], rows)
    folds = build_folds("mine", "video", splits)
    assert [fold.test.videos for fold in folds] == [
        ["one/a1", "one/b1"],
        ["one/a2", "one/b2"],
        ["one/a3"],
    ]
    assert sorted(folds[1].train.videos) == ["one/a1", "one/a3", "one/b1"]
    assert folds[1].test.labels == [["a"], ["b"]]
    # Learnt from by the middle, measured by the windows spread over the clip.
    assert folds[1].train.features[:, :, 1].tolist() == [[0.5]] * 3
    assert folds[1].test.features[:, :, 1].tolist() == [[0.0, 1.0]] * 2
    (by_split,) = build_folds("mine", "video", splits, by_split=True)
    assert (by_split.train.videos, by_split.test.videos) == (
        ["one/a2", "one/b2", "one/a3"],
        ["one/a1", "one/b1"],
    )
    (plain,) = build_folds("other", "video", splits)
    assert (plain.train.videos, plain.test.videos) == (["one/x"], [])


def test_features_of_both_modalities_stand_side_by_side() -> None:
    seen = see(["a", "b"], [{"mine": ["p"]}, {"mine": ["q"]}])
    deaf = np.array([True, False])
    seen = seen._replace(clips=describe(seen.clips, has_audio=deaf))
    (fold,) = build_folds("mine", "audio_visual", dict.fromkeys(SPLITS, seen))
    assert fold.train.videos == ["one/a"]
    assert fold.train.features.tolist() == [[[0, 0.5, 0, -0.5]]]
