"""Parameters of the stage preprocess."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from vatt.params.section import Section


class AsrParams(Section):
    """How the files of sources with `captions: asr` are transcribed."""

    model: str = Field(default="base", min_length=1)
    """A folder with a Whisper model for CTranslate2, or the name of one that faster-whisper knows,
    or OWNER/NAME on the Hugging Face Hub; by name it is fetched once, to .cache/preprocess."""
    language: str | None = Field(default=None, pattern=r"^[a-z]{2,3}$")
    """What is spoken, as Whisper's code; null detects it in the first speech of each file."""
    device: Literal["cpu", "cuda"] = "cpu"
    compute_type: Literal[
        "int8", "int8_float16", "int8_bfloat16", "float16", "bfloat16", "float32"
    ] = "int8"
    """The type of weights and computation; no `auto`, because what is heard depends on it."""


class CutParams(Section):
    """How a file becomes pieces of picture and sound."""

    frame_rate_hz: float = Field(gt=0, le=120)
    short_side_px: int = Field(ge=8, le=2160)
    segment_s: float = Field(gt=0)
    """Length of a segment; the last one of a video may be shorter, down to `min_segment_s`."""
    min_segment_s: float = Field(gt=0)


class PreprocessParams(CutParams):
    """How source videos become training segments."""

    short_side_px: int = Field(ge=16, le=2160)
    key_frame_interval: int = Field(ge=1)
    """The number of frames from one key frame to the next: few, so that a random window decodes
    little."""
    video_crf: int = Field(ge=0, le=51)
    caption_context_s: float = Field(ge=0)
    """Captions up to this far outside a segment are stored with it, as candidates for MIL-NCE."""
    segments_per_shard: int = Field(ge=1)
    vocab_size: int = Field(ge=400)
    """Pieces of the tokenizer at most; 256 of them are bytes, for what it never saw."""
    vocabulary: Path | None
    """A file of words, one a line, in place of a SentencePiece model; the paper's has 65536."""
    time_limit_s: float = Field(gt=0)
    """A file is given up when reading it, or one segment of it, takes longer: its decoder hangs."""
    asr: AsrParams = AsrParams()
