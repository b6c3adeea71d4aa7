"""Passages of files against the segments that preprocess makes of the same files."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.made_media import Clip, write_clip
from tests.preprocess.runs import PARAMS
from tests.stages.conftest import EXPORTED
from vatt.corpus.index import read_index
from vatt.loading.clips import ClipReader
from vatt.loading.loader import FixedWindows, Look, spread_places
from vatt.loading.tasks import TaskInput
from vatt.media.decoding import MediaError
from vatt.params import AUDIO_RATE_HZ, TaskName
from vatt.use.passages import Passage, read_passages

INPUT = TaskInput("audio_visual", EXPORTED.clip)
RATE_HZ = PARAMS.frame_rate_hz


def read(path: Path, task_input: TaskInput = INPUT, passage_s: float | None = 4.0) -> list[Passage]:
    problems: list[str] = []
    passages = list(read_passages(path, task_input, RATE_HZ, problems, passage_s))
    assert not problems
    return passages


@pytest.mark.parametrize("task", ["audio_visual", "video", "audio", "image"])
def test_passages_are_the_segments_of_preprocess_as_evaluation_sees_them(
    small_corpus: Path, task: TaskName
) -> None:
    # 0.8 s of 4 frames, but 0.78 s of sound, so that audio begins between two frames.
    clip = EXPORTED.clip.model_copy(update={"num_samples": 37_500})
    task_input = TaskInput(task, clip, audio_stride=2)
    rows = read_index(small_corpus)
    reader = ClipReader(small_corpus, clip)
    assert len(rows) > 8
    for (name,), segments in rows.groupby(["video_id"]):
        passages = read(small_corpus.parent / f"download/known/{name}", task_input)
        assert [p.start_s for p in passages] == pytest.approx(segments["start_s"].tolist())
        assert [p.end_s for p in passages] == pytest.approx(segments["end_s"].tolist())
        for passage, segment in zip(passages, segments.itertuples(), strict=True):
            window_s = {"audio": 37_500 / AUDIO_RATE_HZ, "image": 1000.0}.get(task, 0.8)
            length_s = float(passage.end_s - passage.start_s)
            num_windows = math.ceil(length_s / window_s - 1e-6)
            look = Look(task_input, spread_places(num_windows))
            signals = FixedWindows(reader, [segment], [look])[0][0].signals
            assert (passage.video is not None) == (segment.has_video and task != "audio")
            if passage.video is not None:
                shown = passage.video.float() / 127.5 - 1
                # The stored picture is of 64 pixels and coded, ours comes from the file.
                assert (task_input.shape_video(shown) - signals["video"]).abs().mean() < 0.05
            has_sound = segment.has_audio and "audio" in task_input.modalities
            assert (passage.audio is not None) == has_sound
            if passage.audio is not None:
                heard = torch.stack([task_input.shape_audio(window) for window in passage.audio])
                torch.testing.assert_close(heard, signals["audio"], rtol=0, atol=0)


def test_each_window_shows_its_time(tmp_path: Path) -> None:
    flash_s = 5.0
    path = write_clip(tmp_path / "a.mp4", Clip(duration_s=9.0, flash_s=(flash_s,)))
    passages = read(path)
    assert [p.start_s for p in passages] == [0.0, 4.0]
    assert passages[1].end_s == pytest.approx(9.0, abs=0.21)  # its sound ends a frame later
    bright, loud = [], []
    for passage in passages:
        assert passage.video is not None
        assert passage.audio is not None
        # Windows of 0.8 s cover the passage.
        starts_s = np.linspace(passage.start_s, passage.end_s - 0.8, len(passage.video))
        for start_s, video, audio in zip(starts_s, passage.video, passage.audio, strict=True):
            bright += [start_s] * bool((video.float().mean((1, 2, 3)) > 200).any())
            loud += [start_s] * bool(audio.abs().max() > 0.5)
    for found in (bright, loud):
        assert found
        assert all(start_s - 0.3 < flash_s < start_s + 1.1 for start_s in found)


def test_what_is_shorter_than_a_window_repeats(tmp_path: Path) -> None:
    (passage,) = read(write_clip(tmp_path / "a.mkv", Clip(duration_s=0.4)), passage_s=None)
    num_frames = round(passage.end_s * RATE_HZ)
    assert num_frames in (2, 3)
    assert passage.video is not None
    assert passage.audio is not None
    assert passage.video.shape == (1, 4, 32, 32, 3)
    assert passage.video[0, num_frames:].equal(passage.video[0, : 4 - num_frames])
    length = num_frames * AUDIO_RATE_HZ // 5
    assert passage.audio[0, length:].equal(passage.audio[0, : 38_400 - length])


def test_a_passage_is_as_long_as_some_windows_by_default(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", Clip(duration_s=8.0))
    lengths_s = [round(p.end_s - p.start_s, 3) for p in read(path, passage_s=None)]
    assert lengths_s[:-1] == [2.0] * 3
    image = TaskInput("image", EXPORTED.clip)
    lengths_s = [round(p.end_s - p.start_s, 3) for p in read(path, image, passage_s=None)]
    assert lengths_s[:-1] == [1.0] * 7


def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    peaks = []
    for duration_s in (6.0, 24.0):
        path = write_clip(tmp_path / f"{duration_s}.mp4", Clip(duration_s=duration_s))
        tracemalloc.start()
        for _ in read_passages(path, INPUT, RATE_HZ, []):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_what_holds_nothing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("no media")
    with pytest.raises(MediaError):
        read(path)
