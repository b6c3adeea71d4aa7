"""Linear evaluation: classifiers of known features, and the folds of a data set."""

import numpy as np
import pytest

from tests.evaluate.world import describe, make_clips
from vatt.evaluate.features import Seen
from vatt.evaluate.linear_classifiers import DEFAULT_C, Method
from vatt.evaluate.linear_evaluation import Fold, Labelled, Probe, Skipped, build_folds, probe

CLASSES = ["a", "b", "c"]


def draw(seed: int, num_clips: int, distance: float) -> Labelled:
    """Three clouds at `distance` from each other, in 10 dimensions of very different scales."""
    generator = np.random.default_rng(seed)
    labels = [CLASSES[index % 3] for index in range(num_clips)]
    features = generator.normal(size=(num_clips, 10))
    features[np.arange(num_clips), np.arange(num_clips) % 3] += distance
    return label(features * np.logspace(-3, 3, 10) + 50, labels)


def label(features: np.ndarray, labels: list[str]) -> Labelled:
    """Every clip is of a video of its own and is seen by one window."""
    videos = [f"{number}.mp4" for number in range(len(labels))]
    return Labelled(features[:, None], [[name] for name in labels], videos)


def run(train: Labelled, validation: Labelled, test: Labelled) -> Probe:
    result = probe([Fold(train, validation, test)])
    assert isinstance(result, Probe)
    return result


def test_classes_are_read_as_far_as_they_are_apart_whatever_their_scale() -> None:
    result = run(draw(0, 90, 12), draw(1, 30, 12), draw(2, 60, 12))
    assert result.confusion == [[20, 0, 0], [0, 20, 0], [0, 0, 20]]
    assert (result.value, result.num_train, result.num_test) == (1.0, 90, 60)
    assert result.chance_uniform == pytest.approx(1 / 3)
    result = run(draw(0, 300, 0), draw(1, 150, 0), draw(2, 600, 0))
    assert result.value == pytest.approx(1 / 3, abs=0.07)
    result = run(draw(0, 60, 1.5), draw(1, 30, 1.5), draw(2, 60, 1.5))
    assert 0.4 < result.value < 0.95
    assert result.value == pytest.approx(np.trace(result.confusion or []) / 60)
    assert np.sum(result.confusion or [], axis=1).tolist() == [20, 20, 20]


def test_the_test_split_does_not_choose_the_regularisation() -> None:
    train, validation = draw(0, 60, 1.5), draw(1, 60, 1.5)
    chosen = {run(train, validation, draw(seed, 30, 1.5)).regularisation_c for seed in range(5, 12)}
    assert len(chosen) == 1
    without = run(train, label(np.zeros((0, 10)), []), draw(2, 30, 1.5))
    assert without.regularisation_c == DEFAULT_C["logistic"]


def test_the_commonest_training_class_is_the_majority_chance() -> None:
    train = label(np.random.default_rng(0).normal(size=(10, 4)), ["a"] * 3 + ["b"] * 7)
    test = label(np.zeros((8, 4)), ["b"] * 2 + ["a"] * 6)
    assert run(train, test, test).chance_majority == 2 / 8


def test_a_class_that_only_the_test_split_has_counts_as_wrong() -> None:
    test = draw(2, 30, 12)
    labels = [["new"] if names == ["c"] else names for names in test.labels]
    result = run(draw(0, 90, 12), draw(1, 30, 12), test._replace(labels=labels))
    assert result.classes == ["a", "b", "c", "new"]
    assert result.value == pytest.approx(20 / 30)
    assert result.chance_uniform == pytest.approx(1 / 3)


def test_it_does_not_depend_on_the_order_of_the_training_clips() -> None:
    train, validation, test = draw(0, 60, 1.5), draw(1, 30, 1.5), draw(2, 60, 1.5)
    order = np.random.default_rng(3).permutation(60)
    labels = [train.labels[index] for index in order]
    shuffled = train._replace(features=train.features[order], labels=labels)
    assert run(train, validation, test).confusion == run(shuffled, validation, test).confusion


@pytest.mark.parametrize(
    ("train_labels", "test_labels", "reason"),
    [
        (["a", "a"], ["a"], "2 classes in the train split, found 1"),
        ([], ["a"], "2 classes in the train split, found 0"),
        (["a", "b"], [], "no clips in the test split"),
    ],
)
def test_what_cannot_be_probed_is_skipped_with_the_reason(
    train_labels: list[str], test_labels: list[str], reason: str
) -> None:
    train = label(np.ones((len(train_labels), 3)), train_labels)
    test = label(np.ones((len(test_labels), 3)), test_labels)
    result = probe([Fold(train, test, test)])
    assert isinstance(result, Skipped)
    assert reason in result.reason


@pytest.mark.parametrize("method", ["svm", "lrc"])
def test_the_papers_classifiers_read_separable_classes(method: Method) -> None:
    """Of equal scales: the released LRC does not standardise features."""
    parts = [
        part._replace(features=(part.features - 50) / np.logspace(-3, 3, 10))
        for part in (draw(0, 120, 12), draw(1, 30, 12), draw(2, 60, 12))
    ]
    result = probe([Fold(*parts)], method, num_steps=300)
    assert isinstance(result, Probe)
    assert result.value > 0.9
    assert probe([Fold(*parts)], method, num_steps=300) == result


