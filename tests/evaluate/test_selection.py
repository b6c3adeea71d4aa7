"""Which clips are read: those that classifiers take of the whole corpus, and no others."""

import random
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.rows import make_segment, write_index
from vatt.corpus.index import read_index
from vatt.corpus.manifest import FOLD_TASK
from vatt.evaluate.features import Clips, Seen
from vatt.evaluate.linear_evaluation import build_folds
from vatt.evaluate.selection import FEATURES, Subset, has_folds, read_rows

SPLITS = ("train", "validation", "test")


def write_random_index(folder: Path, *, folds: bool) -> None:
    """Half of the clips have a colour, half an action, some both; some lack a modality."""
    rng = random.Random(1)
    segments = []
    for number in range(400):
        labels: dict[str, list[str]] = {}
        if rng.random() < 0.5:
            labels["colour"] = [rng.choice("rgb")]
        if rng.random() < 0.5:
            labels["action"] = [rng.choice("abc")]
            if folds:
                fold = rng.randint(1, 3)
                kinds = ["test" if fold == other else "train" for other in (1, 2, 3)]
                labels[FOLD_TASK] = [f"{place}:{kind}" for place, kind in enumerate(kinds, 1)]
        has_video = rng.random() < 0.8
        has_audio = rng.random() < 0.6 or not has_video
        split = rng.choice(("train", "train", "validation", "test"))
        segment = make_segment(
            f"{number:04d}", split, labels, has_video=has_video, has_audio=has_audio
        )
        segments.append(segment)
    write_index(folder, segments)


def see(rows: pd.DataFrame) -> Seen:
    """What a network makes of a clip is its key."""
    values = rows["key"].astype(int).to_numpy(dtype=float)[:, None, None]
    clips = Clips(rows.reset_index(drop=True), [()] * len(rows), (0.5,), "")
    return Seen(clips, {"video": values, "audio": values})


@pytest.mark.parametrize("folds", [False, True])
@pytest.mark.parametrize("max_clips", [None, 7, 1000])
@pytest.mark.parametrize("tasks", [None, ("colour",), ("action", "no such"), ()])
def test_what_is_read_is_what_classifiers_take_of_the_whole_corpus(
    tmp_path: Path, folds: bool, max_clips: int | None, tasks: Collection[str] | None
) -> None:
    write_random_index(tmp_path, folds=folds)
    assert has_folds(tmp_path) == folds
    subset = Subset(max_clips, seed=5)
    read = {split: see(read_rows(tmp_path, split, tasks, subset)) for split in SPLITS}
    whole = {split: see(read_index(tmp_path, split=split)) for split in SPLITS}
    assert len(read["test"].clips.rows) == len(whole["test"].clips.rows)
    used: set[float] = set()
    for task in ("colour", "action") if tasks is None else tasks:
        for modality in FEATURES:
            for by_split in (False, True):
                found, expected = (
                    build_folds(task, modality, splits, subset, by_split=by_split)
                    for splits in (read, whole)
                )
                for ours, theirs in zip(found, expected, strict=True):
                    for part, other in zip(ours, theirs, strict=True):
                        assert np.array_equal(part.features, other.features)
                        assert part[1:] == other[1:]
                        used |= set(part.features[:, :, 0].ravel().tolist())
                    assert len(ours.train.labels) <= (max_clips or 400)
                    assert ours.train.is_full == (max_clips == 7 and task != "no such")
    keys = {float(key) for name in SPLITS[:2] for key in read[name].clips.rows["key"]}
    validation = {float(key) for key in whole["validation"].clips.rows["key"]}
    assert keys - validation <= used  # official folds have no clips to choose by


def test_a_subset_is_random_and_depends_on_seed_and_keys_alone() -> None:
    keys = [f"{number:04d}" for number in range(1000)]
    shuffled = random.Random(0).sample(keys, len(keys))

    def choose(size: int, names: list[str] = keys, seed: int = 3) -> set[str]:
        subset = Subset(size, seed)
        places = subset.choose(subset.draw_turns(names))
        assert places.tolist() == sorted(places.tolist())
        return {names[place] for place in places}

    assert choose(100) == choose(100, shuffled)
    assert choose(50) < choose(100)
    assert choose(100, keys[:500]) >= choose(100) & set(keys[:500])
    assert 3 <= len(choose(100) & choose(100, seed=4)) <= 20  # ten, were they independent
    tenths = np.bincount([int(key) // 100 for key in choose(500)], minlength=10)
    assert tenths.min() >= 35
    assert sorted(choose(3)) == ["0581", "0719", "0763"]  # by any version of the library
    assert len(choose(2000)) == 1000
