"""What flows between the layers: batches from the data, Embeddings from the models.

Shape legend of the whole project: B batch, T frames, H W pixels, S samples, L tokens, D width,
E shared-space width, N heads, P candidate texts, C classes, G batch over all ranks.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips of one rank. Every clip has a picture; sound and text may be missing and are masked.

    video: RGB in [-1, 1]. audio: mono at 48 kHz in [-1, 1], zeros where missing.
    text: token ids, 0 is padding. audio_mask, text_mask: True where there is something;
    a clip with fewer than P candidate texts has False at the rest of its row.
    """

    video: Float[Tensor, "B T H W 3"]
    audio: Float[Tensor, "B S"]
    text: Int[Tensor, "B P L"]
    audio_mask: Bool[Tensor, "B"]
    text_mask: Bool[Tensor, "B P"]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`, copied without waiting where memory is pinned."""
        moved = (getattr(self, field.name).to(device, non_blocking=True) for field in fields(self))
        return Batch(*moved)

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory (called by torch's DataLoader)."""
        return Batch(*(getattr(self, field.name).pin_memory() for field in fields(self)))


@dataclass(frozen=True)
class LabelledBatch:
    """Clips of one rank with their labels, C classes in all.

    signals: of "video" (B, T, H, W, 3) and "audio" (B, S) what the task sees and hears, as in Batch.
    labels: 1 where a class holds; mixed ones lie between 0 and 1. No class holds where training
    does not know the label.
    """

    signals: dict[str, Tensor]
    labels: Float[Tensor, "B C"]

    def to(self, device: torch.device) -> "LabelledBatch":
        """Return the batch on `device`, copied without waiting where memory is pinned."""
        signals = {
            name: signal.to(device, non_blocking=True) for name, signal in self.signals.items()
        }
        return LabelledBatch(signals, self.labels.to(device, non_blocking=True))

    def pin_memory(self) -> "LabelledBatch":
        """Return the batch in page-locked memory (called by torch's DataLoader)."""
        signals = {name: signal.pin_memory() for name, signal in self.signals.items()}
        return LabelledBatch(signals, self.labels.pin_memory())


@dataclass(frozen=True)
class Embeddings:
    """Clips in the two shared spaces (VATT section 3.3), not normalised.

    E is the width of the video-audio space, F that of the video-text space.
    """

    video_va: Float[Tensor, "B E"]
    audio_va: Float[Tensor, "B E"]
    video_vt: Float[Tensor, "B F"]
    text_vt: Float[Tensor, "B P F"]
