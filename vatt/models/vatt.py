"""The modality-specific VATT: a tower and a projection for each modality (VATT figure 1)."""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from vatt.batch import Batch, Embeddings
from vatt.models.patches import AudioPatches, VideoPatches
from vatt.models.projection import VideoProjection
from vatt.models.text import TEXT_SIZES, TextSize, TextTower
from vatt.models.tower import Tower
from vatt.models.transformer import Dense, Encoder
from vatt.params import TOWER_SIZES, ClipParams, ModelParams, TowerSize


class Sizes(NamedTuple):
    """Sizes of the three towers."""

    video: TowerSize
    audio: TowerSize
    text: TextSize


class Vatt(nn.Module):
    """Video, audio and text to two shared spaces; each modality is patchify -> drop -> encode -> project.

    `sizes` replaces the presets that `params` names.
    """

    def __init__(
        self, params: ModelParams, clip: ClipParams, vocab_size: int, sizes: Sizes | None = None
    ) -> None:
        super().__init__()
        sizes = sizes or Sizes(
            TOWER_SIZES[params.video], TOWER_SIZES[params.audio], TEXT_SIZES[params.text]
        )
        frames, height, width = params.video_patch
        video_grid = (
            clip.num_frames // frames,
            clip.frame_size_px // height,
            clip.frame_size_px // width,
        )
        audio_grid = (clip.num_samples // params.audio_patch,)
        rates = params.dropout_rate, params.drop_token_rate
        self.video = Tower(
            VideoPatches(params.video_patch, sizes.video.width),
            video_grid,
            Encoder(sizes.video, params.dropout_rate),
            *rates,
        )
        self.audio = Tower(
            AudioPatches(params.audio_patch, sizes.audio.width),
            audio_grid,
            Encoder(sizes.audio, params.dropout_rate),
            *rates,
        )
        self.text = TextTower(vocab_size, params.word_width, sizes.text, params.dropout_rate)
        self.text.words.requires_grad_(params.train_word_table)
        va_width, vt_width = params.space_va_width, params.space_vt_width
        self.video_projection = VideoProjection(sizes.video.width, va_width, vt_width)
        # Differs from the paper, as the original does: these two are linear, without BatchNorm.
        self.audio_projection = Dense(sizes.audio.width, va_width)
        self.text_projection = Dense(sizes.text.encoder.width, vt_width)

    def forward(self, batch: Batch) -> Embeddings:
        """Return all clips of a batch in the shared spaces; what is masked is embedded, too."""
        video_va, video_vt = self.project_video(self.encode_video(batch.video))
        text = self.encode_text(batch.text.flatten(0, 1))
        return Embeddings(
            video_va=video_va,
            audio_va=self.project_audio(self.encode_audio(batch.audio)),
            video_vt=video_vt,
            text_vt=self.project_text(text).unflatten(0, batch.text.shape[:2]),
        )

    def encode_video(self, video: Float[Tensor, "B T H W 3"]) -> Float[Tensor, "B D"]:
        """Return the feature (AGG token) of videos in [-1, 1], of any size above one patch."""
        encoded: Tensor = self.video(video)
        return encoded[:, 0]

    def encode_audio(self, audio: Float[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        """Return the feature (AGG token) of 48 kHz waveforms in [-1, 1], of any length above one patch."""
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
