"""Two towers, a fusion and a linear layer: a classifier of what is seen and heard."""

from jaxtyping import Float
from pydantic import model_validator
from torch import Tensor, nn

from vatt.models.classification.classifier import HeadParams, TowerParams, build_head, build_tower
from vatt.models.classification.fusion import FusionParams, build_fusion
from vatt.models.layers import Dropout
from vatt.models.tower import Tower


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
