"""Parameters of fine-tuning: a section for each task (VATT sections 4.2.1 and 4.2.2, appendix A.2)."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from vatt.params.data import AugmentParams, ClipParams, Rate
from vatt.params.section import Section
from vatt.params.training import TrainingParams

TaskName = Literal["video", "audio", "image", "audio_visual"]
TASKS: tuple[TaskName, ...] = ("video", "audio", "image", "audio_visual")
SKIPPED = "skipped.json"
"""In the folder of a task, why it was left out."""
Count = Annotated[int, Field(ge=1)]
PRETRAINED = "pretrain"
"""In place of a folder: the export of the stage pretrain."""


class ScheduleParams(Section):
    """How a network is fine-tuned; `tune` searches for these."""

    learning_rate: float = Field(gt=0)
    """Peak, of the head; 0.005 for video, 0.2 for sound, 0.08 for images in the paper."""
    warmup_steps: int = Field(ge=0)
    """Linear from 0; 2500 for video, 5000 for sound in the paper."""
    shape: Literal["cosine", "linear", "constant"]
    """From the peak to 0 by half a period of a cosine, as in the paper, or in a line; or not at all."""
    optimizer: Literal["sgd", "adamw"]
    """SGD with momentum in the paper."""
    momentum: float = Field(ge=0, lt=1)
    """Of SGD; 0.9 in the paper. AdamW's are 0.9 and 0.999."""
    weight_decay: float = Field(ge=0)
    """0 in the paper; biases, norms and position tables have none."""
    layer_decay: float = Field(gt=0, le=1)
    """The learning rate of each layer is that of the layer above times this; 1 is off, as in the paper."""
    label_smoothing: Rate
    """0.1 in the paper, for video and images; of several labels a clip, 0."""
    mixup_alpha: float = Field(ge=0)
    """Of the Beta distribution that clips are mixed by; 5 for sound, else 0 (off) in the paper."""
    drop_token_rate: float = Field(ge=0, lt=1)
    """The share of tokens REMOVED in training; 0 in the paper, 0.5 as released."""
    head_dropout_rate: Rate
    """Before the linear layer; 0.5 for video, 0 for sound in the paper."""


class TaskParams(TrainingParams):
    """One kind of fine-tuning: what is seen or heard, the labels, the schedule."""

    label: str = Field(min_length=1)
    """The task of the annotations whose labels are learnt."""
    multi_label: bool
    """Several labels of a clip may hold at once: sigmoids, balanced by class; else softmax."""
    initial_weights: Annotated[str, Field(min_length=1)] | None
    """"pretrain", "champion", or the folder of an export or of an imported classifier; null: random
    weights."""
    fusion: Literal["concatenation", "tensor", "bilinear", "attention"] | None = None
    """How picture and sound meet; null in the other tasks."""
    num_frames: Count | None
    """320 x 320 pixels and 32 frames for video, 384 x 384 for images in the paper. Here and in the
    next two, null is as in `clip`; at other sizes positions are interpolated (VATT section 4.1.3).
    Of an image: how often it is repeated in time, null is the length of a patch."""
    frame_size_px: Annotated[int, Field(ge=8)] | None
    num_samples: Count | None
    """At 48 kHz, before `audio_stride`; 307200 (6.4 s) in the paper."""
    audio_stride: Count
    """Every so many samples one is heard; 2 in the paper, which so fine-tunes at 24 kHz."""
    augment: AugmentParams
    """In training only."""
    schedule: ScheduleParams
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    """The exported weights are a running average over the updates, which decays by this much at each
    one; null are the last ones, as in the paper."""
    freeze: Literal["none", "tower"] | Count
    """What is not trained: nothing, all but the head, or the patches and so many first layers."""
    compare_with_scratch: bool
    """Train once more, as long, from random weights: the table of results has both."""

    accumulation_steps: int = Field(default=1, ge=1)
    keep_checkpoints: int = Field(default=1, ge=1)
    keep_every_steps: int | None = Field(default=None, ge=1)
    on_bad_step: Literal["stop", "skip", "roll_back"] = "stop"
    spike_factor: float | None = Field(default=None, gt=1)
    max_bad_steps: int = Field(default=0, ge=0)

    def cut_clip(self, clip: ClipParams) -> ClipParams:
        """Return the clip of this task: that of pre-training but for what is said here."""
        sizes = {
            name: value
            for name in ("num_frames", "frame_size_px", "num_samples")
            if (value := getattr(self, name)) is not None
        }
        return clip.model_copy(update={**sizes, "augment": self.augment})


class Task(NamedTuple):
    """A task with its section of params.yaml, `finetune.<name>`: what a stage of tasks takes."""

    name: TaskName
    params: TaskParams


class FinetuneParams(Section):
    """All tasks."""

    video: TaskParams
    audio: TaskParams
    image: TaskParams
    audio_visual: TaskParams

    def task(self, name: TaskName) -> TaskParams:
        """Return the section of a task of TASKS."""
        params: TaskParams = getattr(self, name)
        return params
