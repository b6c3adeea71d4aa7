"""Parameters of evaluation and promotion."""

from typing import Literal

from pydantic import Field

from vatt.params.section import Section


class EvaluateParams(Section):
    """Zero-shot retrieval and linear probes on the test split."""

    num_windows: int = Field(ge=1)
    """Windows, evenly spaced over a clip, whose features are averaged; 4 in the paper."""
    batch_size: int = Field(ge=1)


class PromoteParams(Section):
    """When a new export becomes the champion."""

    metric: Literal[
        "text_to_video_r10", "audio_to_video_r10", "text_to_video_r1", "audio_to_video_r1"
    ]
    tolerance: float = Field(ge=0)
    """The new export may be worse than the champion by this much."""
