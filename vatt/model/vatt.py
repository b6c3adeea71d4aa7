"""VATT: a tower and a projection for each modality (VATT figure 1).

In VATT-MA the three towers share one encoder.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn

from vatt.core.batch import Batch, Embeddings
from vatt.model.projection import build_projections
from vatt.model.text import Words
from vatt.model.towers import Tower, build_text_tower, build_tower, describe_towers, encode
from vatt.params import ClipParams, ModelParams


class Vatt(nn.Module):
    """Video, audio and text to two shared spaces: patchify -> drop -> encode -> project."""

    def __init__(self, params: ModelParams, clip: ClipParams, vocab_size: int) -> None:
        super().__init__()
        towers, draw = describe_towers(params), params.drop_token_draw
        self.video = build_tower(towers["video"].fit(clip), pretrains=draw)
        shared = self.video.encoder if params.shared_encoder else None
        self.audio = build_tower(towers["audio"].fit(clip), shared, pretrains=draw)
        self.text = build_text_tower(params, clip, vocab_size, shared)
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
        words: Words = (self.text.stem if isinstance(self.text, Tower) else self.text).words
        return words

    def forward(self, batch: Batch) -> Embeddings:
        """Return all clips of a batch in the shared spaces; what is masked is embedded, too."""
        towers = self.video, self.audio, self.text
        signals = batch.video, batch.audio, batch.text.flatten(0, 1)
        video, audio, text = (encoded[:, 0] for encoded in encode(towers, signals))
        video_va, video_vt = self.project_video(video)
        return Embeddings(
            video_va=video_va,
            audio_va=self.project_audio(audio),
            video_vt=video_vt,
            text_vt=self.project_text(text).unflatten(0, batch.text.shape[:2]),
        )

    def encode_video(self, video: Tensor) -> Float[Tensor, "B D"]:
        """Return the feature (AGG token) of videos (B, T, H, W, 3) in [-1, 1].

        Any size above one patch is accepted.
        """
        encoded: Tensor = self.video(video)
        return encoded[:, 0]

    def encode_audio(self, audio: Tensor) -> Float[Tensor, "B D"]:
        """Return the feature (AGG token) of 48 kHz waveforms (B, S) in [-1, 1].

        Any length above one patch is accepted.
        """
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
