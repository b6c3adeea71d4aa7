"""Parameters of the model, and the size presets of the paper (VATT table 6)."""

from typing import Literal, NamedTuple

from pydantic import Field

from vatt.params.data import Rate
from vatt.params.section import Section


class TowerSize(NamedTuple):
    """Size of one Transformer tower."""

    num_layers: int
    width: int
    mlp_width: int
    num_heads: int
    head_width: int = 64


TINY = TowerSize(num_layers=3, width=128, mlp_width=256, num_heads=4, head_width=32)
SMALL = TowerSize(num_layers=6, width=512, mlp_width=2048, num_heads=8)
BASE = TowerSize(num_layers=12, width=768, mlp_width=3072, num_heads=12)
MEDIUM = TowerSize(num_layers=12, width=1024, mlp_width=4096, num_heads=16)
LARGE = TowerSize(num_layers=24, width=1024, mlp_width=4096, num_heads=16)

TOWER_SIZES = {"tiny": TINY, "small": SMALL, "base": BASE, "medium": MEDIUM, "large": LARGE}


class ModelParams(Section):
    """The modality-specific VATT: three towers and the FAC projection heads."""

    video: Literal["tiny", "base", "medium", "large"]
    audio: Literal["tiny", "base", "medium", "large"]
    text: Literal["tiny", "small"]
    video_patch: tuple[int, int, int]
    """Frames x height x width of a video patch; (4, 16, 16) in the paper."""
    audio_patch: int = Field(ge=1)
    """Samples of an audio patch; 128 in the paper."""
    word_width: int = Field(ge=1)
    """Width of the word table; 300 (word2vec) in the paper."""
    train_word_table: bool
    """False in the paper, whose table comes from word2vec."""
    space_va_width: int = Field(ge=1)
    """Width of the video-audio space; 512 in the paper."""
    space_vt_width: int = Field(ge=1)
    """Width of the video-text space; 256 in the paper."""
    dropout_rate: Rate
    drop_token_rate: float = Field(ge=0, lt=1)
    """The share of video and audio tokens REMOVED in training; 0.5 in the paper."""
