"""Batches with labels: what fine-tuning sees and hears of a segment (VATT appendix A.2).

As in pre-training, the order and everything random depend on the seed and the step only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from vatt.batch import LabelledBatch
from vatt.data.augment import add_noise, centre_view, draw_view, jitter_colour
from vatt.data.clips import ClipReader, Place
from vatt.data.labelled import LabelledSplit, Modality
from vatt.data.loader import StepBatches, load_batches
from vatt.data.loading.order import SAMPLE_STREAM, Share, TrainingOrder
from vatt.data.loading.samples import Sample
from vatt.data.loading.stores import Shards
from vatt.params import AUDIO_RATE_HZ, ClipParams, TaskName

MODALITIES: dict[TaskName, tuple[Modality, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "image": ("video",),
    "audio_visual": ("video", "audio"),
}
"""What a segment must have for a task."""


@dataclass(frozen=True)
class TaskInput:
    """What the network of a task gets of a segment.

    clip: its size; sound is read at 48 kHz, `clip.num_samples` of it. audio_stride: every so many
    samples one is heard. An image is one frame, repeated `clip.num_frames` times.
    """

    task: TaskName
    clip: ClipParams
    audio_stride: int = 1

    def open_reader(self, preprocess_dir: Path, shards: Shards | None = None) -> ClipReader:
        """Open a corpus for windows of this task."""
        num_frames = 1 if self.task == "image" else self.clip.num_frames
        clip = self.clip.model_copy(update={"num_frames": num_frames})
        return ClipReader(preprocess_dir, clip, shards)

    def find_last_start(self, segment: Sample) -> float:
        """Return the last frame that a window may begin at; 0 where a segment is shorter."""
        num_frames: Place = 1 if self.task == "image" else self.clip.num_frames
        if self.task == "audio":
            num_frames = self.clip.num_samples / AUDIO_RATE_HZ * segment.frame_rate_hz
        return max(0.0, segment.num_frames - num_frames)

    def shape_video(self, video: Float[Tensor, "_ H W 3"]) -> Float[Tensor, "T H W 3"]:
        """Return pictures in [-1, 1] as the network sees them: an image is repeated."""
        return video.expand(self.clip.num_frames, -1, -1, -1)

    def shape_audio(self, audio: Float[Tensor, " S"]) -> Float[Tensor, " R"]:
        """Return sound at 48 kHz as the network hears it.

        As in the original, nothing filters out what the lower sample rate cannot hold.
        """
        return audio[:: self.audio_stride].contiguous()


class Example(NamedTuple):
    """One window with its labels."""

    signals: dict[str, Tensor]
    labels: Float[Tensor, " C"]


class LabelledClips(Dataset[Example]):
    """Augmented random windows of segments with labels; items are (epoch, sample)."""

    def __init__(
        self, reader: ClipReader, split: LabelledSplit, wanted: TaskInput, seed: int
    ) -> None:
        self._reader, self._split, self._input, self._seed = reader, split, wanted, seed

    def __getitem__(self, item: tuple[int, int]) -> Example:
        """Return the window of a sample in an epoch.

        Raises:
            ShardError: the shard is damaged.
        """
        epoch, number = item
        reader, segment = self._reader, self._split[number]
        augment, modalities = self._input.clip.augment, MODALITIES[self._input.task]
        rng = np.random.default_rng([SAMPLE_STREAM, self._seed, epoch, number])
        last_start = self._input.find_last_start(segment)
        signals = {}
        if "video" in modalities:
            start: Place = int(rng.integers(int(last_start) + 1))
            size_px = (segment.height_px, segment.width_px)
            view = draw_view(size_px, reader.clip.frame_size_px, augment, rng)
            pictures = reader.read_pictures(segment, int(start), view)
            signals["video"] = self._input.shape_video(jitter_colour(pictures, augment, rng))
        else:
            start = rng.uniform(0, last_start)
        if "audio" in modalities:
            audio = add_noise(reader.read_audio(segment, start), augment, rng)
            signals["audio"] = self._input.shape_audio(audio)
        return Example(signals, self._split.mark(number))


class MiddleClips(Dataset[Example]):
    """The middle window of each segment, the middle of its picture; nothing is random."""

    def __init__(self, reader: ClipReader, split: LabelledSplit, wanted: TaskInput) -> None:
        self._reader, self._split, self._input = reader, split, wanted

    def __getitem__(self, number: int) -> Example:
        """Return the window of a segment.

        Raises:
            ShardError: the shard is damaged.
        """
        reader, segment = self._reader, self._split[number]
        start: Place = self._input.find_last_start(segment) / 2
        signals = {}
        if "video" in MODALITIES[self._input.task]:
            start = round(start)
            size_px = (segment.height_px, segment.width_px)
            view = centre_view(size_px, reader.clip.frame_size_px)
            video = reader.read_video(segment, start, view).mul_(2).sub_(1)
            signals["video"] = self._input.shape_video(video)
        if "audio" in MODALITIES[self._input.task]:
            signals["audio"] = self._input.shape_audio(reader.read_audio(segment, start))
        return Example(signals, self._split.mark(number))


def open_labelled_loader(
    clips: LabelledClips, num_samples: int, order: TrainingOrder, num_workers: int
) -> Iterator[LabelledBatch]:
    """Return the batches of a rank from `order.start_step` on; every sample is drawn equally often.

    Raises:
        StageError: while iterating: a worker was killed.
        ShardError: while iterating: a shard is damaged.
    """
    batches = StepBatches(order, [Share(0, num_samples)])
    return load_batches(clips, batches, collate_examples, num_workers)


def open_middle_loader(
    clips: MiddleClips, num_samples: int, batch_size: int, num_workers: int = 0
) -> Iterator[LabelledBatch]:
    """Yield the first `num_samples` segments of a split, in order.

    Raises:
        StageError: a worker was killed.
        ShardError: a shard is damaged.
    """
    numbers = list(range(num_samples))
    batches = [numbers[first : first + batch_size] for first in numbers[::batch_size]]
    return load_batches(clips, batches, collate_examples, num_workers)


def collate_examples(examples: list[Example]) -> LabelledBatch:
    """Stack windows to a batch."""
    names = examples[0].signals
    signals = {name: torch.stack([example.signals[name] for example in examples]) for name in names}
    return LabelledBatch(signals, torch.stack([example.labels for example in examples]))
