"""Parameters of run, preprocess, validate, the training clip and its random changes."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from vatt.params.section import Section

AUDIO_RATE_HZ = 48_000
"""Sample rate of all stored and model audio (VATT section 4.1)."""
SPECTROGRAM_HOP = 1024
"""The number of samples between two frames of a spectrogram."""
SPECTROGRAM_BANDS = 80
"""The number of mel bands of a spectrogram."""

Rate = Annotated[float, Field(ge=0.0, le=1.0)]


class RunParams(Section):
    """What all stages share."""

    seed: int = Field(ge=0)
    """Seed of everything random: the demo corpus, weights, sampling, augmentation."""


class PreprocessParams(Section):
    """How source videos become training segments."""

    frame_rate_hz: float = Field(gt=0, le=120)
    short_side_px: int = Field(ge=16, le=2160)
    segment_s: float = Field(gt=0)
    """Length of a segment; the last one of a video may be shorter, down to `min_segment_s`."""
    min_segment_s: float = Field(gt=0)
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


class ValidateParams(Section):
    """Thresholds of the Great Expectations suite."""

    min_segments: int = Field(ge=1)
    min_segments_per_split: int = Field(ge=0)
    max_duration_gap_s: float = Field(ge=0)
    max_start_offset_s: float = Field(ge=0)
    max_words_per_second: float = Field(gt=0)
    max_silent_rate: Rate
    max_clipped_rate: Rate
    max_black_rate: Rate
    max_frozen_rate: Rate
    max_caption_offset_s: float = Field(ge=0)
    """The largest shift of captions against speech, judged where `min_caption_score` is reached."""
    min_caption_score: Rate
    """At 0, captions fit the speech no better than those of another video; at 1 they are the
    same."""
    max_unspoken_rate: Rate
    """The share of videos with captions and sound in which hardly anybody speaks."""
    max_duplicate_rate: Rate
    """The share of videos that look or sound like one of a split before their own: test,
    validation, train."""
    max_quarantined_rate: Rate
    """The share of the inputs that were there; missing items of an official list do not count."""
    mostly_warning: Rate
    """A limit that holds in a smaller share of the segments than this is a warning."""
    mostly_critical: Rate
    """A limit that holds in a smaller share of the segments than this stops the pipeline."""


class AugmentParams(Section):
    """Random changes of training clips (VATT section 4.2)."""

    crop: Literal["vgg", "inception"]
    """`vgg` (released code) scales to the short side and cuts a square out; `inception` (paper)
    takes a box of 0.08 to 1 of the area with proportions of 0.5 to 2 and squeezes it to a
    square."""
    scale_jitter_rate: Rate
    """How often height and width are scaled by independent factors of 0.8 to 1.2, before the vgg
    crop only; 0.8 as released."""
    flip_rate: Rate
    """How often left and right are swapped; 0.5 in the paper."""
    colour_jitter_rate: Rate
    """How often brightness, saturation, contrast and hue are changed; 0.8 in the paper."""
    audio_noise: float = Field(ge=0)
    """Standard deviation of the noise added, relative to the loudest sample; 0.01 in the paper."""


class ClipParams(Section):
    """The clip that the model sees."""

    num_frames: int = Field(ge=1)
    frame_size_px: int = Field(ge=8)
    num_samples: int = Field(ge=1)
    """The number of audio samples at 48 kHz."""
    num_tokens: int = Field(ge=1)
    """Word pieces of one caption; longer captions are cut, shorter ones padded with id 0."""
    num_candidates: int = Field(ge=1)
    """Captions of a clip that MIL-NCE may choose from (VATT section 3.4: five nearest in time)."""
    augment: AugmentParams = AugmentParams(
        crop="vgg", scale_jitter_rate=0.8, flip_rate=0.5, colour_jitter_rate=0.8, audio_noise=0.01
    )
    """The random changes of clips, made in training only."""
