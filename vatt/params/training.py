"""Parameters of all training, and of pre-training."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vatt.params.section import Section


class TrainingParams(Section):
    """What pre-training and fine-tuning share: how long, in which steps, and what is kept."""

    num_steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    """Clips of one update, over all ranks; 2048 in the paper's pre-training."""
    accumulation_steps: int = Field(ge=1)
    """Parts that a batch is computed in, one after the other; 1 in the paper. In pre-training a clip's
    negatives are those of its part, so that more parts are not the same training with less memory."""
    gradient_clip_norm: float = Field(ge=0)
    """Global norm to clip gradients at; 0 is off, as in the paper."""
    checkpoint_every_steps: int = Field(ge=1)
    keep_checkpoints: int = Field(ge=1)
    keep_every_steps: int | None = Field(ge=1)
    """Checkpoints at multiples of it are never removed."""
    on_bad_step: Literal["stop", "skip", "roll_back"]
    """What follows a step whose loss or gradient is not finite, or whose loss is a spike: the run
    ends; its update is left out; or training goes on behind it with the weights of the newest
    checkpoint (before the first one: as skip)."""
    spike_factor: float | None = Field(gt=1)
    """A loss of so many medians of the last 100 steps is a spike; null: none is."""
    max_bad_steps: int = Field(ge=0)
    """A run with more bad steps ends."""
    log_every_steps: int = Field(ge=1)
    validate_every_steps: int | None = Field(ge=1)
    """How often the network is measured on the split validation; null is never."""
    validation_clips: int = Field(ge=2)
    """Of the split validation, at most."""


class PretrainParams(TrainingParams):
    """Self-supervised training (VATT section 4.2)."""

    learning_rate: float = Field(gt=0)
    """Peak of the schedule; it is reached by a linear warm-up and ends at its half."""
    schedule: Literal["paper", "released"]
    """From the peak to its half: a quarter period of a cosine (paper) or half a period (released)."""
    warmup_steps: int = Field(ge=0)
    adam_epsilon: float = Field(gt=0)
    source_weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """How often samples of each source are drawn, in proportion: HowTo100M and AudioSet half and half,
    however many they have. null draws every sample equally often."""
    initial_weights: Annotated[str, Field(min_length=1)] | None
    """Start from an export: its folder, or "champion"; null starts from random weights."""
    word_vectors: Path | None
    """Start with this word table: a safetensors file with one float32 tensor `words` of (vocabulary,
    model.word_width); null starts with random vectors. The paper's come from word2vec."""
