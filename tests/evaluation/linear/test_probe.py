import numpy as np
import pytest

from vatt.evaluation.linear.classifiers import DEFAULT_C
from vatt.evaluation.linear.probe import Fold, Labelled, Probe, Skipped, probe

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


def test_separable_classes_are_read_whatever_their_scale() -> None:
    result = run(draw(0, 90, 12), draw(1, 30, 12), draw(2, 60, 12))
    assert result.value == 1.0
    assert result.confusion == [[20, 0, 0], [0, 20, 0], [0, 0, 20]]
    assert result.chance_uniform == pytest.approx(1 / 3)
    assert (result.num_train, result.num_test) == (90, 60)


def test_random_features_stay_at_chance() -> None:
    result = run(draw(0, 300, 0), draw(1, 150, 0), draw(2, 600, 0))
    assert result.value == pytest.approx(1 / 3, abs=0.07)


def test_the_accuracy_is_that_of_the_confusion_matrix() -> None:
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
    unseen = test._replace(labels=labels)
    result = run(draw(0, 90, 12), draw(1, 30, 12), unseen)
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
