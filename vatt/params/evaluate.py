"""Parameters of evaluation and promotion."""

from typing import Literal

from pydantic import Field

from vatt.params.section import Section


class EvaluateParams(Section):
    """Zero-shot retrieval, linear classifiers and fine-tuned networks on the test split."""

    model: str = Field(min_length=1)
    """The export that is measured, and that may be promoted: its folder, or "champion"."""
    num_windows: int = Field(ge=1)
    """The number of windows, evenly spaced over a test clip; 4 in the paper."""
    batch_size: int = Field(ge=1)
    """The number of windows, or crops of them, that are embedded at once."""
    lrc_steps: int = Field(ge=0)
    """The updates of the paper's factorised linear classifier, 50,000 there; 0 leaves it out."""
    probe_tasks: tuple[str, ...] | None
    """The names of the labels that linear classifiers are fitted to; null is all of the corpus."""
    max_train_clips: int | None = Field(default=20_000, ge=1)
    """The most clips that a linear classifier learns from, drawn evenly from those that have its
    label; null is all of them."""
    analyses: bool = True
    """Whether the report has the figures of the paper's analyses, of drawn test clips."""


class PromoteParams(Section):
    """When a new export becomes the champion."""

    metric: Literal[
        "text_to_video_r10", "audio_to_video_r10", "text_to_video_r1", "audio_to_video_r1"
    ]
    tolerance: float = Field(ge=0)
    """The new export may be worse than the champion by this much."""
