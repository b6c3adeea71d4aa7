"""What the network of a task sees and hears of a segment (VATT appendix A)."""

from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from vatt.params import AUDIO_RATE_HZ, ClipParams, TaskName

Modality = Literal["video", "audio"]

MODALITIES: dict[TaskName, tuple[Modality, ...]] = {
    "video": ("video",),
    "audio": ("audio",),
    "image": ("video",),
    "audio_visual": ("video", "audio"),
}
"""What a segment must have for a task."""


@dataclass(frozen=True)
class TaskInput:
    """The window of a segment that the network of a task takes; pre-training is `audio_visual`."""

    task: TaskName
    clip: ClipParams
    """Its sizes as the network takes them, but `num_samples` is counted at 48 kHz."""
    audio_stride: int = 1
    """The network hears the first of every so many samples."""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the network takes."""
        return MODALITIES[self.task]

    @property
    def stored_clip(self) -> ClipParams:
        """The window to read from the corpus: an image is one frame, which is repeated later."""
        num_frames = 1 if self.task == "image" else self.clip.num_frames
        return self.clip.model_copy(update={"num_frames": num_frames})

    def find_last_start(self, segment: Any) -> float:
        """Return the last frame that a window may begin at; 0 where the segment is shorter.

        Sound alone may also begin between two frames.
        """
        num_frames: float = self.stored_clip.num_frames
        if self.task == "audio":
            num_frames = self.clip.num_samples / AUDIO_RATE_HZ * segment.frame_rate_hz
        last: float = segment.num_frames - num_frames
        return max(0.0, last)

    def shape_video(self, video: Float[Tensor, "*K _ H W 3"]) -> Float[Tensor, "*K T H W 3"]:
        """Return stored pictures as the network sees them: an image is repeated."""
        return video.expand(*video.shape[:-4], self.clip.num_frames, *video.shape[-3:])

    def shape_audio(self, audio: Float[Tensor, " S"]) -> Float[Tensor, " R"]:
        """Return sound at 48 kHz as the network hears it.

        As in the original, nothing filters out what the lower sample rate cannot hold.
        """
        return audio[:: self.audio_stride].contiguous()
