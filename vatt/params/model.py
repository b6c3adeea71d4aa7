"""Parameters of the model, and the size presets of the paper (VATT table 6).

Parameters of the contrastive loss (VATT section 3.4).
"""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from vatt.params.data import Rate
from vatt.params.section import Section


class LossParams(Section):
    """NCE for video-audio and MIL-NCE for video-text (VATT section 3.4)."""

    form: Literal["asymmetric", "symmetric"]
    """Both directions under one denominator, as released, or the sum of one loss each."""
    positives: Literal["twice", "once"]
    """How often they stand in the one denominator: twice as released, once as in the paper (eq. 4, 5).

    The symmetric form has them once in each of its two denominators, whatever this says.
    """
    temperature: float = Field(gt=0)
    weight_va: float = Field(ge=0)
    weight_vt: float = Field(ge=0)
    valid_mean: Literal["global", "replica"]
    """Mean over the valid clips of all ranks (the same at any number of ranks), or, as released, of each."""
    rows_per_chunk: int | None = Field(ge=1)
    """Clips of a rank compared with those of all ranks at once; None: all. Changes memory and time only."""


class TowerSize(Section):
    """Size of one Transformer tower."""

    num_layers: int = Field(ge=1)
    width: int = Field(ge=1)
    mlp_width: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    head_width: int = Field(default=64, ge=1)


TINY = TowerSize(num_layers=3, width=128, mlp_width=256, num_heads=4, head_width=32)
SMALL = TowerSize(num_layers=6, width=512, mlp_width=2048, num_heads=8)
BASE = TowerSize(num_layers=12, width=768, mlp_width=3072, num_heads=12)
MEDIUM = TowerSize(num_layers=12, width=1024, mlp_width=4096, num_heads=16)
LARGE = TowerSize(num_layers=24, width=1024, mlp_width=4096, num_heads=16)
XLARGE = TowerSize(num_layers=24, width=1536, mlp_width=4096, num_heads=24)

SizeName = Literal["tiny", "small", "base", "medium", "large", "xlarge"]
TOWER_SIZES: dict[SizeName, TowerSize] = {
    "tiny": TINY,
    "small": SMALL,
    "base": BASE,
    "medium": MEDIUM,
    "large": LARGE,
    "xlarge": XLARGE,
}
Size = Annotated[
    Annotated[SizeName, Tag("preset")] | Annotated[TowerSize, Tag("numbers")],
    Discriminator(lambda size: "preset" if isinstance(size, str) else "numbers"),
]
"""A preset, or numbers of one's own."""
SpaceKind = Literal["fac", "joint", "mmv_shared", "mmv_disjoint"]
PatchSize = Annotated[int, Field(ge=1)]


class ModelParams(Section):
    """Three towers, or three modalities through one encoder, and the way into the shared spaces."""

    shared_encoder: bool
    """One encoder for all modalities (VATT-MA); video, audio and text then have one size."""
    post_projection_width: int = Field(ge=1)
    """Width of the features behind the shared encoder; 1024 in the paper. Else not used."""
    video: Size
    audio: Size
    text: Size
    video_patch: tuple[PatchSize, PatchSize, PatchSize]
    """Frames x height x width of a video patch; (4, 16, 16) in the paper."""
    audio_input: Literal["waveform", "spectrogram"]
    audio_patch: int = Field(ge=1)
    """Samples of a waveform patch; 128 in the paper."""
    spectrogram_patch: tuple[PatchSize, PatchSize]
    """Frames x mel bands of a spectrogram patch; (16, 5) in the original."""
    text_style: Literal["t5", "bert", "linear"]
    """Relative positions, absolute positions, or no encoder: the largest over the words (MMV).

    A shared encoder knows absolute positions only: "bert".
    """
    text_buckets: int = Field(ge=4)
    """Buckets of the relative positions of "t5"; 32 in the original."""
    text_max_distance: int = Field(ge=2)
    """Words from which on "t5" tells no distances apart; 64 in the original."""
    word_width: int = Field(ge=1)
    """Width of the word table; 300 (word2vec) in the paper."""
    train_word_table: bool
    """False in the paper, whose table comes from word2vec."""
    space_kind: SpaceKind
    """From fine to coarse, or one space for all, or (MMV) one space, or two apart."""
    batch_norm_everywhere: bool
    """BatchNorm after every linear layer of the projections, as the paper says; released: False."""
    space_va_width: int = Field(ge=1)
    """Width of the video-audio space; 512 in the paper."""
    space_vt_width: int = Field(ge=1)
    """Width of the video-text space; 256 in the paper."""
    dropout_rate: Rate
    drop_token_rate: float = Field(ge=0, lt=1)
    """The share of video and audio tokens REMOVED in training; 0.5 in the paper."""
    drop_token_draw: Literal["clip", "batch"]
    """Whether each clip draws its own tokens, or all of a batch the same, as released."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.shared_encoder and not self.video == self.audio == self.text:
            raise ValueError(
                f"shared_encoder: video = {self.video}, audio = {self.audio} and "
                f"text = {self.text} must be the same size"
            )
        if self.shared_encoder and self.text_style != "bert":
            raise ValueError(
                f"shared_encoder: text_style = {self.text_style}: a shared encoder has no relative "
                "positions; bert is accepted"
            )
        if (
            self.space_kind in ("joint", "mmv_shared")
            and self.space_va_width != self.space_vt_width
        ):
            raise ValueError(
                f"space_kind = {self.space_kind} has one space: space_va_width = "
                f"{self.space_va_width} and space_vt_width = {self.space_vt_width} must be equal"
            )
        if self.text_max_distance <= self.text_buckets // 4:
            raise ValueError(
                f"text_max_distance = {self.text_max_distance}: must be above "
                f"text_buckets / 4 = {self.text_buckets // 4}, the distances with a bucket each"
            )
        return self

    @property
    def video_size(self) -> TowerSize:
        """Size of the video encoder."""
        return _look_up(self.video)

    @property
    def audio_size(self) -> TowerSize:
        """Size of the audio encoder."""
        return _look_up(self.audio)

    @property
    def text_size(self) -> TowerSize:
        """Size of the text encoder."""
        return _look_up(self.text)


def _look_up(size: Size) -> TowerSize:
    return size if isinstance(size, TowerSize) else TOWER_SIZES[size]
