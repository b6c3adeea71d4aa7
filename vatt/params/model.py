"""Parameters of the model, with the size presets of the paper (VATT table 6), and of the loss."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from vatt.params.section import Rate, Section


class LossParams(Section):
    """NCE for video-audio and MIL-NCE for video-text (VATT section 3.4)."""

    form: Literal["asymmetric", "symmetric"]
    """Both directions under one denominator (released code), or the sum of one loss for each."""
    positives: Literal["twice", "once"]
    """How often a positive stands in the one denominator: twice (released code) or once (paper,
    equations 4 and 5). The symmetric form always has it once in each of its two denominators."""
    temperature: float = Field(gt=0)
    weight_va: float = Field(ge=0)
    weight_vt: float = Field(ge=0)
    valid_mean: Literal["global", "replica"]
    """The mean over the valid clips of all ranks, which does not depend on how many ranks there
    are, or (released code) of each rank alone."""
    rows_per_chunk: int | None = Field(ge=1)
    """The clips of a rank that are compared with all others at once, to bound memory; null is
    all."""


class TowerSize(Section):
    """The size of one Transformer tower."""

    num_layers: int = Field(ge=1)
    width: int = Field(ge=1)
    mlp_width: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    head_width: int = Field(default=64, ge=1)


SizeName = Literal["tiny", "small", "base", "medium", "large", "xlarge"]
TOWER_SIZES: dict[SizeName, TowerSize] = {
    "tiny": TowerSize(num_layers=3, width=128, mlp_width=256, num_heads=4, head_width=32),
    "small": TowerSize(num_layers=6, width=512, mlp_width=2048, num_heads=8),
    "base": TowerSize(num_layers=12, width=768, mlp_width=3072, num_heads=12),
    "medium": TowerSize(num_layers=12, width=1024, mlp_width=4096, num_heads=16),
    "large": TowerSize(num_layers=24, width=1024, mlp_width=4096, num_heads=16),
    "xlarge": TowerSize(num_layers=24, width=1536, mlp_width=4096, num_heads=24),
}
Size = Annotated[
    Annotated[SizeName, Tag("preset")] | Annotated[TowerSize, Tag("numbers")],
    Discriminator(lambda size: "preset" if isinstance(size, str) else "numbers"),
]
"""The size of a tower: the name of a preset, or numbers."""
SpaceKind = Literal["fac", "joint", "mmv_shared", "mmv_disjoint"]
PatchSize = Annotated[int, Field(ge=1)]


class ModelParams(Section):
    """Three towers, or three modalities through one encoder, and the way into the shared spaces."""

    shared_encoder: bool
    """One encoder for all modalities (VATT-MA); video, audio and text then have one size."""
    post_projection_width: int = Field(ge=1)
    """The width of the features behind a shared encoder, 1024 in the paper; not used without
    one."""
    video: Size
    audio: Size
    text: Size
    video_patch: tuple[PatchSize, PatchSize, PatchSize]
    """The frames, height and width of a video patch; (4, 16, 16) in the paper."""
    audio_input: Literal["waveform", "spectrogram"]
    audio_patch: int = Field(ge=1)
    """The samples of a waveform patch; 128 in the paper."""
    spectrogram_patch: tuple[PatchSize, PatchSize]
    """The frames and mel bands of a spectrogram patch; (16, 5) in the released code."""
    text_style: Literal["t5", "bert", "linear"]
    """An encoder with relative positions (t5) or absolute ones (bert, which a shared encoder
    needs), or none (linear): each feature is then its largest value over the words, as in MMV."""
    text_buckets: int = Field(ge=4)
    """The number of buckets for the relative positions of t5; 32 in the released code."""
    text_max_distance: int = Field(ge=2)
    """The distance in words from which on t5 has one bucket for all; 64 in the released code."""
    word_width: int = Field(ge=1)
    """The width of the word table; 300 (word2vec) in the paper."""
    train_word_table: bool
    """Whether the word table is trained; the paper's comes from word2vec and is not."""
    space_kind: SpaceKind
    """Spaces from fine to coarse, one for all, or those of MMV: one shared, or two apart."""
    batch_norm_everywhere: bool
    """Whether BatchNorm follows every linear layer of the heads: true in the paper, false as
    released."""
    space_va_width: int = Field(ge=1)
    """The width of the video-audio space; 512 in the paper."""
    space_vt_width: int = Field(ge=1)
    """The width of the video-text space; 256 in the paper."""
    dropout_rate: Rate
    drop_token_rate: float = Field(ge=0, lt=1)
    """The share of video and audio tokens REMOVED in training; 0.5 in the paper."""
    drop_token_draw: Literal["clip", "batch"]
    """Whether each clip draws its own tokens, or the whole batch the same (released code)."""

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        sizes = f"video = {self.video}, audio = {self.audio} and text = {self.text}"
        if self.shared_encoder and not self.video == self.audio == self.text:
            raise ValueError(f"shared_encoder: {sizes} must be the same size")
        if self.shared_encoder and self.text_style != "bert":
            raise ValueError(
                f"shared_encoder: text_style = {self.text_style}: a shared encoder has no relative "
                "positions: bert is accepted"
            )
        has_one_space = self.space_kind in ("joint", "mmv_shared")
        if has_one_space and self.space_va_width != self.space_vt_width:
            raise ValueError(
                f"space_kind = {self.space_kind} has one space: space_va_width = "
                f"{self.space_va_width} and space_vt_width = {self.space_vt_width} must be equal"
            )
        if self.text_style == "t5" and self.text_max_distance <= self.text_buckets // 4:
            raise ValueError(
                f"text_max_distance = {self.text_max_distance}: must be above "
                f"text_buckets / 4 = {self.text_buckets // 4}, the distances with a bucket each"
            )
        return self

    @property
    def video_size(self) -> TowerSize:
        """The size of the video encoder."""
        return _look_up(self.video)

    @property
    def audio_size(self) -> TowerSize:
        """The size of the audio encoder."""
        return _look_up(self.audio)

    @property
    def text_size(self) -> TowerSize:
        """The size of the text encoder."""
        return _look_up(self.text)


def _look_up(size: Size) -> TowerSize:
    return size if isinstance(size, TowerSize) else TOWER_SIZES[size]
