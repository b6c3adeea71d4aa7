"""A segment: what the index says of one piece of a source file."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """One row of the index. Offsets and sizes are bytes of the shard; size 0: there is no such member.

    NaN stands for what does not exist, such as the length of the sound of a silent film.
    """

    key: str
    """Unique, of [0-9a-z_]: a hash of the source and the video id, and the segment's number."""
    source: str
    video_id: str
    split: str
    start_s: float
    end_s: float
    """Times in the source file, which begins at 0."""
    has_video: bool
    has_audio: bool
    num_captions: int
    """Captions that overlap the segment."""
    num_frames: int
    frame_rate_hz: float
    width_px: int
    height_px: int
    num_samples: int
    video_duration_s: float
    audio_duration_s: float
    """How much of the segment the picture and the sound of the source cover."""
    start_offset_s: float
    """Where the sound starts in the source file minus where the picture does."""
    caption_words_per_second: float
    silent_rate: float
    """Share of windows of 20 ms below -60 dBFS."""
    clipped_rate: float
    """Share of samples from 99 % of full scale on."""
    black_rate: float
    """Share of frames whose mean luma is below 16 of 255."""
    frozen_rate: float
    """Share of frames that equal the one before within noise."""
    picture_hashes: str
    """Perceptual hashes of the frames at the whole seconds of the file, 16 hexadecimal digits each."""
    labels: str
    """JSON: task to the list of its labels, those that overlap the segment most first."""
    descriptions: str
    """JSON: list of annotated descriptions, in the same order: queries of the evaluation."""
    speech_rate: float = math.nan
    """Share of the sound in which somebody speaks."""
    caption_offset_s: float = math.nan
    """How much later than the speech the captions of the file are; see `caption_timing`."""
    caption_score: float = math.nan
    """How surely: 0, no better than captions of another video, to 1; NaN where nothing can tell."""
    sound_hashes: str = ""
    """As `picture_hashes`, of the sound from each of these seconds on."""
    num_context_captions: int = 0
    """Captions stored with it: those up to caption_context_s away, too."""
    captions_outside: int = 0
    """Captions of the source that start beyond the end of the file."""
    source_digest: str = ""
    """BLAKE2b of the source file, hexadecimal."""
    digest: str = ""
    """BLAKE2b of the stored picture, sound and captions, hexadecimal."""
    problem: str | None = None
    """What of the source file or of its captions could not be read."""
    shard: str = ""
    """File name below shards/."""
    video_offset: int = 0
    video_bytes: int = 0
    audio_offset: int = 0
    audio_bytes: int = 0
    meta_offset: int = 0
    meta_bytes: int = 0
