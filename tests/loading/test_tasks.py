"""Which segments of a corpus a task can use, from an index without any media."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.rows import make_segment, write_index
from tests.train.tasks import TASK
from vatt.corpus.manifest import Split
from vatt.loading.tasks import LabelledCorpus, UnlabelledError, read_labelled
from vatt.params import TaskName

ACTION = TASK.model_copy(update={"label": "action"})
SPLITS: tuple[Split, ...] = ("train", "validation")


def read(corpus: Path, task: TaskName = "video", **changes: Any) -> LabelledCorpus:
    return read_labelled(corpus, task, ACTION.model_copy(update=changes), SPLITS)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    write_index(
        tmp_path,
        [
            make_segment("a", labels={"action": ["run", "walk"]}),
            make_segment("b", labels={"action": ["jump"]}),
            make_segment("c", labels={"action": ["jump"]}, has_audio=False),
            make_segment("d", labels={"other": ["jump"]}),
            make_segment("e", labels={"action": ["swim"]}, has_video=False),
            make_segment("f", "validation", labels={"action": ["fly", "run"]}),
            make_segment("g", "validation", labels={"action": ["run"]}),
            make_segment("h", "test", labels={"action": ["hide"]}),
        ],
    )
    return tmp_path


def test_classes_are_those_of_the_split_train_with_the_modality(corpus: Path) -> None:
    found = read(corpus)
    assert found.classes == ("jump", "run")
    train, validation = found.splits["train"], found.splits["validation"]
    assert [train[number].key for number in range(len(train))] == ["a", "b", "c"]
    assert [list(labels) for labels in train.labels] == [[1], [0], [0]]  # the best label counts
    assert train.count_classes() == {"jump": 2, "run": 1}
    assert torch.equal(train.mark(1), torch.tensor([1.0, 0.0]))
    assert [validation[number].key for number in range(len(validation))] == ["f", "g"]
    assert torch.equal(validation.mark(0), torch.zeros(2))  # none that training knows
    assert found.notes == (
        "classes with one segment in the split train: run",
        "classes without a segment in the split validation: jump",
        "labels in the split validation that the split train has not, which count as wrong: fly",
    )


def test_several_labels_may_hold_at_once(corpus: Path) -> None:
    found = read(corpus, multi_label=True)
    assert found.classes == ("jump", "run", "walk")
    assert torch.equal(found.splits["train"].mark(0), torch.tensor([0.0, 1.0, 1.0]))
    assert torch.equal(found.splits["validation"].mark(0), torch.tensor([0.0, 1.0, 0.0]))


def test_all_modalities_are_needed(corpus: Path) -> None:
    found = read(corpus, "audio_visual")
    assert [found.splits["train"][number].key for number in range(2)] == ["a", "b"]
    assert len(found.splits["train"]) == 2


def test_only_the_splits_that_are_asked_for_are_read_and_known_classes_keep_their_order(
    corpus: Path,
) -> None:
    test = read_labelled(corpus, "video", ACTION, ("test",), ("run", "hide")).splits["test"]
    assert [list(labels) for labels in test.labels] == [[1]]
    segments = [make_segment("a", labels={"action": ["run"]})]
    segments.append(make_segment("b", labels={"action": ["jump"]}))
    segments.append(make_segment("h", "test", labels_text="no JSON"))
    write_index(corpus, segments)
    found = read(corpus)
    assert set(found.splits) == {"train", "validation"}
    assert found.notes[-1] == "the split validation has no segment to measure with"
    with pytest.raises(ValueError, match="Expecting value"):
        read_labelled(corpus, "video", ACTION, ("test",), found.classes)


def test_a_corpus_without_the_labels_says_which_it_has(corpus: Path) -> None:
    with pytest.raises(UnlabelledError, match=r"task 'rhythm'; tasks with labels there: action, o"):
        read(corpus, label="rhythm")
    with pytest.raises(UnlabelledError, match="one label of the task 'other' only, 'jump'"):
        read(corpus, label="other")
    write_index(corpus, [])
    with pytest.raises(UnlabelledError, match="tasks with labels there: none"):
        read(corpus)