def test_windows_of_a_test_clip_are_averaged() -> None:
    """Two windows as far left as right of a clip say the same as the clip itself."""
    fold = Fold(draw(0, 90, 3), draw(1, 30, 3), draw(2, 60, 3))
    shift = np.random.default_rng(4).normal(size=fold.test.features.shape) * 1e-3
    windows = np.concatenate([fold.test.features + shift, fold.test.features - shift], axis=1)
    split = fold._replace(test=fold.test._replace(features=windows))
    for method in ("logistic", "svm"):
        assert probe([split], method) == probe([fold], method)


def test_the_result_is_the_mean_over_folds_and_no_clip_is_dropped() -> None:
    """Five folds of 19, 20, 21, 22 and 23 clips, each tested once; a slow loop of single folds."""
    sizes = [19, 20, 21, 22, 23]
    parts = [draw(seed, size, 2) for seed, size in enumerate(sizes)]
    nothing = Labelled(np.zeros((0, 1, 10)), [], [])
    folds = []
    for number, test in enumerate(parts):
        others = [part for other, part in enumerate(parts) if other != number]
        train = Labelled(
            np.concatenate([part.features for part in others]),
            [labels for part in others for labels in part.labels],
            [video for part in others for video in part.videos],
        )
        folds.append(Fold(train, nothing, test))
    result = probe(folds)
    assert isinstance(result, Probe)
    assert result.num_test == sum(sizes) == np.sum(result.confusion or [])
    single = [run(*fold).value for fold in folds]
    assert result.folds == single
    assert result.value == pytest.approx(np.mean(single))
    low, high = result.interval or [1, 0]
    assert low < result.value < high


def test_several_labels_of_a_clip_are_measured_by_map() -> None:
    """Class a is easy to read, class b is noise: mAP is the mean of 1 and about its share."""
    generator = np.random.default_rng(0)

    def draw_many(num_clips: int) -> Labelled:
        marks = generator.random((num_clips, 2)) < 0.5
        features = generator.normal(size=(num_clips, 6))
        features[:, 0] += 8 * marks[:, 0]
        names = [
            ["always", *(name for name, has in zip("ab", row, strict=True) if has)] for row in marks
        ]
        return Labelled(features[:, None], names, [str(number) for number in range(num_clips)])

    fold = Fold(draw_many(300), draw_many(100), draw_many(400))
    for method in ("logistic", "svm", "lrc"):
        result = probe([fold], method, num_steps=400)
        assert isinstance(result, Probe)
        assert (result.metric, result.confusion) == ("map", None)
        assert result.value == pytest.approx(0.75, abs=0.07)
        assert result.chance_majority == pytest.approx(0.5, abs=0.05)
        alike = fold.test._replace(labels=[["a", "b"]] * 400)
        skipped = probe([fold._replace(test=alike)], method)
        assert skipped == Skipped("no class tells the test clips apart")
        low, high = result.interval or [1, 0]
        assert low < result.value < high


def test_a_few_clips_between_two_labels_do_not_change_the_measure() -> None:
    train, validation, test = draw(0, 90, 12), draw(1, 30, 12), draw(2, 60, 12)
    between = train._replace(labels=[["a", "b"], *train.labels[1:]])
    assert run(between, validation, test).value == 1.0
    two = label(np.random.default_rng(0).normal(size=(41, 3)), ["a"] * 41)
    lonely = two._replace(labels=[*two.labels[1:], ["a", "b"]])  # as one label, all are a
    skipped = probe([Fold(lonely, two, two)])
    assert skipped == Skipped("needs 2 classes in the train split, found 1")
    forced = probe([Fold(train, validation, test)], metric="map")
    assert isinstance(forced, Probe)
    assert forced.metric == "map"
    assert forced.value == pytest.approx(1.0)


SPLITS = ("train", "validation", "test")
PLACES = (0.5, 0.0, 1.0)
"""The middle, then two windows spread over a clip."""


def see(names: list[str], labels: list[dict[str, list[str]]]) -> Seen:
    """The features of a window are the number of the clip and the place of the window."""
    clips = make_clips([f"one/{name}" for name in names], labels, [()] * len(names), places=PLACES)
    values = np.array([[(number, place) for place in PLACES] for number in range(len(names))])
    return Seen(clips, {"video": values, "audio": -values})


def test_every_clip_is_tested_in_its_fold_and_learnt_from_in_the_others() -> None:
    def label(name: str) -> dict[str, list[str]]:
        """A clip of class a in fold 2 is "a2"; there is none in the fourth fold."""
        kinds = ["test" if str(fold) == name[1] else "train" for fold in (1, 2, 3, 4)]
        folds = [f"{fold}:{kind}" for fold, kind in enumerate(kinds, 1)]
        return {"mine": [name[0]], "fold": folds}

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
    assert by_split.train.videos == ["one/a2", "one/b2", "one/a3"]
    assert by_split.test.videos == ["one/a1", "one/b1"]
    (plain,) = build_folds("other", "video", splits)
    assert (plain.train.videos, plain.test.videos) == (["one/x"], [])


def test_features_of_both_modalities_stand_side_by_side() -> None:
    seen = see(["a", "b"], [{"mine": ["p"]}, {"mine": ["q"]}])
    deaf = np.array([True, False])
    seen = seen._replace(clips=describe(seen.clips, has_audio=deaf))
    (fold,) = build_folds("mine", "audio_visual", dict.fromkeys(SPLITS, seen))
    assert fold.train.videos == ["one/a"]
    assert fold.train.features.tolist() == [[[0, 0.5, 0, -0.5]]]
