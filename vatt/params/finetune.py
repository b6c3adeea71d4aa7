"""Parameters of fine-tuning, a section for each task (VATT sections 4.2.1, 4.2.2, appendix A.2)."""

from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from vatt.params.clip import AugmentParams, ClipParams
from vatt.params.pretrain import TrainingParams
from vatt.params.section import Rate, Section

TaskName = Literal["video", "audio", "image", "audio_visual"]
TASKS: tuple[TaskName, ...] = ("video", "audio", "image", "audio_visual")
SKIPPED = "skipped.json"
"""The file in the folder of a task that says why the task was left out."""
Count = Annotated[int, Field(ge=1)]
PRETRAINED = "pretrain"
"""The word that stands for the export of the stage pretrain, in place of a folder."""


class ScheduleParams(Section):
    """How a network is fine-tuned; `tune` searches for these."""

    learning_rate: float = Field(gt=0)
    """The peak, which the head trains at; the paper has 0.005 for video, 0.2 for sound, 0.08 for
    images."""
    warmup_steps: int = Field(ge=0)
    """The rate rises from 0 in a line over these; the paper has 2500 for video, 5000 for sound."""
    shape: Literal["cosine", "linear", "constant"]
    """The way from the peak to 0: half a period of a cosine (paper), a line, or none (constant)."""
    optimizer: Literal["sgd", "adamw"]
    """The paper uses SGD with momentum."""
    momentum: float = Field(ge=0, lt=1)
    """The momentum of SGD, 0.9 in the paper; AdamW has betas of 0.9 and 0.999."""
    weight_decay: float = Field(ge=0)
    """The paper has 0; biases, norms and position tables are never decayed."""
    layer_decay: float = Field(gt=0, le=1)
    """The factor of the learning rate from each layer to the one below; 1 is off, as in the
    paper."""
    label_smoothing: Rate
    """The paper has 0.1 for video and images; it must be 0 where a clip has several labels."""
    mixup_alpha: float = Field(ge=0)
    """The parameter of the Beta distribution that clips are mixed by; paper: 5 for sound, else 0
    (off)."""
    drop_token_rate: float = Field(ge=0, lt=1)
    """The share of tokens REMOVED in training; 0 in the paper, 0.5 in the released code."""
    head_dropout_rate: Rate
    """The rate of dropout before the linear layer; paper: 0.5 for video, 0 for sound."""


class TaskParams(TrainingParams):
    """One kind of fine-tuning: what is seen or heard, the labels, the schedule."""

    label: str = Field(min_length=1)
    """The task of the annotations whose labels are learnt."""
    multi_label: bool
    """Whether several labels of a clip may hold at once: sigmoids balanced by class, else a
    softmax."""
    initial_weights: Annotated[str, Field(min_length=1)] | None
    """"pretrain", "champion", or the folder of an export or of an imported classifier; null: random
    weights."""
    fusion: Literal["concatenation", "tensor", "bilinear", "attention"] | None = None
    """How picture and sound meet; null in the other tasks."""
    num_frames: Count | None
    """Null is as in `clip`, here and in the next two; at other sizes positions are interpolated
    (VATT section 4.1.3). The paper has 32 frames of 320 x 320 pixels for video and 384 x 384 for
    images. For images it is how often the picture is repeated; null repeats it over a patch."""
    frame_size_px: Annotated[int, Field(ge=8)] | None
    num_samples: Count | None
    """Samples at 48 kHz, before `audio_stride` thins them; 307200 (6.4 s) in the paper."""
    audio_stride: Count
    """The network hears every n-th sample; the paper has n = 2 and so fine-tunes at 24 kHz."""
    augment: AugmentParams
    """The random changes of clips, made in training only."""
    schedule: ScheduleParams
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    """The decay of a running average of the weights, which is then exported; null exports the last
    weights, as in the paper."""
    freeze: Literal["none", "tower"] | Count
    """What stays as it is: nothing, all but the head, or the patches and so many first layers."""
    compare_with_scratch: bool
    """Whether to train once more, as long, from random weights, so that the results have both."""

    accumulation_steps: int = Field(default=1, ge=1)
    keep_checkpoints: int = Field(default=1, ge=1)
    keep_every_steps: int | None = Field(default=None, ge=1)
    on_bad_step: Literal["stop", "skip", "roll_back"] = "stop"
    spike_factor: float | None = Field(default=None, gt=1)
    max_bad_steps: int = Field(default=0, ge=0)

    def cut_clip(self, clip: ClipParams) -> ClipParams:
        """Return the clip of pre-training with the sizes and random changes of this task."""
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
    """The sections of all tasks."""

    video: TaskParams
    audio: TaskParams
    image: TaskParams
    audio_visual: TaskParams

    def task(self, name: TaskName) -> TaskParams:
        """Return the section of a task of TASKS."""
        params: TaskParams = getattr(self, name)
        return params
