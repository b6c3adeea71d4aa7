"""What fine-tuning sees and hears of a segment, compared with the reader of the corpus."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vatt.core.batch import LabelledBatch
from vatt.corpus.samples import Sample
from vatt.loading.augmentation import centre_view
from vatt.loading.clips import ClipReader
from vatt.loading.labelled import (
    MODALITIES,
    LabelledClips,
    LabelledSplit,
    MiddleClips,
    TaskInput,
    Wanted,
    open_labelled_loader,
    open_middle_loader,
    read_labelled,
)
from vatt.loading.order import TrainingOrder
from vatt.params import TASKS, AugmentParams, ClipParams, TaskName

PLAIN = AugmentParams(
    crop="vgg", scale_jitter_rate=0.0, flip_rate=0.0, colour_jitter_rate=0.0, audio_noise=0.0
)
CLIP = ClipParams(
    num_frames=8, frame_size_px=32, num_samples=15_360, num_tokens=8, num_candidates=5
)
ORDER = TrainingOrder(seed=3, batch_size=6, start_step=0, num_steps=3)


def open_split(corpus_dir: Path, task: TaskName) -> LabelledSplit:
    """Return the segments of the split train; all have one label of the task "group"."""
    wanted = Wanted("group", MODALITIES[task], multi_label=False)
    classes = sorted({"more.mkv", "flashes.mp4", "sound.wav", "silent.mp4", "short.mp4"})
    return read_labelled(corpus_dir, wanted, ("train",), classes).splits["train"]


def load(
    corpus_dir: Path, task: TaskName, order: TrainingOrder = ORDER, num_workers: int = 0
) -> list[LabelledBatch]:
    wanted, split = TaskInput(task, CLIP, audio_stride=2), open_split(corpus_dir, task)
    clips = LabelledClips(wanted.open_reader(corpus_dir), split, wanted, order.seed)
    return list(open_labelled_loader(clips, len(split), order, num_workers))


def join(batches: list[LabelledBatch]) -> dict[str, torch.Tensor]:
    names = batches[0].signals
    signals = {name: torch.cat([batch.signals[name] for batch in batches]) for name in names}
    return {**signals, "labels": torch.cat([batch.labels for batch in batches])}


@pytest.mark.parametrize("task", TASKS)
def test_batches_have_what_the_task_needs(corpus_dir: Path, task: TaskName) -> None:
    for batch in load(corpus_dir, task):
        assert tuple(batch.signals) == MODALITIES[task]
        if "video" in batch.signals:
            assert batch.signals["video"].shape == (6, 8, 32, 32, 3)
            assert -1 <= batch.signals["video"].min() < -0.5
        if "audio" in batch.signals:
            assert batch.signals["audio"].shape == (6, 7_680)
        assert set(batch.labels.sum(1).tolist()) <= {0.0, 1.0}


def test_the_order_depends_neither_on_workers_nor_on_ranks_nor_on_where_it_starts(
    corpus_dir: Path,
) -> None:
    whole = load(corpus_dir, "audio_visual")
    workers = load(corpus_dir, "audio_visual", num_workers=2)
    late = load(corpus_dir, "audio_visual", replace(ORDER, start_step=2))
    ranks = [
        load(corpus_dir, "audio_visual", replace(ORDER, rank=rank, world_size=2))
        for rank in range(2)
    ]
    taken_in_turns = [batch for step in zip(*ranks, strict=True) for batch in step]
    for name, expected in join(whole).items():
        assert torch.equal(join(workers)[name], expected), name
        assert torch.equal(join(late)[name], expected[12:]), name
        assert torch.equal(join(taken_in_turns)[name], expected), name


def middle_of(corpus_dir: Path, task: TaskName) -> tuple[dict[str, torch.Tensor], LabelledSplit]:
    wanted = TaskInput(task, CLIP.model_copy(update={"augment": PLAIN}), audio_stride=3)
    split = open_split(corpus_dir, task)
    clips = MiddleClips(wanted.open_reader(corpus_dir), split, wanted)
    return join(list(open_middle_loader(clips, len(split), 4))), split


def test_an_image_is_the_middle_frame_repeated(corpus_dir: Path) -> None:
    found, split = middle_of(corpus_dir, "image")
    video = found["video"]
    assert torch.equal(video, video[:, :1].expand_as(video))
    one = ClipReader(corpus_dir, CLIP.model_copy(update={"num_frames": 1}))
    for number in range(len(split)):
        segment = split[number]
        # Of an even number of frames the one before or behind the middle.
        frames = {(segment.num_frames - 1) // 2, segment.num_frames // 2}
        seen = [2 * _read(one, segment, at) - 1 for at in frames]
        assert any(torch.equal(video[number, :1], frame) for frame in seen)


def test_middle_and_random_windows_have_the_same_range(corpus_dir: Path) -> None:
    found, _ = middle_of(corpus_dir, "video")
    drawn = join(load(corpus_dir, "video"))
    for video in (found["video"], drawn["video"]):
        assert -1 <= video.min() < -0.5
        assert 0.5 < video.max() <= 1


def _read(reader: ClipReader, segment: Sample, frame: int) -> torch.Tensor:
    size_px = (segment.height_px, segment.width_px)
    return reader.read_video(segment, frame, centre_view(size_px, reader.clip.frame_size_px))


def test_a_stride_hears_every_so_many_samples_of_the_middle(corpus_dir: Path) -> None:
    """Sound without pictures, too; a window of it begins anywhere, not at frames only."""
    found, split = middle_of(corpus_dir, "audio")
    reader = ClipReader(corpus_dir, CLIP)
    keys = [split[number].key for number in range(len(split))]
    assert any(not split[number].has_video for number in range(len(split)))
    for number, key in enumerate(keys):
        segment = split[number]
        middle = (
            max(0.0, segment.num_frames - CLIP.num_samples / 48_000 * segment.frame_rate_hz) / 2
        )
        heard = reader.read_audio(segment, middle)
        assert torch.equal(found["audio"][number], heard[::3]), key


def test_training_windows_of_sound_lie_all_over_a_segment(corpus_dir: Path) -> None:
    wanted, split = TaskInput("audio", CLIP), open_split(corpus_dir, "audio")
    number = max(range(len(split)), key=lambda at: split[at].num_samples)
    last = wanted.find_last_start(split[number])
    assert last > 10

    class Recorder(ClipReader):
        def read_audio(self, segment: object, start_frame: float) -> torch.Tensor:  # noqa: ARG002
            starts.append(start_frame)
            return torch.zeros(self.clip.num_samples)

    starts: list[float] = []
    clips = LabelledClips(Recorder(corpus_dir, CLIP), split, wanted, seed=1)
    for epoch in range(100):
        clips[epoch, number]
    assert 0 <= min(starts) < 0.1 * last
    assert 0.9 * last < max(starts) <= last
    assert len(set(starts)) == 100
