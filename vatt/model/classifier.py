"""Classifiers: one tower, or two and a fusion, and a linear layer (VATT 4.2.1, 4.2.2, A.3)."""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from jaxtyping import Float
from pydantic import Discriminator, Field, Tag, model_validator
from torch import Tensor, nn

from vatt.model.fusion import FusionParams, build_fusion
from vatt.model.towers import Count, Tower, TowerParams, build_tower, encode
from vatt.model.transformer import Dense, Dropout
from vatt.params import ScheduleParams, Section


class HeadParams(Section):
    """What the linear layer of a classifier is built from."""

    num_classes: Count
    head_dropout_rate: float = Field(ge=0, le=1)
    """The rate before the linear layer; in the paper 0.5 for video, 0 for audio."""
    multi_label: bool | None = None
    """Whether a clip may have several classes; None: sound may, video not, as in the paper."""

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have several classes: logits are for sigmoids, not for softmax."""
        return bool(self.multi_label)


class ClassifierParams(TowerParams, HeadParams):
    """What a classifier with one tower is built from."""

    @property
    def is_multi_label(self) -> bool:
        """Whether a clip may have several classes: logits are for sigmoids, not for softmax."""
        return self.modality == "audio" if self.multi_label is None else self.multi_label


class AudioVisualParams(HeadParams):
    """What an audio-visual classifier is built from."""

    video: TowerParams
    audio: TowerParams
    shared_encoder: bool
    """One encoder for both towers, as in VATT-MA."""
    fusion: FusionParams

    @model_validator(mode="after")
    def _check_towers(self) -> "AudioVisualParams":
        inputs = self.video.input, self.audio.input
        if inputs[0] != "video" or inputs[1] == "video":
            raise ValueError(f"towers of {inputs[0]} and {inputs[1]}: expected video, and sound")
        if self.shared_encoder and self.video.size != self.audio.size:
            raise ValueError("shared_encoder: both towers must have the same size")
        return self


class Network(nn.Module):
    """A classifier: raw signals to one number for each class, before softmax or sigmoid."""

    modalities: tuple[str, ...]
    """What it takes, in this order."""
    towers: tuple[Tower, ...]
    """One for each of `modalities`."""
    dropout: Dropout
    head: Dense

    def average_views(self, *views: Float[Tensor, "B V ..."]) -> Float[Tensor, "B C"]:
        """Return the logits of clips, averaged over the V windows or crops by which each is seen.

        There is one tensor for each of `modalities`.
        """
        each: Tensor = self(*(view.flatten(0, 1) for view in views))
        logits: Tensor = each.unflatten(0, views[0].shape[:2]).mean(1)
        return logits


class Classifier(Network):
    """Raw signals of one modality to logits.

    The linear layer sits on the AGG token, behind the last norm.
    """

    def __init__(self, params: ClassifierParams) -> None:
        super().__init__()
        self.modalities = (params.modality,)
        self.tower = build_tower(params)
        self.towers = (self.tower,)
        self.dropout = Dropout(params.head_dropout_rate)
        self.head = build_head(self.tower.width, params)

    def forward(self, signal: Tensor) -> Float[Tensor, "B C"]:
        """Return the logits of videos (B, T, H, W, 3), waveforms (B, S) or spectrograms (B, F, M).

        Waveforms are accepted where spectrograms are: they become log-mel spectrograms.
        """
        features = self.tower(signal)[:, 0]
        logits: Tensor = self.head(self.dropout(features))
        return logits


class AudioVisualClassifier(Network):
    """Videos with their sound to logits."""

    def __init__(self, params: AudioVisualParams) -> None:
        super().__init__()
        self.modalities = ("video", "audio")
        self.video = build_tower(params.video)
        shared_encoder = self.video.encoder if params.shared_encoder else None
        self.audio = build_tower(params.audio, shared_encoder)
        self.towers = (self.video, self.audio)
        self.fusion = build_fusion(params.fusion, self.video.width, self.audio.width)
        self.dropout = Dropout(params.head_dropout_rate)
        self.head = build_head(self.fusion.width, params)

    def forward(
        self, video: Float[Tensor, "B T H W 3"], audio: Float[Tensor, "B *sound"]
    ) -> Float[Tensor, "B C"]:
        """Return the logits of videos with waveforms (B, S), or spectrograms (B, F, M)."""
        all_tokens = self.fusion.needs_all_tokens
        feature = self.fusion(*encode(self.towers, (video, audio), all_tokens=all_tokens))
        logits: Tensor = self.head(self.dropout(feature))
        return logits


def build_head(width: int, params: ClassifierParams | AudioVisualParams) -> Dense:
    """Return the linear layer from features to classes, with the original's first weights."""
    head = Dense(width, params.num_classes)
    if not params.is_multi_label:
        nn.init.xavier_normal_(head.weight)
    elif params.num_classes > 1:
        # Few of many classes are there at once: training begins from a probability of 1 / C.
        nn.init.constant_(head.bias, -math.log(params.num_classes - 1))
    return head


ONE_TOWER, TWO_TOWERS = "one tower", "two towers"


def _count_towers(params: Any) -> str:
    has_two = "fusion" in params if isinstance(params, Mapping) else hasattr(params, "fusion")
    return TWO_TOWERS if has_two else ONE_TOWER


NetworkParams = Annotated[
    Annotated[ClassifierParams, Tag(ONE_TOWER)] | Annotated[AudioVisualParams, Tag(TWO_TOWERS)],
    Discriminator(_count_towers),
]
"""The type of a field of a section; parameters with a fusion are those of two towers."""


def list_towers(params: ClassifierParams | AudioVisualParams) -> dict[str, TowerParams]:
    """Return the towers of each modality, in the order that the network takes them."""
    if isinstance(params, AudioVisualParams):
        return {"video": params.video, "audio": params.audio}
    return {params.modality: params}


def apply_rates(
    params: ClassifierParams | AudioVisualParams, schedule: ScheduleParams
) -> ClassifierParams | AudioVisualParams:
    """Return the parameters with a schedule's rates of dropped tokens and of the head's dropout."""
    rates: dict[str, Any] = {"head_dropout_rate": schedule.head_dropout_rate}
    tokens = {"drop_token_rate": schedule.drop_token_rate}
    if isinstance(params, AudioVisualParams):
        towers = list_towers(params).items()
        rates |= {name: tower.model_copy(update=tokens) for name, tower in towers}
    else:
        rates |= tokens
    return params.model_copy(update=rates)


def build_network(params: ClassifierParams | AudioVisualParams) -> Network:
    """Return the network with random weights."""
    if isinstance(params, AudioVisualParams):
        return AudioVisualClassifier(params)
    return Classifier(params)
