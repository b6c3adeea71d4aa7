"""The parameters of a task, its objective and a batch; tests change what they are about."""

import torch

from tests.model.networks import AUDIO_VISUAL, VIDEO
from vatt.core.batch import LabelledBatch
from vatt.model.classifier import build_network
from vatt.params import AugmentParams, ScheduleParams, TaskParams
from vatt.train.finetuning import ClassificationObjective

TASK = TaskParams(
    num_steps=10,
    batch_size=4,
    gradient_clip_norm=0.0,
    checkpoint_every_steps=5,
    log_every_steps=5,
    validate_every_steps=5,
    validation_clips=10,
    label="action",
    multi_label=False,
    initial_weights=None,
    num_frames=None,
    frame_size_px=None,
    num_samples=None,
    audio_stride=1,
    augment=AugmentParams(
        crop="inception",
        scale_jitter_rate=0.0,
        flip_rate=0.5,
        colour_jitter_rate=0.8,
        audio_noise=0.0,
    ),
    schedule=ScheduleParams(
        learning_rate=0.005,
        warmup_steps=2,
        shape="cosine",
        optimizer="sgd",
        momentum=0.9,
        weight_decay=0.0,
        layer_decay=1.0,
        label_smoothing=0.1,
        mixup_alpha=0.0,
        drop_token_rate=0.0,
        head_dropout_rate=0.0,
    ),
    ema_decay=None,
    freeze="none",
    compare_with_scratch=False,
)


def change(task: TaskParams = TASK, **schedule: object) -> TaskParams:
    """Return a task with another schedule."""
    return task.model_copy(update={"schedule": task.schedule.model_copy(update=schedule)})


def build_objective(task: TaskParams, kind: str | None = None) -> ClassificationObjective:
    """Return the objective of a network for video, two blocks deep, or for both by a fusion."""
    torch.manual_seed(0)
    return ClassificationObjective(build_network(AUDIO_VISUAL[kind] if kind else VIDEO), task)


def draw_batch(num_clips: int = 4, seed: int = 0) -> LabelledBatch:
    """Return clips for these networks, each of its own class."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.rand(num_clips, 4, 16, 16, 3, generator=generator) * 2 - 1
    audio = torch.rand(num_clips, 96, generator=generator) * 2 - 1
    return LabelledBatch({"video": video, "audio": audio}, torch.eye(7)[:num_clips])
