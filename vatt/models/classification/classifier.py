"""A tower with a linear layer on top: VATT fine-tuned to classes (VATT sections 4.2.1, 4.2.2 and A.3)."""

import math
from typing import Annotated, Literal, NamedTuple

from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from vatt.models.droptoken import DropToken
from vatt.models.layers import Dense, Dropout
from vatt.models.patches import AudioPatches, Patches, SpectrogramPatches, VideoPatches
from vatt.models.positions import Positions
from vatt.models.stem import Stem
from vatt.models.tower import Tower
from vatt.models.transformer import STANDARD, UNBIASED, Encoder, Style
from vatt.params import Section, TowerSize

Count = Annotated[int, Field(ge=1)]
NUM_AXES = {"video": 3, "waveform": 1, "spectrogram": 2}


class TowerParams(Section):
    """What a tower of a classifier is built from."""

    input: Literal["video", "waveform", "spectrogram"]
    size: TowerSize
    patch: tuple[Count, ...]
    """Frames x height x width of a video patch, samples of a waveform patch, or frames x mel bands."""
    grid: tuple[Count, ...]
    """Patches along each of these axes; inputs of other sizes have their positions interpolated."""
    post_projection_width: Count | None
    """Width of the features of a tower from VATT-MA; None for a tower of its own."""
    dropout_rate: float = Field(ge=0, le=1)
    drop_token_rate: float = Field(ge=0, lt=1)
    """The share of tokens REMOVED in training; 0 in the paper, 0.5 as released."""

    @model_validator(mode="after")
    def _check_axes(self) -> "TowerParams":
        num_axes = NUM_AXES[self.input]
        if not len(self.patch) == len(self.grid) == num_axes:
            raise ValueError(
                f"input = {self.input} has {num_axes} axes, patch = {self.patch}, grid = {self.grid}"
            )
        return self

    @property
    def modality(self) -> Literal["video", "audio"]:
        """What the tower is for."""
        return "video" if self.input == "video" else "audio"

    def measure(self) -> tuple[int, ...]:
        """Return the shape of one signal: frames, height, width and 3; samples; or frames and bands."""
        shape = tuple(points * count for points, count in zip(self.patch, self.grid, strict=True))
        return (*shape, 3) if self.input == "video" else shape


class HeadParams(Section):
    """What the linear layer of a classifier is built from."""

    num_classes: Count
    head_dropout_rate: float = Field(ge=0, le=1)
    """Before the linear layer; in the paper 0.5 for video, 0 for audio."""
    multi_label: bool | None = None
    """Whether a clip may have several classes; None: sound may, video not, as in the paper."""


class ClassifierParams(TowerParams, HeadParams):
    """What a classifier with one tower is built from."""

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have several classes: logits are for sigmoids, not for softmax."""
        return self.modality == "audio" if self.multi_label is None else self.multi_label


class Classifier(nn.Module):
    """Raw signals to one number for each class, before softmax (video) or sigmoid (audio).

    The linear layer sits on the AGG token, behind the last norm.
    """

    def __init__(self, params: ClassifierParams) -> None:
        super().__init__()
        self.modalities = (params.modality,)
        self.tower = build_tower(params)
        self.dropout = Dropout(params.head_dropout_rate)
        multi_label = (
            params.modality == "audio" if params.multi_label is None else params.multi_label
        )
        self.head = build_head(self.tower.width, params.num_classes, multi_label=multi_label)

    @property
    def towers(self) -> tuple[Tower, ...]:
        """The towers, one for each of `modalities`."""
        return (self.tower,)

    def forward(self, signal: Tensor) -> Float[Tensor, "B C"]:
        """Return the logits of videos (B, T, H, W, 3), waveforms (B, S) or spectrograms (B, F, M).

        Waveforms are accepted where spectrograms are: they become log-mel spectrograms.
        """
        features = self.tower(signal)[:, 0]
        logits: Tensor = self.head(self.dropout(features))
        return logits

    def average_views(self, views: Float[Tensor, "B V *signal"]) -> Float[Tensor, "B C"]:
        """Return the logits of clips seen by V windows or crops each, averaged over these."""
        logits: Tensor = self(views.flatten(0, 1)).unflatten(0, views.shape[:2]).mean(1)
        return logits


class EitherInput(nn.Module):
    """Waveforms to log-mel spectrograms; what is a spectrogram already passes."""

    def __init__(self, log_mel: nn.Module) -> None:
        super().__init__()
        self.log_mel = log_mel

    def forward(self, signal: Tensor) -> Float[Tensor, "B F M"]:
        """Return spectrograms of waveforms (B, S) or spectrograms (B, F, M)."""
        spectrogram: Tensor = self.log_mel(signal) if signal.ndim == 2 else signal
        return spectrogram


def build_head(width: int, num_classes: int, *, multi_label: bool) -> Dense:
    """Return the linear layer from features to classes, with the original's first weights."""
    head = Dense(width, num_classes)
    if not multi_label:
        nn.init.xavier_normal_(head.weight)
    elif num_classes > 1:
        # Of many classes few are there at once: training begins from there.
        nn.init.constant_(head.bias, -math.log(num_classes - 1))
    return head


class _Parts(NamedTuple):
    """What differs between the inputs."""

    patches: Patches
    positions: Positions
    style: Style


def build_tower(params: TowerParams, shared_encoder: Encoder | None = None) -> Tower:
    """Return a tower with its own or the shared encoder."""
    parts = _build_parts(params)
    stem = Stem(
        parts.patches,
        parts.positions,
        DropToken(params.drop_token_rate, "batch"),
        params.dropout_rate,
        pre_projects=params.post_projection_width is not None,
    )
    encoder = shared_encoder or Encoder(params.size, params.dropout_rate, parts.style)
    return Tower(stem, encoder, params.post_projection_width)


def _build_parts(params: TowerParams) -> _Parts:
    width = params.size.width
    is_spectrogram = params.input == "spectrogram"
    patches: Patches
    match params.patch:
        case (frames, height, width_px):
            patches = VideoPatches((frames, height, width_px), width)
        case (frames, bands):
            patches = SpectrogramPatches((frames, bands), width)
            patches.spectrogram = EitherInput(patches.spectrogram)
        case (samples,):
            patches = AudioPatches(samples, width)
    return _Parts(
        patches,
        Positions(params.grid, width, first_axis_fastest=is_spectrogram),
        UNBIASED if is_spectrogram else STANDARD,
    )
