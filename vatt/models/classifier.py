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
from vatt.models.transformer import STANDARD, UNBIASED, Encoder
from vatt.params import Section, TowerSize

Count = Annotated[int, Field(ge=1)]
NUM_AXES = {"video": 3, "waveform": 1, "spectrogram": 2}


class ClassifierParams(Section):
    """What a classifier is built from."""

    input: Literal["video", "waveform", "spectrogram"]
    size: TowerSize
    patch: tuple[Count, ...]
    """Frames x height x width of a video patch, samples of a waveform patch, or frames x mel bands."""
    grid: tuple[Count, ...]
    """Patches along each of these axes; inputs of other sizes have their positions interpolated."""
    post_projection_width: Count | None
    """Width of the features of a tower from VATT-MA; None for a tower of its own."""
    num_classes: Count
    dropout_rate: float = Field(ge=0, le=1)
    head_dropout_rate: float = Field(ge=0, le=1)
    """Before the linear layer; in the paper 0.5 for video, 0 for audio."""
    drop_token_rate: float = Field(ge=0, lt=1)
    """The share of tokens REMOVED in training; 0 in the paper, 0.5 as released."""

    @model_validator(mode="after")
    def _check_axes(self) -> "ClassifierParams":
        num_axes = NUM_AXES[self.input]
        if not len(self.patch) == len(self.grid) == num_axes:
            raise ValueError(
                f"input = {self.input} has {num_axes} axes, patch = {self.patch}, grid = {self.grid}"
            )
        return self


class Classifier(nn.Module):
    """Raw signals to one number for each class, before softmax (video) or sigmoid (audio).

    The linear layer sits on the AGG token, behind the last norm.
    """

    def __init__(self, params: ClassifierParams) -> None:
        super().__init__()
        self.tower = _build_tower(params)
        self.dropout = Dropout(params.head_dropout_rate)
        self.head = Dense(self.tower.width, params.num_classes)
        if params.input == "video":
            nn.init.xavier_normal_(self.head.weight)
        elif params.num_classes > 1:
            # Of many classes few are heard at once: training begins from there.
            nn.init.constant_(self.head.bias, -math.log(params.num_classes - 1))

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


class _Parts(NamedTuple):
    """What differs between the inputs."""

    patches: Patches
    positions: Positions
    encoder: Encoder


def _build_tower(params: ClassifierParams) -> Tower:
    parts = _build_parts(params)
    stem = Stem(
        parts.patches,
        parts.positions,
        DropToken(params.drop_token_rate, "batch"),
        params.dropout_rate,
        pre_projects=params.post_projection_width is not None,
    )
    return Tower(stem, parts.encoder, params.post_projection_width)


def _build_parts(params: ClassifierParams) -> _Parts:
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
        Encoder(params.size, params.dropout_rate, UNBIASED if is_spectrogram else STANDARD),
    )
