"""The parameters of a task; tests change what they are about."""

from vatt.params import AugmentParams, ScheduleParams, TaskParams

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
