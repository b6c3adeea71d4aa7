"""What flows between the layers: batches from the data, embeddings from the models.

Shape legend of the whole project: B batch, T frames, H W pixels, S samples, L tokens, D width,
E shared-space width, N heads, P candidate texts, C classes, G batch over all ranks.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Clips of one rank. Every clip has video; audio and text may be missing and are masked."""

    video: Float[Tensor, "B T H W 3"]
    """RGB in [-1, 1]."""
    audio: Float[Tensor, "B S"]
    """Mono at 48 kHz in [-1, 1]; zeros where it is missing."""
    text: Int[Tensor, "B P L"]
    """Token ids; 0 is padding."""
    audio_mask: Bool[Tensor, "B"]
    """True where the clip has audio."""
    text_mask: Bool[Tensor, "B P"]
    """True where there is a text; a clip with fewer than P of them has False in the rest."""

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on `device`, copied without waiting where memory is pinned."""
        moved = (getattr(self, field.name).to(device, non_blocking=True) for field in fields(self))
        return Batch(*moved)

    def pin_memory(self) -> "Batch":
        """Return the batch in page-locked memory (called by torch's DataLoader)."""
        return Batch(*(getattr(self, field.name).pin_memory() for field in fields(self)))


@dataclass(frozen=True)
class LabelledBatch:
    """Clips of one rank with their labels, C classes in all."""

    signals: dict[str, Tensor]
    """What the task sees and hears: "video" (B, T, H, W, 3), "audio" (B, S), as in `Batch`."""
    labels: Float[Tensor, "B C"]
    """1 where a class holds, between 0 and 1 for mixed clips; no class holds where training does
    not know the label."""

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
