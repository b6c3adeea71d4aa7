"""Classifiers: one tower, or two and a fusion, and a linear layer (VATT 4.2.1, 4.2.2, A.3).

No fusion of what is seen and heard is VATT's: tensor fusion is of Zadeh et al. (arXiv 1707.07250),
compact bilinear pooling of Gao et al. (1511.06062) and Fukui et al. (1606.01847), mid-fusion of
AV-BERT (2012.04124).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Discriminator, Field, Tag, model_validator
from torch import Tensor, nn
from torch.nn import functional

from vatt.model.stem import AggToken
from vatt.model.towers import Count, Tower, TowerParams, build_tower, encode
from vatt.model.transformer import Dense, Dropout, Encoder, Group
from vatt.params import ScheduleParams, Section, TowerSize

Kind = Literal["concatenation", "tensor", "bilinear", "attention"]
VideoTokens = Float[Tensor, "B M D"]
AudioTokens = Float[Tensor, "B N E"]
Feature = Float[Tensor, "B F"]
ROOT_EPSILON = 1e-5
"""Keeps the slope of the root finite at 0."""


class FusionParams(Section):
    """What a fusion is built from."""

    kind: Kind
    width: int = Field(ge=1)
    """The width that "tensor" projects each feature to before the outer product, or that of the
    sketch of "bilinear". The others do not use it."""
    size: TowerSize | None = None
    """The size of the encoder of both modalities in "attention". The others do not use it."""
    dropout_rate: float = Field(ge=0, le=1)
    """The rate in that encoder."""


class Fusion(nn.Module, ABC):
    """Tokens of both modalities, AGG first, to one feature of `width` numbers."""

    needs_all_tokens = False
    """Whether it reads more than the AGG tokens."""
    width: int

    @abstractmethod
    def forward(self, video: VideoTokens, audio: AudioTokens) -> Feature:
        """Return one feature for each clip."""


class Concatenation(Fusion):
    """Both features side by side, video first."""

    def __init__(self, video_width: int, audio_width: int) -> None:
        super().__init__()
        self.width = video_width + audio_width

    def forward(self, video: VideoTokens, audio: AudioTokens) -> Float[Tensor, "B D+E"]:
        """Return the features."""
        return torch.cat([video[:, 0], audio[:, 0]], dim=1)


class TensorFusion(Fusion):
    """The outer product of both features with a 1 before each: every feature, and every product.

    Each is projected first, and kept between -1 and 1: products that grow without limit diverge.
    """

    def __init__(self, video_width: int, audio_width: int, width: int) -> None:
        super().__init__()
        self.video, self.audio = Dense(video_width, width), Dense(audio_width, width)
        self.width = (width + 1) ** 2

    def forward(self, video: VideoTokens, audio: AudioTokens) -> Feature:
        """Return the products, those of the first number of the video first."""
        projected = self.video(video[:, 0]).tanh(), self.audio(audio[:, 0]).tanh()
        seen, heard = (functional.pad(feature, (1, 0), value=1.0) for feature in projected)
        return (seen[:, :, None] * heard[:, None]).flatten(1)


class CountSketch(nn.Module):
    """Adds up the numbers of a feature, each with a random sign, in random places of a shorter one.

    Inner products are kept on the mean over the draws, which are part of the weights.
    """

    places: Int[Tensor, "D"]
    signs: Int[Tensor, "D"]

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer("places", torch.randint(width, (in_width,)))
        self.register_buffer("signs", torch.randint(2, (in_width,)) * 2 - 1)

    def forward(self, feature: Float[Tensor, "B D"]) -> Feature:
        """Return the sketch."""
        # As a product: adding in place would sum in any order on a GPU.
        matrix = feature.new_zeros(feature.shape[1], self.width)
        matrix.scatter_(1, self.places[:, None], self.signs[:, None].to(matrix.dtype))
        return feature @ matrix


class CompactBilinear(Fusion):
    """The count sketch of the outer product of both features, never computed itself.

    It is the circular convolution of their sketches, a product behind a Fourier transform. Signed
    roots follow, and a norm. Differs from Fukui et al.: the root mean square becomes 1, not the
    norm, so that the linear layer learns as fast as behind other features.
    """

    def __init__(self, video_width: int, audio_width: int, width: int) -> None:
        super().__init__()
        self.video, self.audio = CountSketch(video_width, width), CountSketch(audio_width, width)
        self.width = width

    def forward(self, video: VideoTokens, audio: AudioTokens) -> Feature:
        """Return the normalised sketch."""
        pooled = self.pool(video[:, 0], audio[:, 0])
        roots = pooled / (pooled.abs() + ROOT_EPSILON).sqrt()
        return functional.rms_norm(roots, (self.width,), eps=ROOT_EPSILON)

    def pool(self, video: Float[Tensor, "B D"], audio: Float[Tensor, "B E"]) -> Feature:
        """Return the sketch of the outer product, in float32 also under autocast."""
        with torch.autocast(video.device.type, enabled=False):
            seen, heard = self.video(video.float()), self.audio(audio.float())
            product = torch.fft.rfft(seen) * torch.fft.rfft(heard)
            pooled: Tensor = torch.fft.irfft(product, n=self.width)
        return pooled


class MidFusion(Fusion):
    """An encoder in which the tokens of both modalities, behind their towers, attend to each other.

    Differs from AV-BERT: an AGG token of its own is read out, and positions come from the towers.
    """

    needs_all_tokens = True

    def __init__(
        self, video_width: int, audio_width: int, size: TowerSize, dropout_rate: float
    ) -> None:
        super().__init__()
        # The bias distinguishes the modalities.
        self.video, self.audio = Dense(video_width, size.width), Dense(audio_width, size.width)
        self.agg_token = AggToken(size.width)
        self.encoder = Encoder(size, dropout_rate)
        self.width = size.width

    def forward(self, video: VideoTokens, audio: AudioTokens) -> Feature:
        """Return the AGG token after the encoder."""
        tokens = self.agg_token(torch.cat([self.video(video), self.audio(audio)], dim=1))
        (encoded,) = self.encoder([Group(tokens)])
        feature: Tensor = encoded[:, 0]
        return feature


def build_fusion(params: FusionParams, video_width: int, audio_width: int) -> Fusion:
    """Return the fusion of features of two widths."""
    match params.kind:
        case "concatenation":
            return Concatenation(video_width, audio_width)
        case "tensor":
            return TensorFusion(video_width, audio_width, params.width)
        case "bilinear":
            return CompactBilinear(video_width, audio_width, params.width)
        case "attention":
            assert params.size is not None
            return MidFusion(video_width, audio_width, params.size, params.dropout_rate)


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
        hears_only = getattr(self, "modality", None) == "audio"
        return hears_only if self.multi_label is None else self.multi_label


class ClassifierParams(TowerParams, HeadParams):
    """What a classifier with one tower is built from."""


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
    """Raw signals of one modality to logits: a linear layer on the AGG token, behind the norm."""

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


def _count_towers(params: Any) -> str:
    has_two = "fusion" in params if isinstance(params, Mapping) else hasattr(params, "fusion")
    return "two towers" if has_two else "one tower"


NetworkParams = Annotated[
    Annotated[ClassifierParams, Tag("one tower")] | Annotated[AudioVisualParams, Tag("two towers")],
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
    if isinstance(params, ClassifierParams):
        return params.model_copy(update=rates | tokens)
    towers = list_towers(params).items()
    rates |= {name: tower.model_copy(update=tokens) for name, tower in towers}
    return params.model_copy(update=rates)


def build_network(params: ClassifierParams | AudioVisualParams) -> Network:
    """Return the network with random weights."""
    if isinstance(params, AudioVisualParams):
        return AudioVisualClassifier(params)
    return Classifier(params)
