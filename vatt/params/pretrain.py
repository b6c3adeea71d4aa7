"""Parameters of all training, and of pre-training."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vatt.params.section import Section


class TrainingParams(Section):
    """What pre-training and fine-tuning share: the steps, and which checkpoints are kept."""

    num_steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    """The clips of one update, over all ranks; 2048 in the paper's pre-training."""
    accumulation_steps: int = Field(ge=1)
    """The number of parts of a batch that are computed one after the other; 1 in the paper. In
    pre-training a clip's negatives are of its own part, so more parts are not the same training."""
    gradient_clip_norm: float = Field(ge=0)
    """The global norm that gradients are clipped at; 0 is off, as in the paper."""
    checkpoint_every_steps: int = Field(ge=1)
    keep_checkpoints: int = Field(ge=1)
    keep_every_steps: int | None = Field(ge=1)
    """Checkpoints at multiples of this step are never removed."""
    on_bad_step: Literal["stop", "skip", "roll_back"]
    """What follows a step with a loss or gradient that is not finite, or a loss that is a spike:
    the run ends, the update is skipped, or training goes on after the step from the newest
    checkpoint (before the first checkpoint, as skip)."""
    spike_factor: float | None = Field(gt=1)
    """A loss of so many medians of the last 100 steps is a spike; null turns this off."""
    max_bad_steps: int = Field(ge=0)
    """The number of bad steps that end a run when it is exceeded."""
    log_every_steps: int = Field(ge=1)
    validate_every_steps: int | None = Field(ge=1)
    """The steps between two measurements on the split validation; null measures nothing."""
    validation_clips: int = Field(ge=2)
    """The most clips of the split validation that are measured."""


class PretrainParams(TrainingParams):
    """Self-supervised training (VATT section 4.2)."""

    learning_rate: float = Field(gt=0)
    """The peak of the schedule, which rises to it in a line and ends at half of it."""
    schedule: Literal["paper", "released"]
    """The way from the peak to its half: a quarter period of a cosine (paper) or half a one
    (released)."""
    warmup_steps: int = Field(ge=0)
    adam_epsilon: float = Field(gt=0)
    source_weights: dict[str, Annotated[float, Field(ge=0)]] | None = None
    """The shares of the draws from each source, such as HowTo100M and AudioSet half and half,
    however many samples they have; null draws every sample equally often."""
    initial_weights: Annotated[str, Field(min_length=1)] | None
    """The export to start from, a folder or "champion"; null starts from random weights."""
    word_vectors: Path | None
    """A word table to start with: a safetensors file with one float32 tensor `words` of shape
    (vocabulary, model.word_width), word2vec in the paper; null starts with random vectors."""
