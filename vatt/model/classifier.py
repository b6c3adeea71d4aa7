"""A tower with a linear layer on top: VATT fine-tuned to classes (VATT sections 4.2.1, 4.2.2 and A.3).

A classifier of any kind from its parameters.

Two towers, a fusion and a linear layer: a classifier of what is seen and heard.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from jaxtyping import Float
from pydantic import Discriminator, Field, Tag, model_validator
from torch import Tensor, nn

from vatt.model.fusion import FusionParams, build_fusion
from vatt.model.stem import (
    AudioPatches,
    DropToken,
    Patches,
    Positions,
    SpectrogramPatches,
    Stem,
    VideoPatches,
)
from vatt.model.towers import Tower
from vatt.model.transformer import STANDARD, UNBIASED, Dense, Dropout, Encoder, Style
from vatt.params import ScheduleParams, Section, TowerSize

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


class AudioVisualParams(HeadParams):
    """What an audio-visual classifier is built from."""

    video: TowerParams
    audio: TowerParams
    shared_encoder: bool
    """One encoder for both towers, as in VATT-MA."""
    fusion: FusionParams

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have several classes: logits are for sigmoids, not for softmax."""
        return bool(self.multi_label)

    @model_validator(mode="after")
    def _check_towers(self) -> "AudioVisualParams":
        inputs = self.video.input, self.audio.input
        if inputs[0] != "video" or inputs[1] == "video":
            raise ValueError(f"towers of {inputs[0]} and {inputs[1]}: expected video, and sound")
        if self.shared_encoder and self.video.size != self.audio.size:
            raise ValueError("shared_encoder: both towers must have the same size")
        return self


class AudioVisualClassifier(nn.Module):
    """Videos with their sound to one number for each class, before softmax or sigmoid."""

    def __init__(self, params: AudioVisualParams) -> None:
        super().__init__()
        self.modalities = ("video", "audio")
        self.video = build_tower(params.video)
        self.audio = build_tower(
            params.audio, self.video.encoder if params.shared_encoder else None
        )
        self.shares_encoder = params.shared_encoder
        self.fusion = build_fusion(params.fusion, self.video.width, self.audio.width)
        self.dropout = Dropout(params.head_dropout_rate)
        self.head = build_head(
            self.fusion.width, params.num_classes, multi_label=params.is_multi_label
        )

    @property
    def towers(self) -> tuple[Tower, ...]:
        """The towers, one for each of `modalities`."""
        return self.video, self.audio

    def forward(
        self, video: Float[Tensor, "B T H W 3"], audio: Float[Tensor, "B *sound"]
    ) -> Float[Tensor, "B C"]:
        """Return the logits of videos with waveforms (B, S), or spectrograms (B, F, M) if so built."""
        feature = self.fusion(*self._encode(video, audio))
        logits: Tensor = self.head(self.dropout(feature))
        return logits

    def _encode(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of both towers, AGG first; a shared encoder is passed once."""
        all_tokens = self.fusion.needs_all_tokens
        if not self.shares_encoder:
            return (
                self.video(video, all_tokens=all_tokens),
                self.audio(audio, all_tokens=all_tokens),
            )
        groups = [self.video.stem(video), self.audio.stem(audio)]
        seen, heard = self.video.encoder(groups, all_tokens=all_tokens)
        return self.video.post_projection(seen), self.audio.post_projection(heard)

    def average_views(
        self, video: Float[Tensor, "B V T H W 3"], audio: Float[Tensor, "B V *sound"]
    ) -> Float[Tensor, "B C"]:
        """Return the logits of clips seen and heard in V windows each, averaged over these."""
        flat: Tensor = self(video.flatten(0, 1), audio.flatten(0, 1))
        logits: Tensor = flat.unflatten(0, video.shape[:2]).mean(1)
        return logits


ONE_TOWER, TWO_TOWERS = "one tower", "two towers"
Network = Classifier | AudioVisualClassifier


def _count_towers(params: Any) -> str:
    has_two = "fusion" in params if isinstance(params, Mapping) else hasattr(params, "fusion")
    return TWO_TOWERS if has_two else ONE_TOWER


NetworkParams = Annotated[
    Annotated[ClassifierParams, Tag(ONE_TOWER)] | Annotated[AudioVisualParams, Tag(TWO_TOWERS)],
    Discriminator(_count_towers),
]
"""For fields of sections; one with a fusion has two towers."""


def list_towers(params: ClassifierParams | AudioVisualParams) -> dict[str, TowerParams]:
    """Return the towers of each modality, in the order that the network takes them."""
    if isinstance(params, AudioVisualParams):
        return {"video": params.video, "audio": params.audio}
    return {params.modality: params}


def apply_rates(
    params: ClassifierParams | AudioVisualParams, schedule: ScheduleParams
) -> ClassifierParams | AudioVisualParams:
    """Return the parameters with the rates of a schedule: of dropped tokens, and before the head."""
    head = {"head_dropout_rate": schedule.head_dropout_rate}
    tokens = {"drop_token_rate": schedule.drop_token_rate}
    if isinstance(params, AudioVisualParams):
        towers = {
            name: tower.model_copy(update=tokens) for name, tower in list_towers(params).items()
        }
        return params.model_copy(update=head | towers)
    return params.model_copy(update=head | tokens)


def build_network(params: ClassifierParams | AudioVisualParams) -> Network:
    """Return the network with random weights."""
    if isinstance(params, AudioVisualParams):
        return AudioVisualClassifier(params)
    return Classifier(params)
