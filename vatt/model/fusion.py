"""Ways to make one feature of what is seen and what is heard, for the audio-visual classifier.

None is VATT's: tensor fusion is of Zadeh et al. (arXiv 1707.07250), compact bilinear pooling of
Gao et al. (1511.06062) and Fukui et al. (1606.01847), mid-fusion of AV-BERT (2012.04124).
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from vatt.model.stem import AggToken
from vatt.model.transformer import Dense, Encoder, Group
from vatt.params import Section, TowerSize

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
