"""VATT: a tower and a projection for each modality (VATT figure 1), or one encoder for all (VATT-MA)."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from vatt.core.batch import Batch, Embeddings
from vatt.model.projection import build_projections
from vatt.model.text import Words
from vatt.model.towers import Tower, build_audio_tower, build_text_tower, build_video_tower
from vatt.params import ClipParams, ModelParams


class Vatt(nn.Module):
    """Video, audio and text to two shared spaces; each modality is patchify -> drop -> encode -> project."""

    def __init__(self, params: ModelParams, clip: ClipParams, vocab_size: int) -> None:
        super().__init__()
        self.video = build_video_tower(params, clip)
        shared = self.video.encoder if params.shared_encoder else None
        self.audio = build_audio_tower(params, clip, shared)
        self.text = build_text_tower(params, clip, vocab_size, shared)
        self.shares_encoder = params.shared_encoder
        projections = build_projections(
            params.space_kind,
            (self.video.width, self.audio.width, self.text.width),
            (params.space_va_width, params.space_vt_width),
            batch_norm_everywhere=params.batch_norm_everywhere,
        )
        self.video_projection, self.audio_projection, self.text_projection = projections

    @property
    def words(self) -> Words:
        """The word table."""
        stem: Any = self.text.stem if isinstance(self.text, Tower) else self.text
        words: Words = stem.words
        return words

    def forward(self, batch: Batch) -> Embeddings:
        """Return all clips of a batch in the shared spaces; what is masked is embedded, too."""
        signals = batch.video, batch.audio, batch.text.flatten(0, 1)
        if self.shares_encoder:
            video, audio, text = self._encode_together(*signals)
        else:
            encoders = self.encode_video, self.encode_audio, self.encode_text
            video, audio, text = (
                encode(signal) for encode, signal in zip(encoders, signals, strict=True)
            )
        video_va, video_vt = self.project_video(video)
        return Embeddings(
            video_va=video_va,
            audio_va=self.project_audio(audio),
            video_vt=video_vt,
            text_vt=self.project_text(text).unflatten(0, batch.text.shape[:2]),
        )

    def _encode_together(self, *signals: Tensor) -> list[Float[Tensor, "_ D"]]:
        """Return the features of all modalities after one pass through the shared encoder.

        Equal to three passes; under ZeRO-3 the weights are then gathered once.
        """
        towers: list[Any] = [self.video, self.audio, self.text]
        groups = [tower.stem(signal) for tower, signal in zip(towers, signals, strict=True)]
        encoded = self.video.encoder(groups)
        return [
            tower.post_projection(tokens)[:, 0]
            for tower, tokens in zip(towers, encoded, strict=True)
        ]

    def encode_video(self, video: Tensor) -> Float[Tensor, "B D"]:
        """Return the feature (AGG token) of videos (B, T, H, W, 3) in [-1, 1], of any size above one patch."""
        encoded: Tensor = self.video(video)
        return encoded[:, 0]

    def encode_audio(self, audio: Tensor) -> Float[Tensor, "B D"]:
        """Return the feature (AGG token) of 48 kHz waveforms (B, S) in [-1, 1], longer than one patch."""
        encoded: Tensor = self.audio(audio)
        return encoded[:, 0]

    def encode_text(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B D"]:
        """Return the feature (AGG token) of texts; id 0 is padding."""
        encoded: Tensor = self.text(ids)
        return encoded[:, 0]

    def project_video(
        self, features: Float[Tensor, "B D"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B F"]]:
        """Return video features in the video-audio and in the video-text space, not normalised."""
        spaces: tuple[Tensor, Tensor] = self.video_projection(features)
        return spaces

    def project_audio(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """Return audio features in the video-audio space, not normalised."""
        projected: Tensor = self.audio_projection(features)
        return projected

    def project_text(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B F"]:
        """Return text features in the video-text space, not normalised."""
        projected: Tensor = self.text_projection(features)
        return projected
