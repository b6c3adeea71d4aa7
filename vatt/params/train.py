"""Parameters of pre-training and of how it is launched."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from vatt.params.section import Section


class PretrainParams(Section):
    """Self-supervised training (VATT section 4.2)."""

    num_steps: int = Field(ge=1)
    batch_size: int = Field(ge=2)
    """Clips in a step, over all ranks; 2048 in the paper."""
    learning_rate: float = Field(gt=0)
    """Peak of the schedule; it is reached by a linear warm-up and ends at its half."""
    schedule: Literal["paper", "released"]
    """From the peak to its half: a quarter period of a cosine (paper) or half a period (released)."""
    warmup_steps: int = Field(ge=0)
    adam_epsilon: float = Field(gt=0)
    gradient_clip_norm: float = Field(ge=0)
    """Global norm to clip gradients at; 0 is off, as in the paper."""
    checkpoint_every_steps: int = Field(ge=1)
    keep_checkpoints: int = Field(ge=1)
    log_every_steps: int = Field(ge=1)
    initial_weights: str | None
    """Start from an export: its folder, or "champion"; null starts from random weights."""
    word_vectors: Path | None
    """Start with this word table: a safetensors file with one float32 tensor `words` of (vocabulary,
    model.word_width); null starts with random vectors. The paper's come from word2vec."""


class LaunchParams(Section):
    """How training runs, apart from what it computes."""

    num_processes: int = Field(ge=1)
    """Processes on this machine; above 1 they are started by torchrun."""
    threads_per_process: int = Field(ge=1)
    loader_workers: int = Field(ge=0)
    """Processes that decode clips, for each training process."""
    zero_stage: Literal[0, 1, 2, 3]
    precision: Literal["fp32", "bf16"]
    recompute_activations: bool
    """Keep only what enters each block, and compute the rest again in the backward pass."""
    ray_address: str | None
    """The Ray cluster that preprocesses: host:port, or auto for the one that this machine belongs to;
    null uses all cores of this machine."""
