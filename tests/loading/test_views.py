"""Fixed windows of segments, compared with the reader of the corpus."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.loading.windows import CLIP, open_split
from vatt.corpus.index import read_index
from vatt.loading.augmentation import centre_view
from vatt.loading.clips import ClipReader
from vatt.loading.labelled import LabelledSplit
from vatt.loading.tasks import TaskInput
from vatt.loading.views import (
    FixedWindows,
    Look,
    load_views,
    open_labelled_validation_loader,
    open_validation_loader,
    spread_places,
)
from vatt.params import TaskName


@pytest.fixture
def reader(corpus_dir: Path) -> ClipReader:
    return ClipReader(corpus_dir, CLIP)


def test_validation_takes_every_segment_in_order(reader: ClipReader) -> None:
    index = read_index(reader.preprocess_dir).query("split == 'test'")
    loaded = list(open_validation_loader(reader, "test", 3))
    assert [len(rows) for rows, _ in loaded] == [3, 1]
    assert list(chain.from_iterable(rows["key"] for rows, _ in loaded)) == list(index["key"])
    for rows, batch in loaded:
        assert batch.text.shape == (len(batch.video), 1, 8)
        assert torch.equal(batch.audio_mask, torch.tensor(rows["has_audio"].to_numpy()))
        assert torch.equal(batch.text_mask, (batch.text != 0).any(-1))
        grey = (batch.video == 0).flatten(1).all(1)
        assert torch.equal(grey, ~torch.tensor(rows["has_video"].to_numpy()))


def test_fixed_windows_are_spaced_evenly_and_the_same_every_time(reader: ClipReader) -> None:
    rows = reader.read_rows("test")
    look = Look(TaskInput("audio_visual", CLIP), spread_places(4), has_texts=True)
    windows = FixedWindows(reader, rows.iloc, [look])
    first, again = (list(load_views(windows, len(rows), 2, workers)) for workers in (0, 1))
    assert [numbers for numbers, _ in first] == [[0, 1], [2, 3]]
    views = [views for _, clips in first for (views,) in clips]
    for one, other in zip(views, (v for _, clips in again for (v,) in clips), strict=True):
        assert all(torch.equal(one.signals[name], other.signals[name]) for name in one.signals)
    number = rows["has_video"].to_list().index(True)
    segment, video = rows.iloc[number], views[number].signals["video"]
    whole = _read(reader.resize(CLIP.model_copy(update={"num_frames": 104})), segment, 0)
    assert views[number].num_windows == len(video) == len(views[number].signals["text"]) == 4
    for window in range(4):
        start = round(window * (segment.num_frames - 8) / 3)
        torch.testing.assert_close(video[window], whole[start : start + 8])


def _read(reader: ClipReader, segment: Any, frame: int) -> torch.Tensor:
    size_px = (int(segment.height_px), int(segment.width_px))
    view = centre_view(size_px, reader.clip.frame_size_px)
    return 2 * reader.read_video(segment, frame, view) - 1


def load_middle(
    reader: ClipReader, task: TaskName
) -> tuple[dict[str, torch.Tensor], LabelledSplit]:
    """Return the middle windows of the split train, and its segments."""
    split, task_input = open_split(reader.preprocess_dir, task), TaskInput(task, CLIP, 3)
    batches = list(open_labelled_validation_loader(reader, task_input, split, len(split), 4))
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.equal(labels, torch.stack([split.mark(at) for at in range(len(split))]))
    names = batches[0].signals
    return {name: torch.cat([b.signals[name] for b in batches]) for name in names}, split


def test_an_image_is_the_middle_frame_repeated(reader: ClipReader) -> None:
    found, split = load_middle(reader, "image")
    video = found["video"]
    assert -1 <= video.min() < -0.5
    assert 0.5 < video.max() <= 1
    assert torch.equal(video, video[:, :1].expand_as(video))
    one = reader.resize(CLIP.model_copy(update={"num_frames": 1}))
    for number in range(len(split)):
        segment = split[number]
        # Of an even number of frames the one before or behind the middle.
        frames = {(segment.num_frames - 1) // 2, segment.num_frames // 2}
        assert any(torch.equal(video[number, :1], _read(one, segment, at)) for at in frames)


def test_a_stride_hears_every_so_many_samples_of_the_middle(reader: ClipReader) -> None:
    """Sound without pictures, too; a window of it begins anywhere, not at frames only."""
    found, split = load_middle(reader, "audio")
    assert any(not split[number].has_video for number in range(len(split)))
    for number in range(len(split)):
        segment = split[number]
        num_frames = CLIP.num_samples / 48_000 * segment.frame_rate_hz
        heard = reader.read_audio(segment, max(0.0, segment.num_frames - num_frames) / 2)
        assert torch.equal(found["audio"][number], heard[::3]), segment.key
